"""Linear mode connectivity: accuracy along the straight line between two sets of weights."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.evaluation.wording import declared, label
from stockpot.recycling.schema import Curve, RecycleResults
from stockpot.report import svg
from stockpot.report.judged import judged
from stockpot.report.numbers import percent, score, tick

KINDS = {
    "same init": "k-same",
    "different init": "k-different",
    "base to average": "k-base",
    "base to best run": "k-frontier",
}
SPLITS = {"ood": "held-out domain", "id": "training domains’ validation"}
_WIDTH, _HEIGHT = 262.0, 184.0


def panels(results: RecycleResults) -> list[tuple[str, list[str]]]:
    """Rows of small figures: a heading and one figure per held-out domain for each split.

    With a single domain the two splits stand side by side in one row without a heading.
    """
    domains: dict[str, list[Curve]] = {}
    for cell in results.cells:
        if cell.connectivity:
            domains.setdefault(str(cell.held_out), []).extend(cell.connectivity)
    metric = results.task.metric
    split_names = {"ood": next(iter(domains), ""), "id": "validation"}
    rows = []
    for split, words in (SPLITS | {"ood": judged(results).rows}).items():
        figures = [
            _panel(
                f"curve-{split}-{index}",
                name if len(domains) > 1 else split_names[split],
                known,
                (split, words),
                metric,
            )
            for index, (name, curves) in enumerate(domains.items())
            if (known := [curve for curve in curves if _values(curve, split)])
        ]
        if figures:
            rows.append((f"On the {words}", figures))
    if len(domains) == 1:
        return [("", [figure for _, figures in rows for figure in figures])]
    return rows


@dataclass
class Barriers:
    """The largest barriers between pairs of a kind; ``css``: the class of its lines."""

    kind: str
    css: str
    pairs: int = 0
    id: float = 0.0
    ood: float = 0.0


def kinds(results: RecycleResults) -> list[Barriers]:
    """Largest barrier per kind of pair: for the legend and the text."""
    known: dict[str, Barriers] = {}
    for cell in results.cells:
        for curve in cell.connectivity:
            row = known.setdefault(curve.kind, Barriers(curve.kind, KINDS[curve.kind]))
            row.pairs += 1
            row.id = max(row.id, curve.barrier_id or 0.0)
            row.ood = max(row.ood, curve.barrier_ood or 0.0)
    return [known[kind] for kind in KINDS if kind in known]


def _values(curve: Curve, split: str) -> tuple[float, ...]:
    return curve.ood if split == "ood" else curve.id


def _barrier(curve: Curve, split: str) -> float:
    return (curve.barrier_ood if split == "ood" else curve.barrier_id) or 0.0


def _panel(ident: str, name: str, curves: list[Curve], rows: tuple[str, str], metric: str) -> str:
    split, on = rows
    values = [value for curve in curves for value in _values(curve, split)]
    low, high = svg.padded(min(values), max(values), 0.04)
    left, top, bottom = 38.0, 30.0, _HEIGHT - 24.0
    across, up = svg.Scale(0, 1, left, _WIDTH - 8), svg.Scale(low, high, bottom, top)
    worst = max(curves, key=lambda curve: _barrier(curve, split))
    height = _barrier(worst, split)
    unit = " points" if declared(metric).percent else ""
    note = f"barrier {score(height, metric)}{unit}"
    room = _WIDTH - 18 - svg.text_width(note, 11.5)
    parts = [
        svg.text(0, 14, svg.shortened(name, 13.5, room), class_="panel-title"),
        svg.text(_WIDTH - 8, 14, note, class_="note", text_anchor="end"),
    ]
    for where in up.ticks(4):
        y, number = up(where), tick(where, metric)
        parts.append(svg.line(left, y, _WIDTH - 8, y, class_="grid"))
        parts.append(svg.text(left - 6, y + 4, number, class_="tick", text_anchor="end"))
    for where, words, anchor in ((0, "one model", "start"), (1, "the other", "end")):
        parts.append(svg.text(across(where), _HEIGHT - 8, words, class_="tick", text_anchor=anchor))
    parts.append(svg.text(across(0.5), _HEIGHT - 8, "halfway", class_="tick", text_anchor="middle"))
    for curve in sorted(curves, key=lambda each: -list(KINDS).index(each.kind)):
        points = [
            (across(x), up(y)) for x, y in zip(curve.lambdas, _values(curve, split), strict=True)
        ]
        words = svg.tooltip(f"{curve.a} to {curve.b}, {curve.kind}")
        parts.append(svg.group(words, svg.polyline(points), class_=f"curve {KINDS[curve.kind]}"))
    if height > 0.02:
        parts.append(_mark(worst, split, across, up))
    return svg.figure(
        ident,
        _WIDTH,
        _HEIGHT,
        f"Connectivity, {name}, {on}",
        f"{len(curves)} lines between two models; {label(metric)} from "
        f"{score(min(values), metric)} to "
        f"{score(max(values), metric)}{percent(metric)}; largest barrier "
        f"{score(height, metric)}{unit} ({worst.kind}).",
        *parts,
    )


def _mark(curve: Curve, split: str, across: svg.Scale, up: svg.Scale) -> str:
    """The barrier as a line from the straight connection of the ends down to the curve."""
    values = _values(curve, split)
    straight = [values[0] + (values[-1] - values[0]) * x for x in curve.lambdas]
    index = max(range(len(values)), key=lambda i: straight[i] - values[i])
    x = across(curve.lambdas[index])
    return svg.group(
        svg.line(across(0), up(values[0]), across(1), up(values[-1]), class_="chord"),
        svg.line(x, up(straight[index]), x, up(values[index]), class_="barrier"),
        svg.marker("triangle", x, up(straight[index]) + 5, 3.4, class_="barrier-end"),
    )
