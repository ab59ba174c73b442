"""Find results that cannot be what their column says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import computed_field

from stockpot.errors import InputError
from stockpot.ranking.history.table import Array, Table
from stockpot.results import ResultPart

MISPLACED_POINTS = 6.0


class Misplaced(ResultPart):
    """A model whose values look right as a set and wrong by column.

    ``distance``: mean distance to the reference row, in points; ``sorted_distance``: the same after
    both are sorted.
    """

    model: str
    distance: float
    sorted_distance: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """One line for people."""
        return (
            f"values in the wrong columns: {self.distance:.1f} points from the reference row on "
            f"average, {self.sorted_distance:.1f} once both are sorted"
        )


def find_misplaced_rows(
    table: Table,
    base: str | Mapping[str, float] | None = None,
) -> list[Misplaced]:
    """Models whose values stand in the wrong columns, in the order of the table.

    A row is compared with a reference row, ``base``: a model of the table, or task -> value; by
    default the median over the models. Values in the wrong columns are far from it column by column
    (more than ``MISPLACED_POINTS`` of the percentage scale on average; values within 0..1 count
    times 100) but close once both rows are sorted (less than half of that). A model that is merely
    bad is far both ways. The reference itself is never reported.

    Raises ``InputError`` if the table has no model ``base``.
    """
    reference = _reference(table, base)
    unit = 100.0 if np.nanmax(np.abs(table.values), initial=0.0) <= 1.5 else 1.0
    found = []
    for index, model in enumerate(table.models):
        row = table.values[index]
        both = np.isfinite(row) & np.isfinite(reference)
        if model == base or both.sum() < 3:
            continue
        here, there = row[both] * unit, reference[both] * unit
        distance = float(np.abs(here - there).mean())
        ordered = float(np.abs(np.sort(here) - np.sort(there)).mean())
        if distance > MISPLACED_POINTS and ordered < distance / 2:
            found.append(Misplaced(model=model, distance=distance, sorted_distance=ordered))
    return found


def _reference(table: Table, base: str | Mapping[str, float] | None) -> Array:
    if base is None:
        known = np.isfinite(table.values).any(axis=0)
        reference = np.full(len(table.tasks), np.nan)
        reference[known] = np.nanmedian(table.values[:, known], axis=0)
        return reference
    if isinstance(base, str):
        if base not in table.row:
            raise InputError(f"no model '{base}' in the table to compare rows with")
        row: Array = table.values[table.row[base]]
        return row
    return np.array([base.get(task, np.nan) for task in table.tasks], dtype=np.float64)
