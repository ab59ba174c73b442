"""The comparison as plain text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from stockpot.evaluation.wording import ends, label, points
from stockpot.report.headline import headline
from stockpot.report.numbers import duration
from stockpot.report.whiskers import GROUPS, grouped

_WIDTH = 80
# Least widths of mean, interval and difference; the name has what the others leave.
_LEAST = (6, 11, 18)
_STEPS, _RUN = 6, 6


def terminal_table(results: dict[str, Any]) -> str:
    """Headline, one row a method (mean, interval, difference, cost), and what the rows mean.

    Plain text without colour, at most 80 columns wide, so that it can be piped and compared.
    """
    table, metric = results["table"], results["task"]["metric"]
    said = headline(results)
    lines = textwrap.wrap(said.words, _WIDTH)
    for detail in said.details:
        lines += textwrap.wrap(detail, _WIDTH)
    if not table:
        return "\n".join(lines)
    lines.append("")
    cells = {row["protocol"]: _numbers(row, metric) for row in table}
    columns = zip(*cells.values(), strict=True)
    widths = [max(least, *map(len, column)) for least, column in zip(_LEAST, columns, strict=True)]
    lines.append(_line("", ("mean", "95 %", "difference"), "steps", "run", widths))
    for group, rows in grouped(table):
        lines.append(GROUPS[group][0].lower())
        for row in rows[::-1]:
            mark = ">" if row["protocol"] == results["final"]["protocol"] else " "
            cost = f"{row['forward_cost']:g}x"
            numbers, steps = cells[row["protocol"]], _steps(row["steps"])
            lines.append(_line(row["label"], numbers, steps, cost, widths, mark))
    lines.append("")
    domains = ", ".join(table[0]["domains"])
    baseline = next((row["difference"]["against"] for row in table if row.get("difference")), None)
    against = next((row["label"] for row in table if row["protocol"] == baseline), None)
    what = "Mean" if metric in ("accuracy", "r2") else f"Mean {label(metric)}"
    notes = f"> final model. {what} over held-out: {domains}. 'run': cost of a prediction."
    if against:
        notes += f" Difference to: {against}; '=' where this test could see none."
    lines += textwrap.wrap(notes, _WIDTH)
    for wild in results.get("wild", []):
        if wild["doubt"]:
            lines += textwrap.wrap(f"Doubt accepted, {wild['name']}: {wild['doubt']}.", _WIDTH)
    total = results.get("seconds")
    if total is not None:
        lines.append(f"Whole comparison: {duration(total)}.")
    return "\n".join(lines)


def _numbers(row: dict[str, Any], metric: str) -> tuple[str, str, str]:
    """Mean, interval and difference of a row."""
    interval = "-".join(ends(row["low"], row["high"], metric=metric))
    return points(row["mean"], metric=metric), interval, _gap(row.get("difference"), metric)


def _line(
    name: str,
    numbers: tuple[str, str, str],
    steps: str,
    run: str,
    widths: list[int],
    mark: str = " ",
) -> str:
    mean, interval, gap = widths
    room = _WIDTH - 2 - mean - 2 - interval - 2 - gap - _STEPS - _RUN
    return (
        f"{mark} {_cut(name, room - 1):<{room}}{numbers[0]:>{mean}}  "
        f"{numbers[1]:^{interval}}  {numbers[2]:<{gap}}{steps:>{_STEPS}}{run:>{_RUN}}"
    )


def _gap(difference: dict[str, Any] | None, metric: str) -> str:
    """``+1.2 (0.3..2.1)``; an equals sign leads what may as well be nothing."""
    if difference is None:
        return ""
    mean = points(difference["mean"], metric=metric, sign=True)
    low, high = ends(difference["low"], difference["high"], metric=metric)
    equal = "=" if difference["low"] <= 0 <= difference["high"] else " "
    return f"{equal}{mean} ({low}..{high})"


def _steps(steps: float) -> str:
    return f"{steps / 1000:.0f}k" if steps >= 100_000 else f"{steps:.0f}"


def _cut(words: str, room: int) -> str:
    return words if len(words) <= room else words[: room - 1] + "…"
