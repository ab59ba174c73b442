"""Results of models on tasks as one matrix, and their within-task normal scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Fact = float | str


@dataclass(frozen=True)
class Table:
    """Results of M models on T tasks.

    ``values``: ``(M, T)``, in the units of each task's metric, nan where nothing is known.
    ``metadata``: model -> facts (``parameters``, ``family``, ...), numbers or words.
    ``groups``: task -> the data it is about. Tasks of one group (the same data set under two
    budgets, two metrics of one run) know each other's answer, so leave-one-task-out leaves out the
    whole group. ``lower``: tasks whose metric is better when lower.

    Raises ``InputError`` on shapes that do not match, names that repeat, or infinite values.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    values: Array
    metadata: Mapping[str, Mapping[str, Fact]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    lower: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.models), len(self.tasks)):
            raise InputError(
                f"the table has {len(self.models)} models and {len(self.tasks)} tasks, "
                f"but values of shape {self.values.shape}"
            )
        for what, names in (("model", self.models), ("task", self.tasks)):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise InputError(f"{what} '{twice}' appears more than once in the table")
        if np.isinf(self.values).any():
            row, column = np.argwhere(np.isinf(self.values))[0]
            raise InputError(
                f"the value of '{self.models[row]}' on '{self.tasks[column]}' is infinite"
            )

    @cached_property
    def row(self) -> dict[str, int]:
        """Model -> row."""
        return {name: index for index, name in enumerate(self.models)}

    @cached_property
    def column(self) -> dict[str, int]:
        """Task -> column."""
        return {name: index for index, name in enumerate(self.tasks)}

    @cached_property
    def oriented(self) -> Array:
        """``(M, T)``: the values with the sign turned where lower is better."""
        signs = np.array([-1.0 if task in self.lower else 1.0 for task in self.tasks])
        return np.asarray(self.values * signs, dtype=np.float64)

    @cached_property
    def scores(self) -> Array:
        """``(M, T)``: :func:`normal_scores` of the oriented values."""
        return normal_scores(self.oriented)

    def group(self, task: str) -> str:
        """What data a task is about: its own name unless said otherwise."""
        return self.groups.get(task, task)

    def without_tasks(self, tasks: Collection[str]) -> Table:
        """The table without these columns; models that are left with no value stay."""
        return self.select(tasks=[task for task in self.tasks if task not in tasks])

    def select(
        self, *, models: Sequence[str] | None = None, tasks: Sequence[str] | None = None
    ) -> Table:
        """The part of the table with these models and tasks, in this order."""
        models = self.models if models is None else tuple(models)
        tasks = self.tasks if tasks is None else tuple(tasks)
        rows = [self.row[name] for name in models]
        columns = [self.column[name] for name in tasks]
        return Table(
            tuple(models),
            tuple(tasks),
            self.values[np.ix_(rows, columns)],
            {name: facts for name, facts in self.metadata.items() if name in set(models)},
            {name: group for name, group in self.groups.items() if name in set(tasks)},
            self.lower & set(tasks),
        )


def normal_scores(values: Array) -> Array:
    """Within each task (column), ``Phi^-1((rank - 0.5) / n)`` over the models that have a value.

    ``values``: ``(M, T)``, higher is better, nan for missing. Ties share the mean of their ranks;
    missing stays missing. The scores say where a model stands within a task, whatever the task's
    units, and a diverged run costs a rank, not an outlier (Blom 1958; here Hazen's offset 0.5).
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0, nan_policy="omit")
    known = np.isfinite(values).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = ndtri((ranks - 0.5) / known)
    return np.asarray(np.where(np.isfinite(values), scores, np.nan), dtype=np.float64)


def mean_scores(scores: Array) -> Array:
    """``(M,)``: each model's mean over the tasks it has; 0 (the middle) where it has none.

    This is the baseline to beat: the mean within-task rank over history.
    """
    known = np.isfinite(scores)
    total = np.where(known, scores, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(known.sum(axis=1), 1), dtype=np.float64)
