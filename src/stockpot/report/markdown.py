"""The comparison as a Markdown table, for documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.recycling.schema import RecycleResults
from stockpot.report.compared import row_claim
from stockpot.report.metrics import other_metrics
from stockpot.report.numbers import count, duration, score, spread, typographic
from stockpot.report.whiskers import GROUPS, grouped


def markdown_table(results: RecycleResults | Mapping[str, Any], *, domains: bool = True) -> str:
    """One row a method: the mean with its 95 % interval, the difference in words, domains, cost.

    The head of the difference says what its interval covers, and for how many comparisons.
    Bold marks the best value of a column among methods; an oracle is marked and never bold.
    """
    results = RecycleResults.read(results)
    table, metric = results.table, results.task.metric
    if not table:
        return "No domain was held out, so nothing was compared.\n"
    names = list(table[0].domains) if domains and len(table[0].domains) > 1 else []
    baseline = next((row.difference.against for row in table if row.difference), None)
    label = next((row.label for row in table if row.protocol == baseline), baseline)
    claim = next((made for row in table if (made := row_claim(results, row))), None)
    against = f"Against {label} ({claim.certainty()})" if claim else "Difference"
    head = ["Method", "Mean (95 % interval)", against, *names, "Steps", "Time", "Cost to run"]
    aligned = ["---", "---", "---", *["---:"] * (len(names) + 3)]
    methods = [row for row in table if row.group != "oracle"]
    best = {name: max(row.domains[name].mean for row in methods) for name in names}
    top = max(row.mean for row in methods)
    lines = [_row([_plain(each) for each in head]), _row(aligned)]
    for group, rows in grouped(table):
        for row in rows[::-1]:
            oracle = group == "oracle"
            mean = _bold(score(row.mean, metric), row.mean == top and not oracle)
            claim = row_claim(results, row)
            words = claim.phrase() if claim else ""
            lines.append(
                _row(
                    [
                        _plain(row.label) + (f" ({GROUPS[group][0].lower()})" if oracle else ""),
                        f"{mean} ({spread(row.low, row.high, metric)})",
                        typographic(words) if words else "(baseline)" * (row.protocol == baseline),
                        *(
                            _bold(
                                score(row.domains[name].mean, metric),
                                row.domains[name].mean == best[name] and not oracle,
                            )
                            for name in names
                        ),
                        count(row.steps),
                        duration(row.seconds),
                        f"{row.forward_cost:g}x",
                    ]
                )
            )
    return "\n".join(lines) + "\n" + _other_metrics(results)


def _other_metrics(results: RecycleResults) -> str:
    """A second table: every other metric that the results have."""
    columns = other_metrics(results)
    if not columns:
        return ""
    heads = [f"{column.title}{' ↓' * column.lower}" for column in columns]
    lines = ["", _row(["Method", *heads]), _row(["---", *["---:"] * len(columns)])]
    for group, rows in grouped(results.table):
        for row in rows[::-1]:
            values = [
                _bold(
                    score(column.mean(row), column.name),
                    column.mean(row) == column.best and group != "oracle",
                )
                for column in columns
            ]
            lines.append(_row([_plain(row.label), *values]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


def _bold(words: str, wanted: bool) -> str:
    return f"**{words}**" if wanted else words
