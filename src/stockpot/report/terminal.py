"""The comparison as plain text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.wording import ends, label, points
from stockpot.recycling.schema import RecycleResults, TableRow
from stockpot.report.compared import MARKS, row_claim
from stockpot.report.headline import headline
from stockpot.report.judged import judged
from stockpot.report.numbers import duration
from stockpot.report.reasons import reasons
from stockpot.report.whiskers import GROUPS, grouped

_WIDTH = 80
# Least widths of mean, interval and difference; the name has what the others leave.
_LEAST = (6, 11, 18)
_STEPS, _RUN = 6, 6


def terminal_table(results: RecycleResults | Mapping[str, Any]) -> str:
    """Headline, one row a method (mean, interval, difference, cost), and what the rows mean.

    Plain text without colour, at most 80 columns wide, so that it can be piped and compared.
    """
    results = RecycleResults.read(results)
    table, metric = results.table, results.task.metric
    said = headline(results)
    lines = _wrapped(said.words)
    for detail in said.details:
        lines += _wrapped(detail)
    if not table:
        return "\n".join(lines)
    lines.append("")
    claims = {row.protocol: row_claim(results, row) for row in table}
    cells = {row.protocol: _numbers(row, claims[row.protocol], metric) for row in table}
    columns = zip(*cells.values(), strict=True)
    widths = [max(least, *map(len, column)) for least, column in zip(_LEAST, columns, strict=True)]
    lines.append(_line("", ("mean", "95 %", "difference"), "steps", "run", widths))
    for group, rows in grouped(table):
        lines.append(GROUPS[group][0].lower())
        for row in rows[::-1]:
            mark = ">" if row.protocol == results.final.protocol else " "
            cost = f"{row.forward_cost:g}x"
            numbers, steps = cells[row.protocol], _steps(row.steps)
            lines.append(_line(row.label, numbers, steps, cost, widths, mark))
    lines += _diagnoses(results, widths)
    lines.append("")
    domains = ", ".join(table[0].domains)
    compared = [claim for claim in claims.values() if claim]
    what = "Mean" if metric in ("accuracy", "r2") else f"Mean {label(metric)}"
    over = "held-out" if judged(results).part == "held-out domain" else "test rows"
    notes = f"> final model. {what} over {over}: {domains}. 'run': cost of a prediction."
    if compared:
        notes += f" Difference to: {compared[0].against_label} ({compared[0].certainty()})."
    if any(claim.verdict == "no difference" for claim in compared):
        notes += " '=': no difference that this test could see."
    if any(claim.verdict == "not testable" for claim in compared):
        notes += " '~': too few trainings to tell, these rows only; another seed may differ."
    lines += _wrapped(notes)
    for wild in results.wild:
        if wild.doubt:
            lines += _wrapped(f"Doubt accepted, {wild.name}: {wild.doubt}.")
    total = results.seconds
    if total is not None:
        lines.append(f"Whole comparison: {duration(total)}.")
    return "\n".join(lines)


def _numbers(row: TableRow, claim: Claim | None, metric: str) -> tuple[str, str, str]:
    """Mean, interval and difference of a row."""
    low, high = map(_brief, ends(row.low, row.high, metric=metric))
    return _brief(points(row.mean, metric=metric)), f"{low}-{high}", _gap(claim)


def _line(
    name: str,
    numbers: tuple[str, str, str],
    steps: str,
    run: str,
    widths: list[int],
    mark: str = " ",
) -> str:
    mean, interval, gap = widths
    room = _room(widths)
    return (
        f"{mark} {_cut(name, room - 1):<{room}}{numbers[0]:>{mean}}  "
        f"{numbers[1]:^{interval}}  {numbers[2]:<{gap}}{steps:>{_STEPS}}{run:>{_RUN}}"
    )


def _room(widths: list[int]) -> int:
    """What the other columns leave for a name."""
    mean, interval, gap = widths
    return _WIDTH - 2 - mean - 2 - interval - 2 - gap - _STEPS - _RUN


def _diagnoses(results: RecycleResults, widths: list[int]) -> list[str]:
    """One line an average: against the mean of its members, and the reason most often named."""
    entries = reasons(results)
    if not entries:
        return []
    room = _room(widths)
    lines = ["averages against their members' mean"]
    for entry in entries:
        codes = [each.code for each in entry.all]
        most = max(codes, key=codes.count)
        reason = f"{most} ({codes.count(most)} of {len(codes)})"
        mark = ">" if entry.protocol == results.final.protocol else " "
        name = f"{_cut(entry.label, room - 1):<{room}}"
        lines.append(f"{mark} {name}{_gap(entry.claim):<{widths[2]}} {reason}"[:_WIDTH].rstrip())
    return lines


def _gap(claim: Claim | None) -> str:
    """``+1.2 (0.3..2.1)``; a sign leads where nothing is called better or worse (``MARKS``)."""
    if claim is None:
        return ""
    mean = _brief(points(claim.mean, metric=claim.metric, sign=True))
    low, high = map(_brief, ends(claim.low, claim.high, metric=claim.metric))
    return f"{MARKS[claim.verdict]}{mean} ({low}..{high})"


def _brief(number: str) -> str:
    """What diverged has long numbers."""
    return number if len(number) <= 7 else f"{float(number):.2g}"


def _steps(steps: float) -> str:
    return f"{steps / 1000:.0f}k" if steps >= 100_000 else f"{steps:.0f}"


def _cut(words: str, room: int) -> str:
    return words if len(words) <= room else words[: room - 1] + "…"


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, _WIDTH, break_on_hyphens=False)
