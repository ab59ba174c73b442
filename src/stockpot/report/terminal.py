"""The comparison as plain text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from typing import Any

from stockpot.evaluation.wording import points
from stockpot.report.headline import headline
from stockpot.report.numbers import duration
from stockpot.report.whiskers import GROUPS, grouped

_WIDTH = 80
# Columns for the method's name and the difference; together with the others they make 80.
_NAME, _GAP = {"accuracy": 27, "r2": 21}, {"accuracy": 18, "r2": 24}


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
    name, gap = _NAME[metric], _GAP[metric]
    lines.append(
        f"{'':{name + 2}}{'mean':>6}  {'95 %':^11}  {'difference':<{gap}}{'steps':>6}{'run':>6}"
    )
    for group, rows in grouped(table):
        lines.append(GROUPS[group][0].lower())
        for row in rows[::-1]:
            lines.append(_line(row, results["final"]["protocol"], metric))
    lines.append("")
    domains = ", ".join(table[0]["domains"])
    baseline = next((row["difference"]["against"] for row in table if row.get("difference")), None)
    label = next((row["label"] for row in table if row["protocol"] == baseline), None)
    notes = f"> final model. Mean over held-out: {domains}. 'run': cost of a prediction."
    if label:
        notes += f" Difference to: {label}; '=' where this test could see none."
    lines += textwrap.wrap(notes, _WIDTH)
    total = results.get("seconds")
    if total is not None:
        lines.append(f"Whole comparison: {duration(total)}.")
    return "\n".join(lines)


def _line(row: dict[str, Any], final: str, metric: str) -> str:
    mark = ">" if row["protocol"] == final else " "
    name, room = _NAME[metric], _GAP[metric]
    interval = f"{points(row['low'], metric=metric)}-{points(row['high'], metric=metric)}"
    gap = _gap(row.get("difference"), metric)
    return (
        f"{mark} {_cut(row['label'], name - 1):<{name}}{points(row['mean'], metric=metric):>6}  "
        f"{interval:^11}  {gap:<{room}}{_steps(row['steps']):>6}{row['forward_cost']:>5g}x"
    )


def _gap(difference: dict[str, Any] | None, metric: str) -> str:
    """``+1.2 (0.3..2.1)``; an equals sign leads what may as well be nothing."""
    if difference is None:
        return ""
    mean = points(difference["mean"], metric=metric, sign=True)
    low, high = (points(difference[key], metric=metric) for key in ("low", "high"))
    equal = "=" if difference["low"] <= 0 <= difference["high"] else " "
    return f"{equal}{mean} ({low}..{high})"


def _steps(steps: float) -> str:
    return f"{steps / 1000:.0f}k" if steps >= 100_000 else f"{steps:.0f}"


def _cut(words: str, room: int) -> str:
    return words if len(words) <= room else words[: room - 1] + "…"
