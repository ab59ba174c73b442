"""How well a history predicts: as Markdown, for a terminal, and the reliability of P(best)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from stockpot.files import write_text
from stockpot.ranking.evaluated import Bin, Calibration, RankingEvaluation
from stockpot.report import svg

_SIZE, _LEFT, _TOP = 260.0, 46.0, 26.0
_FLOOR = 1e-3
# The drawing stands alone in documents, so it brings its own colours.
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#555}.grid{stroke:#8884;stroke-width:1}"
    ".ideal{stroke:#888;stroke-dasharray:4 3}.point{fill:#1f6feb;fill-opacity:.75}"
    ".bar{stroke:#1f6feb;stroke-width:1.5}"
)


def heading() -> list[str]:
    """Column names of :func:`rows`."""
    return ["anchors", "method", "tau", "95 %", "against mean rank", "regret", "of 5", "rel@5"]


def rows(result: RankingEvaluation, *, digits: int = 3) -> list[list[str]]:
    """One row per number of anchors and method."""
    found = []
    for row in result.rows:
        tau, gap = row.tau, row.difference
        rel5 = row.rel5
        found.append(
            [
                str(row.anchors),
                row.method,
                f"{tau.mean:.{digits}f}",
                f"{tau.low:.{digits}f}..{tau.high:.{digits}f}",
                f"{gap.mean:+.3f} ({gap.low:+.3f}..{gap.high:+.3f})" if gap else "",
                f"{row.regret.mean:.2f}",
                f"{row.regret5.mean:.2f}",
                "" if rel5 is None else f"{rel5:.3f}",
            ]
        )
    return found


def notes(result: RankingEvaluation) -> list[str]:
    """Coverage of intervals, and what facts alone say of a model left out, one line each."""
    found = []
    for each in result.calibration:
        metric = each.metrics
        words = "" if metric is None else f", of metrics {metric:.1%}"
        found.append(
            f"{each.anchors} anchors: 90 % intervals of ranks hold the truth in "
            f"{each.ranks:.1%} of cases{words}"
        )
    left = result.model_left_out
    if left is not None:
        size = "" if left.parameters is None else f" (parameters {left.parameters:.3f})"
        found.append(
            f"one model left out, {left.models} models: tau {left.tau:.3f} from facts "
            f"alone{size}; {left.reason}"
        )
    return found


def markdown(
    result: RankingEvaluation, title: str, *, picture: str | None = None, level: int = 2
) -> str:
    """One section: table, notes, and the link to a picture of reliability if there is one."""
    lines = [f"{'#' * level} {title}", ""]
    lines.append(
        f"{result.models:,} models, {len(result.tasks)} tasks left out one at a time, "
        f"{result.repeats} draws of anchors."
    )
    lines += ["", _row(heading()), _row(["---:", "---", *["---:"] * 6])]
    lines += [_row(row) for row in rows(result)]
    lines.append("")
    lines += [f"- {note}" for note in notes(result)]
    if picture is not None:
        lines += ["", f"![Reliability of P(best), {title}]({picture})"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reliability(panels: Sequence[Calibration], title: str) -> str:
    """P(best) as predicted against how often it came true, one panel per number of anchors.

    Both axes are logarithmic; bars are 90 % intervals of the share (Jeffreys), area is the number
    of predictions.
    """
    content = [svg.element("style", _STYLE)]
    for index, each in enumerate(panels):
        content.append(_panel(each, _LEFT + index * (_SIZE + 40.0)))
    width = _LEFT + len(panels) * (_SIZE + 40.0)
    drawing = svg.figure(
        "reliability",
        width,
        _TOP + _SIZE + 44.0,
        f"Reliability of P(best): {title}",
        "Predicted probability of being the best model against how often it came true.",
        *content,
    )
    return drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def _panel(calibration: Calibration, left: float) -> str:
    across = svg.Scale(math.log10(_FLOOR), 0.0, left, left + _SIZE)
    up = svg.Scale(math.log10(_FLOOR), 0.0, _TOP + _SIZE, _TOP)
    parts = [
        svg.text(left, 14, f"{calibration.anchors} anchors"),
        svg.line(across(-3), up(-3), across(0), up(0), class_="ideal"),
    ]
    for power in (-3, -2, -1, 0):
        label = f"{10.0**power:g}"
        parts.append(svg.line(left, up(power), left + _SIZE, up(power), class_="grid"))
        parts.append(svg.line(across(power), _TOP, across(power), _TOP + _SIZE, class_="grid"))
        parts.append(svg.text(left - 6, up(power) + 4, label, text_anchor="end"))
        parts.append(svg.text(across(power), _TOP + _SIZE + 16, label, text_anchor="middle"))
    parts.append(
        svg.text(left + _SIZE / 2, _TOP + _SIZE + 34, "P(best) predicted", text_anchor="middle")
    )
    for each in calibration.best:
        if each.predicted >= _FLOOR:
            parts += _point(each, across, up)
    return svg.group(*parts)


def _point(each: Bin, across: svg.Scale, up: svg.Scale) -> list[str]:
    from scipy.stats import beta

    hits = each.observed * each.count
    low, high = beta.ppf([0.05, 0.95], hits + 0.5, each.count - hits + 0.5)

    def place(share: float) -> float:
        return up(math.log10(min(max(share, _FLOOR), 1.0)))

    x = across(math.log10(each.predicted))
    radius = 2.0 + math.log10(each.count)
    words = f"predicted {each.predicted:.3f}, came true {each.observed:.3f} of {each.count}"
    return [
        svg.line(x, place(float(low)), x, place(float(high)), class_="bar"),
        svg.element(
            "circle", svg.tooltip(words), cx=x, cy=place(each.observed), r=radius, class_="point"
        ),
    ]


def write_reliability(panels: Sequence[Calibration], title: str, path: Path) -> Path:
    """Write :func:`reliability` to ``path``; ``OutputError`` when it cannot be written."""
    write_text(path, reliability(panels, title))
    return path
