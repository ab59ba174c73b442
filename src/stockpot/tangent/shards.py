"""Which rows belong to which component, and which to none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.recipe import TangentRecipe
from stockpot.tasks import Task, named_generator, split_task


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of one component (int64, ascending): to train on, and to validate on."""

    name: str
    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True, eq=False)
class Division:
    """All shards, and the test rows by domain, which no component ever sees."""

    shards: tuple[Shard, ...]
    test: dict[str, np.ndarray]

    @property
    def validation(self) -> np.ndarray:
        """Validation rows of all shards."""
        return np.sort(np.concatenate([shard.validation for shard in self.shards]))


def divide(task: Task, recipe: TangentRecipe) -> Division:
    """Divide ``task`` as ``recipe`` says; depends on its seed alone.

    Test rows are drawn from every domain, and a shard's validation rows from that shard, by
    generators with their own names: a shard that goes changes no other.
    Raises ``InputError`` for a task without classes, or a shard that would be empty.
    """
    if task.kind != "classification":
        raise InputError(f"task '{task.name}' has numbers for labels, components need classes")
    split = split_task(
        task,
        held_out=recipe.held_out,
        seed=recipe.seed,
        validation_fraction=recipe.test_fraction,
    )
    groups = _groups(task, recipe, split.train)
    shards = []
    for name, rows in groups.items():
        order = named_generator(recipe.seed, "validation", name).permutation(np.sort(rows))
        size = int(len(rows) * recipe.validation_fraction)
        if len(rows) - size < 1:
            raise InputError(f"component '{name}' has no rows to train on")
        shards.append(Shard(name, np.sort(order[size:]), np.sort(order[:size])))
    return Division(tuple(shards), {**split.validation, **split.test})


def class_groups(task: Task, recipe: TangentRecipe) -> dict[str, np.ndarray]:
    """Component name -> its class numbers, for components by classes."""
    order = np.arange(len(task.classes))
    if recipe.components.order_seed is not None:
        order = named_generator(recipe.components.order_seed, "classes").permutation(order)
    size = recipe.components.classes or 1
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return {f"classes-{index}": np.sort(part) for index, part in enumerate(parts)}


def _groups(
    task: Task, recipe: TangentRecipe, train: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if recipe.components.by == "domains":
        return train
    rows = np.sort(np.concatenate(list(train.values())))
    if recipe.components.by == "classes":
        return {
            name: rows[np.isin(task.labels[rows], numbers)]
            for name, numbers in class_groups(task, recipe).items()
        }
    count = recipe.components.count or 1
    if count > len(rows):
        raise InputError(f"{count} components of {len(rows)} rows: some would be empty")
    order = named_generator(recipe.seed, "shards").permutation(rows)
    return {f"part-{index}": part for index, part in enumerate(np.array_split(order, count))}
