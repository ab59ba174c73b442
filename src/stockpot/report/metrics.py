"""The metrics beside the one that was selected by, as columns of a table."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.evaluation.wording import declared
from stockpot.recycling.schema import RecycleResults, TableRow
from stockpot.report.numbers import axis_title


@dataclass(frozen=True)
class Column:
    """One metric: its title, whether lower is better, and the best score among methods."""

    name: str
    title: str
    lower: bool
    best: float

    def mean(self, row: TableRow) -> float:
        """The row's score (higher is better, as everywhere in the results)."""
        return float(row.also[self.name].mean)


def other_metrics(results: RecycleResults) -> list[Column]:
    """Columns in the recipe's order; none for results without a table, or made without ``also``."""
    table = results.table
    methods = [row for row in table if row.group != "oracle"]
    return [
        Column(
            name,
            axis_title(name) + (", %" if declared(name).percent else ""),
            not declared(name).higher_is_better,
            max(row.also[name].mean for row in methods),
        )
        for name in (table[0].also if table and methods else ())
    ]
