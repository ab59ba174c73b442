"""A soup for people: a self-contained page, and a table for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.evaluation.wording import label
from stockpot.files import write_text
from stockpot.report import svg
from stockpot.report.environment import make_environment
from stockpot.report.numbers import count, duration, score, signed, typographic
from stockpot.report.page import embedded
from stockpot.soups.schema import SoupResults, SoupRow, SoupWatched
from stockpot.soups.words import headline, sentences

_WIDTH, _HEIGHT, _LEFT = 760.0, 260.0, 60.0
_CELL, _NAMES = 46.0, 190.0
_DEEPEST = 0.45  # opacity of a cell: ink can be read on it, on light and on dark pages
_DATA_HERE = "data-of-the-page-go-here"
_LIMIT = 280_000


def write_soup(results: SoupResults | Mapping[str, Any], path: str | Path) -> Path:
    """Write ``results`` (of ``stockpot.soup``) as one HTML page; returns its path.

    The page makes no request and reads without scripts. Raises ``OutputError``.
    """
    write_text(Path(path), render(SoupResults.read(results)))
    return Path(path)


def render(results: SoupResults) -> str:
    """The page as text; the same for the same results."""
    from markupsafe import Markup

    metric = results.evaluator.metric
    environment = make_environment(
        score=lambda value: score(value, metric),
        signed=lambda value: signed(value, metric),
        score_by=score,
        signed_by=signed,
        count=count,
        duration=duration,
        typographic=typographic,
    )
    page = environment.get_template("soup.html.j2").render(
        results=results,
        headline=headline(results),
        sentences=[typographic(line) for line in sentences(results)],
        rows=_ordered(results),
        watched=watched(results),
        metric=label(metric),
        uniform=results.row("uniform"),
        trace=Markup(trace_figure(results)),
        heat=Markup(heat_figure(results)),
        heat_width=round(_heat_width(results)),
        data=_DATA_HERE,
    )
    return page.replace(_DATA_HERE, embedded(results.to_json(), max(_LIMIT - len(page), 40_000)), 1)


def terminal_soup(results: SoupResults) -> str:
    """Plain text of at most 80 columns."""
    metric = results.evaluator.metric
    lines = [*textwrap.wrap(headline(results), 80), ""]
    lines.append(f"{'':44}{'chose':>10}{'judged':>10}  level")
    for row in _ordered(results):
        mark = "*" if row.name == results.kept.name else " "
        chosen = score(row.choose, metric) + ("" if row.complete else "~")
        known = score(row.judge, metric)
        level = "  yes" if row.level else ""
        lines += _row(mark, row.label, f"{chosen:>10}{known:>10}{level}")
    for control in results.controls:
        values = (score(value, metric) for value in (control.choose, control.judge))
        lines += _row(" ", f"control: {control.label}", "".join(f"{one:>10}" for one in values))
    for place, one in enumerate(watched(results)):
        lines += ["", *textwrap.wrap(f"{one.label}, and against {one.against}:", 80)]
        for row in _ordered(results):
            if row.watched:
                lines += _watched(row, place)
    lines.append("")
    for sentence in sentences(results):
        lines += textwrap.wrap(sentence, 80, subsequent_indent="  ")
    cost = results.cost
    lines.append(
        f"{cost.evaluations:.1f} evaluations, {duration(cost.seconds)}; {cost.run} run this time"
    )
    return "\n".join(lines)


def trace_figure(results: SoupResults) -> str:
    """Every evaluation as a point, and the best so far as a line."""
    metric = results.evaluator.metric
    # What the controls spent is not of the budget.
    steps = [one for one in results.trace if one.score is not None and one.stage != "control"]
    if len(steps) < 2:
        return ""
    known = sorted(step.score for step in steps if step.score is not None)
    low, high = known[len(known) // 20], known[-1]
    low, high = svg.padded(low, high, abs(high) * 1e-3 + 1e-9)
    across = svg.Scale(0.0, max(step.spent for step in steps), _LEFT, _WIDTH - 12)
    up = svg.Scale(low, high, _HEIGHT - 34, 12.0)
    parts = []
    for tick in up.ticks(5):
        parts.append(svg.line(_LEFT, up(tick), _WIDTH - 12, up(tick), class_="grid"))
        words = score(tick, metric)
        parts.append(svg.text(_LEFT - 6, up(tick) + 4, words, class_="tick", text_anchor="end"))
    for tick in across.ticks(8):
        parts.append(
            svg.text(across(tick), _HEIGHT - 16, f"{tick:g}", class_="tick", text_anchor="middle")
        )
    stages = list(dict.fromkeys(step.stage for step in steps))
    for step in steps:
        assert step.score is not None
        told = svg.tooltip(f"{step.label}: {score(step.score, metric)}")
        colour = f"c{stages.index(step.stage) % 6 + 1}"
        shape = "circle" if step.complete else "ring"
        y = up(max(step.score, low))
        parts.append(svg.group(svg.marker(shape, across(step.spent), y, 3.2, told), class_=colour))
    line = [(across(s.spent), up(max(s.best, low))) for s in steps if s.best is not None]
    parts.append(svg.group(svg.polyline(line, class_="curve"), class_="c0"))
    return svg.figure(
        "trace",
        _WIDTH,
        _HEIGHT,
        "Every evaluation in order",
        f"{len(steps)} evaluations; the best score rises to {score(known[-1], metric)}.",
        *parts,
    )


def heat_figure(results: SoupResults) -> str:
    """The coefficients of the kept model: a row for each ingredient, a column a layer group."""
    rows, groups = results.ingredients, results.groups
    largest = max((abs(value) for one in rows for value in one.shares), default=0.0) or 1.0
    width = _heat_width(results)
    height = 24.0 * len(rows) + 40
    parts = []
    for y, one in enumerate(rows):
        top = 24.0 * y + 4
        name = svg.shortened(one.name, 12, _NAMES - 12)
        parts.append(svg.text(_NAMES - 8, top + 15, name, class_="tick", text_anchor="end"))
        for x, value in enumerate(one.shares):
            left = _NAMES + _CELL * x
            told = svg.tooltip(f"{one.name}, {groups[x]}: {value:.3f}")
            colour = "var(--c2)" if value >= 0 else "var(--c1)"
            parts.append(
                svg.element(
                    "rect",
                    told,
                    x=left,
                    y=top,
                    width=_CELL - 2,
                    height=22.0,
                    fill=colour,
                    fill_opacity=f"{abs(value) / largest * _DEEPEST:.2f}",
                )
            )
            words = typographic(f"{value:.2f}")
            parts.append(svg.text(left + _CELL / 2 - 1, top + 15, words, text_anchor="middle"))
    ends = [(0, "first layers", "start"), (len(groups), "last layers", "end")]
    for place, words, anchor in ends if len(groups) > 1 else []:
        left = _NAMES + _CELL * place
        parts.append(svg.text(left, height - 14, words, class_="tick", text_anchor=anchor))
    return svg.figure(
        "heat",
        width,
        height,
        "Coefficients of the kept model",
        f"{len(rows)} models by {len(groups)} layer groups; the largest is {largest:.2f}.",
        *parts,
    )


def _heat_width(results: SoupResults) -> float:
    return _NAMES + _CELL * len(results.groups) + 10


def watched(results: SoupResults) -> tuple[SoupWatched, ...]:
    """What every candidate was scored by besides: one candidate's."""
    return next((row.watched for row in results.candidates if row.watched), ())


def _row(mark: str, name: str, numbers: str) -> list[str]:
    """A row of a table: its name in as many lines as it needs, the numbers in the last one."""
    *first, last = textwrap.wrap(name, 42, subsequent_indent="  ")
    lines = [*first, f"{last:42}{numbers}"]
    return [f"{mark if place == 0 else ' '} {line}" for place, line in enumerate(lines)]


def _watched(row: SoupRow, place: int) -> list[str]:
    one = row.watched[place]
    numbers = f"{score(one.score, one.metric):>10}"
    if one.change is not None:
        margin = score(one.change.margin, one.metric)
        numbers += f"{signed(one.change.mean, one.metric):>10} ± {margin}"
    return _row(" ", row.label, numbers)


def _ordered(results: SoupResults) -> list[SoupRow]:
    """Candidates, best first; those that failed last."""
    return sorted(
        results.candidates, key=lambda row: float("inf") if row.choose is None else -row.choose
    )
