"""Find results that cannot be what their column says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import computed_field

from stockpot.errors import InputError
from stockpot.ranking.history.sheet import Imported, listed
from stockpot.ranking.history.table import Array, Fact, Table
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


def misplaced(
    found: Imported, facts: Mapping[str, Mapping[str, Fact]], base: str | None
) -> list[Misplaced]:
    """Rows of an import to set aside; each family is compared with its own base."""
    table = found.table
    if base is not None:
        return find_misplaced_rows(table, base)
    if found.format != "ibm":
        return []
    families: dict[str, list[str]] = {}
    for model in table.models:
        families.setdefault(str(facts.get(model, {}).get("family", "")), []).append(model)
    aside = {
        each.model: each
        for family, models in families.items()
        for each in find_misplaced_rows(
            table.select(models=models), found.reference.get(family) or None
        )
        if each.model != family
    }
    return [aside[model] for model in table.models if model in aside]


def suspicious_zeros(table: Table) -> tuple[str, ...]:
    """A note on tasks where a few results are exactly 0 and all others far from it."""
    cells = {}
    for j, task in enumerate(table.tasks):
        column = table.values[:, j]
        known = column[np.isfinite(column)]
        zero = known == 0
        if 0 < zero.sum() <= 0.2 * len(known) and known[~zero].min() > 0.2 * np.median(known):
            cells[task] = [table.models[i] for i in np.flatnonzero(column == 0)]
    if not cells:
        return ()
    models = sorted({model for own in cells.values() for model in own})
    return (
        f"{sum(map(len, cells.values()))} results are exactly 0 and far from all others, perhaps "
        f"missing: tasks {listed(list(cells), 2)}, models {listed(models, 4)}; "
        "--zeros-missing takes them so",
    )
