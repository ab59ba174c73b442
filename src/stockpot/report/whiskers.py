"""Accuracy per method with intervals: one dot and whisker a row, one panel a domain."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from stockpot.evaluation.intervals import Interval
from stockpot.evaluation.wording import declared
from stockpot.recycling.schema import RecycleResults, RowGap, TableRow
from stockpot.report import svg
from stockpot.report.judged import judged
from stockpot.report.numbers import MINUS, axis_title, score, signed, spread, tick

GROUPS = {
    "reference": ("Reference", "square"),
    "single": ("One model", "circle"),
    "average": ("Averages of weights", "diamond"),
    "oracle": ("Oracle, not a method", "ring"),
}
DIFFERENCE = "difference to the baseline"
Cell = TableRow | RowGap | Interval
_ROW, _GAP, _HEAD = 23.0, 25.0, 46.0
_MOST_DOMAINS = 8


def grouped(table: Sequence[TableRow]) -> list[tuple[str, list[TableRow]]]:
    """Rows by group in the order of ``GROUPS``, each group from low to high accuracy."""
    return [
        (name, sorted((row for row in table if row.group == name), key=lambda r: r.mean))
        for name in GROUPS
        if any(row.group == name for row in table)
    ]


def wide(results: RecycleResults, width: float = 1108) -> str:
    """Panels side by side: the mean, its difference to the baseline, then every held-out domain."""
    table, metric = results.table, results.task.metric
    domains = list(table[0].domains)
    panels: list[tuple[str | None, float]] = [(None, 1.3)]
    if baseline(table):
        panels.append((DIFFERENCE, 1.5))
    if 1 < len(domains) <= _MOST_DOMAINS:
        panels += [(domain, 1.0) for domain in domains]
    labels = min(max(svg.text_width(row.label, 13) for row in table) + 14, 250)
    numbers = 46.0
    share = (width - labels - numbers) / sum(weight for _, weight in panels)
    rows, height = _rows(table)
    parts = [svg.bands([y - _ROW / 2 for y, _ in rows[::2]], width, _ROW)]
    parts += _names(table, labels)
    left = labels
    for panel, weight in panels:
        room = share * weight
        parts.append(_panel(results, panel, rows, left + 10, left + room - 10, height))
        left += room
        if panel is None:
            for y, row in rows:
                words, end = score(row.mean, metric), left + numbers - 10
                parts.append(svg.text(end, y + 4, words, class_="value", text_anchor="end"))
            left += numbers
    named = ("whiskers-wide", width, height + 20, _title(metric), _description(results))
    return svg.figure(*named, *parts, css="wide")


def narrow(results: RecycleResults, width: float = 360) -> tuple[str, list[str]]:
    """For a phone: one panel with labels above whiskers, and further panels of the same kind.

    The first is the difference to the baseline where there is one; the mean and the domains follow.
    """
    table = results.table
    panels: list[str | None] = [None]
    if baseline(table):
        panels.insert(0, DIFFERENCE)
    if len(table[0].domains) > 1:
        panels += list(table[0].domains)
    drawn = [_narrow(results, panel, f"whiskers-{i}", width) for i, panel in enumerate(panels)]
    return drawn[0], drawn[1:]


def _narrow(results: RecycleResults, panel: str | None, ident: str, width: float) -> str:
    table, metric = results.table, results.task.metric
    rows: list[tuple[float, TableRow]] = []
    labels, y = [], 32.0
    for group, members in grouped(table):
        y += 10
        for row in members:
            cell = _cell(row, panel)
            write = signed if panel == DIFFERENCE else score
            value = write(cell.mean, metric) if cell else ""
            name = svg.shortened(row.label, 13, width - 50)
            labels.append(svg.text(0, y, name, class_=f"label halo g-{group}"))
            labels.append(svg.text(width, y, value, class_="value halo", text_anchor="end"))
            rows.append((y + 12, row))
            y += 36
    drawn = _panel(results, panel, rows, 8, width - 8, y - 4, hints=False)
    title = f"{_title(metric)}: {_heading(table, panel)}"
    named = (ident, width, y + 16, title, "The numbers are in the table below.")
    return svg.figure(*named, drawn, *labels, css="narrow")


def _rows(table: Sequence[TableRow]) -> tuple[list[tuple[float, TableRow]], float]:
    rows: list[tuple[float, TableRow]] = []
    y = _HEAD
    for _, members in grouped(table):
        y += _GAP
        for row in members:
            rows.append((y, row))
            y += _ROW
    return rows, y - _ROW / 2 + 4


def _names(table: Sequence[TableRow], room: float) -> list[str]:
    parts, y = [], _HEAD
    for name, members in grouped(table):
        words, shape = GROUPS[name]
        parts.append(
            svg.group(
                svg.marker(shape, 6, y + 2, 4.2),
                svg.text(16, y + 6, words, class_="group"),
                class_=f"g-{name}",
            )
        )
        y += _GAP
        for row in members:
            label = svg.shortened(row.label, 13, room - 8)
            parts.append(svg.text(0, y + 4, label, class_="label"))
            y += _ROW
    return parts


def _panel(
    results: RecycleResults,
    panel: str | None,
    rows: list[tuple[float, TableRow]],
    left: float,
    right: float,
    bottom: float,
    *,
    hints: bool = True,
) -> str:
    table, metric = results.table, results.task.metric
    low, high = _range([cell for row in table if (cell := _cell(row, panel))], metric)
    scale = svg.Scale(low, high, left, right)
    top = rows[0][0] - _ROW
    title = svg.shortened(_heading(table, panel), 13.5, right - left + 14)
    parts = [svg.text(left, 14, title, class_="panel-title")]
    apart = 26 if declared(metric).percent else 45
    for where in scale.ticks(min(6, max(2, int((right - left) / apart)))):
        x, words = scale(where), tick(where, metric, sign=panel == DIFFERENCE)
        parts.append(svg.line(x, top, x, bottom, class_="grid"))
        parts.append(
            svg.text(x, bottom + 14, words.replace("-", MINUS), class_="tick", text_anchor="middle")
        )
    reference = baseline(table)
    if reference is not None:
        x = scale(0.0 if panel == DIFFERENCE else (_cell(reference, panel) or reference).mean)
        parts.append(svg.line(x, top, x, bottom, class_="baseline"))
    for y, row in rows:
        cell = _cell(row, panel)
        if cell is not None:
            parts.append(_whisker(row, cell, y, scale, metric, title if hints else ""))
        elif row is reference:
            x = scale(0.0)
            shown = svg.text(x + 8, y + 4, "the baseline", class_="tick")
            parts.append(shown)
    return svg.group(*parts)


def _heading(table: Sequence[TableRow], panel: str | None) -> str:
    reference = baseline(table)
    if panel == DIFFERENCE and reference is not None:
        return "Difference"
    if panel is not None:
        return panel
    domains = list(table[0].domains)
    return "Mean" if len(domains) > 1 else f"Held out: {domains[0]}"


def _whisker(row: TableRow, cell: Cell, y: float, scale: svg.Scale, metric: str, where: str) -> str:
    shape = GROUPS[row.group][1]
    shown = (signed if isinstance(cell, RowGap) else score)(cell.mean, metric)
    interval = spread(cell.low, cell.high, metric)
    words = svg.tooltip(f"{row.label}, {where}: {shown} ({interval})") if where else ""
    if cell.mean < scale.low:
        return svg.group(
            words,
            svg.marker("left", scale.start + 4, y, 4),
            svg.text(scale.start + 13, y + 4, shown, class_="tick halo"),
            class_=f"g-{row.group}",
        )
    start, end = scale(max(cell.low, scale.low)), scale(min(cell.high, scale.high))
    return svg.group(
        words,
        svg.line(start, y, end, y, class_="whisker"),
        svg.marker(shape, scale(cell.mean), y, 4.6),
        class_=f"g-{row.group}",
    )


def _range(cells: Sequence[Cell], metric: str = "accuracy") -> tuple[float, float]:
    """Limits of the axis; a row far below the rest is drawn at the edge instead of squeezing it."""
    means = [cell.mean for cell in cells]
    middle = median(means)
    usual = median(abs(mean - middle) for mean in means)
    # Errors in the label's units have no scale of their own.
    scale = 1.0 if declared(metric).decimals is not None else max(map(abs, means))
    fence = middle - max(6 * usual, 0.03 * scale)
    shown = [cell for cell in cells if cell.mean >= fence]
    # Whiskers of few trials are long; they are cut off rather than squeeze the others.
    width = median(cell.high - cell.low for cell in shown)
    room = 4 * max(usual, width, 0.01 * scale)
    means = [cell.mean for cell in shown]
    low = max(min(cell.low for cell in shown), min(means) - room)
    high = min(max(cell.high for cell in shown), max(means) + room)
    return svg.padded(low, high, 0.02 * scale)


def baseline(table: Sequence[TableRow]) -> TableRow | None:
    """The row that the others' differences are against."""
    names = {row.difference.against for row in table if row.difference}
    return next((row for row in table if row.protocol in names), None)


def _cell(row: TableRow, panel: str | None) -> Cell | None:
    if panel is None:
        return row
    return row.difference if panel == DIFFERENCE else row.domains[panel]


def _title(metric: str) -> str:
    form = declared(metric)
    words = f"{axis_title(metric)} per method{', in percent' if form.percent else ''}"
    return words if form.higher_is_better else f"{words}, lower is better"


def _description(results: RecycleResults) -> str:
    metric = results.task.metric
    rows = (
        f"{row.label} {score(row.mean, metric)} ({spread(row.low, row.high, metric)})"
        for row in results.table
    )
    return f"Mean over {judged(results).part}s with 95 % interval: " + "; ".join(rows) + "."
