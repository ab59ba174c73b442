"""Accuracy per method with intervals: one dot and whisker a row, one panel a domain."""

from __future__ import annotations

from statistics import median
from typing import Any

from stockpot.report import svg
from stockpot.report.numbers import percent, score, spread

GROUPS = {
    "reference": ("Reference", "square"),
    "single": ("One model", "circle"),
    "average": ("Averages of weights", "diamond"),
    "oracle": ("Oracle, not a method", "ring"),
}
_ROW, _GAP, _HEAD = 23.0, 25.0, 46.0


def grouped(table: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows by group in the order of ``GROUPS``, each group from low to high accuracy."""
    return [
        (name, sorted((row for row in table if row["group"] == name), key=lambda r: r["mean"]))
        for name in GROUPS
        if any(row["group"] == name for row in table)
    ]


def wide(results: dict[str, Any], width: float = 1060) -> str:
    """All panels side by side: the mean over held-out domains, then every domain."""
    table, metric = results["table"], results["task"]["metric"]
    domains = list(table[0]["domains"])
    panels: list[str | None] = [None, *(domains if len(domains) > 1 else [])]
    labels = min(max(svg.text_width(row["label"], 13) for row in table) + 14, 250)
    numbers = 52.0
    share = (width - labels - numbers) / (len(panels) + 0.6)
    rows, height = _rows(table)
    parts = [
        svg.element("rect", x=0, y=y - _ROW / 2, width=width, height=_ROW, class_="band")
        for index, (y, _) in enumerate(rows)
        if index % 2 == 0
    ]
    parts += _names(table, labels)
    left = labels
    for panel in panels:
        room = share * (1.6 if panel is None else 1.0)
        parts.append(_panel(table, panel, rows, left + 10, left + room - 10, height, metric))
        left += room
        if panel is None:
            parts += [
                svg.text(
                    left + numbers - 8,
                    y + 4,
                    score(row["mean"], metric),
                    class_="value",
                    text_anchor="end",
                )
                for y, row in rows
            ]
            left += numbers
    return svg.figure(
        "whiskers-wide",
        width,
        height + 20,
        _title(metric),
        _description(results),
        *parts,
        css="wide",
    )


def narrow(results: dict[str, Any], panel: str | None = None, width: float = 360) -> str:
    """One panel for a phone: the label above its whisker."""
    table, metric = results["table"], results["task"]["metric"]
    rows, y, parts = [], 30.0, []
    for _, members in grouped(table):
        y += 10
        for row in members:
            value = _cell(row, panel)["mean"]
            css = f"label g-{row['group']}"
            parts.append(svg.text(0, y, svg.shortened(row["label"], 13, width - 50), class_=css))
            parts.append(
                svg.text(width, y, score(value, metric), class_="value", text_anchor="end")
            )
            rows.append((y + 12, row))
            y += 36
    parts.insert(0, _panel(table, panel, rows, 8, width - 8, y - 4, metric))
    ident = f"whiskers-narrow-{'mean' if panel is None else _slug(panel)}"
    return svg.figure(
        ident, width, y + 16, _title(metric), _description(results), *parts, css="narrow"
    )


def _rows(table: list[dict[str, Any]]) -> tuple[list[tuple[float, dict[str, Any]]], float]:
    rows, y = [], _HEAD
    for _, members in grouped(table):
        y += _GAP
        for row in members:
            rows.append((y, row))
            y += _ROW
    return rows, y - _ROW / 2 + 4


def _names(table: list[dict[str, Any]], room: float) -> list[str]:
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
            label = svg.shortened(row["label"], 13, room - 8)
            parts.append(svg.text(0, y + 4, label, class_="label"))
            y += _ROW
    return parts


def _panel(
    table: list[dict[str, Any]],
    panel: str | None,
    rows: list[tuple[float, dict[str, Any]]],
    left: float,
    right: float,
    bottom: float,
    metric: str,
) -> str:
    low, high = _range([_cell(row, panel) for row in table], metric)
    scale = svg.Scale(low, high, left, right)
    top = rows[0][0] - _ROW
    title = "Mean of held-out domains" if panel is None else panel
    if panel is None and len(table[0]["domains"]) == 1:
        title = f"Held out: {next(iter(table[0]['domains']))}"
    parts = [
        svg.text(left, 14, svg.shortened(title, 13.5, right - left + 16), class_="panel-title")
    ]
    digits = 100 if metric != "r2" else 1
    for tick in scale.ticks(max(2, int((right - left) / 55))):
        x = scale(tick)
        parts.append(svg.line(x, top, x, bottom, class_="grid"))
        parts.append(
            svg.text(x, bottom + 14, f"{tick * digits:g}", class_="tick", text_anchor="middle")
        )
    baseline = _baseline(table)
    if baseline is not None:
        x = scale(_cell(baseline, panel)["mean"])
        parts.append(svg.line(x, top, x, bottom, class_="baseline"))
    for y, row in rows:
        parts.append(_whisker(row, _cell(row, panel), y, scale, metric, title))
    return svg.group(*parts)


def _whisker(
    row: dict[str, Any], cell: dict[str, float], y: float, scale: svg.Scale, metric: str, where: str
) -> str:
    shape = GROUPS[row["group"]][1]
    words = svg.tooltip(
        f"{row['label']}, {where}: {score(cell['mean'], metric)}{percent(metric)} "
        f"({spread(cell['low'], cell['high'], metric)})"
    )
    if cell["mean"] < scale.low:
        return svg.group(
            words,
            svg.marker("left", scale.start + 4, y, 4),
            svg.text(scale.start + 13, y + 4, score(cell["mean"], metric), class_="tick"),
            class_=f"g-{row['group']}",
        )
    start, end = scale(max(cell["low"], scale.low)), scale(min(cell["high"], scale.high))
    return svg.group(
        words,
        svg.line(start, y, end, y, class_="whisker"),
        svg.marker(shape, scale(cell["mean"]), y, 4.6),
        class_=f"g-{row['group']}",
    )


def _range(cells: list[dict[str, float]], metric: str) -> tuple[float, float]:
    """Limits of the axis; a row far below the rest is drawn at the edge instead of squeezing it."""
    means = [cell["mean"] for cell in cells]
    middle = median(means)
    usual = median(abs(mean - middle) for mean in means)
    fence = middle - max(6 * usual, 0.03)
    shown = [cell for cell in cells if cell["mean"] >= fence]
    low, high = min(cell["low"] for cell in shown), max(cell["high"] for cell in shown)
    return svg.padded(low, high, 0.02)


def _baseline(table: list[dict[str, Any]]) -> dict[str, Any] | None:
    names = {row["difference"]["against"] for row in table if row.get("difference")}
    return next((row for row in table if row["protocol"] in names), None)


def _cell(row: dict[str, Any], panel: str | None) -> dict[str, float]:
    cell: dict[str, float] = row if panel is None else row["domains"][panel]
    return cell


def _title(metric: str) -> str:
    return "R2 per method" if metric == "r2" else "Accuracy per method, in percent"


def _description(results: dict[str, Any]) -> str:
    metric = results["task"]["metric"]
    rows = (
        f"{row['label']} {score(row['mean'], metric)} ({spread(row['low'], row['high'], metric)})"
        for row in results["table"]
    )
    return "Mean over held-out domains with 95 % interval: " + "; ".join(rows) + "."


def _slug(words: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in words)
