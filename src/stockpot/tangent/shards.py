"""Which rows belong to which component, and which to none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.recipe import TangentRecipe
from stockpot.tasks import Task, draw_groups, named_generator, set_apart, split_task
from stockpot.tasks.parts import TEST, TRAIN, VALIDATION
from stockpot.tasks.splits import Rows


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
    generators with their own names: a shard that goes changes no other. Fixed splits are kept, and
    groups stay whole.
    Raises ``InputError`` for a task without classes, or a shard that would be empty.
    """
    if task.kind != "classification":
        raise InputError(f"task '{task.name}' has numbers for labels, components need classes")
    train, fixed, test = _apart(task, recipe)
    groups = _groups(task, recipe, train)
    validation = _groups(task, recipe, fixed) if fixed else _validation(task, recipe, groups)
    shards = []
    for name, own in groups.items():
        kept = validation.get(name, np.empty(0, dtype=np.int64))
        rows = np.setdiff1d(own, kept)
        if not len(rows):
            raise InputError(f"component '{name}' has no rows to train on")
        shards.append(Shard(name, rows, np.sort(kept)))
    return Division(tuple(shards), test)


def _apart(task: Task, recipe: TangentRecipe) -> tuple[Rows, Rows, Rows]:
    """Rows of the components, those of them that the task says validate (if any), test rows."""
    if task.splits is None:
        split = split_task(
            task,
            held_out=recipe.held_out,
            seed=recipe.seed,
            validation_fraction=recipe.test_fraction,
        )
        return split.train, {}, {**split.validation, **split.test}
    seen, test = set_apart(
        task,
        held_out=recipe.held_out,
        test_fraction=recipe.test_fraction,
        test_seed=recipe.seed,
    )
    parts = {
        part: {
            name: rows[task.splits[rows] == part]
            for name in task.domains
            if name in seen and np.any(task.splits[rows := task.rows(name)] == part)
        }
        for part in (TRAIN, VALIDATION, TEST)
    }
    train = {name: np.intersect1d(rows, seen[name]) for name, rows in parts[TRAIN].items()}
    return train, parts[VALIDATION], {**parts[TEST], **test}


def _validation(
    task: Task, recipe: TangentRecipe, groups: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Rows of every component that validate it."""
    fraction = recipe.validation_fraction
    if task.groups is not None and fraction:
        masks = draw_groups(task, groups, fraction, recipe.seed, "validation")
        return {name: rows[masks[name]] for name, rows in groups.items()}
    kept = {}
    for name, rows in groups.items():
        order = named_generator(recipe.seed, "validation", name).permutation(np.sort(rows))
        kept[name] = order[: int(len(rows) * fraction)]
    return kept


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
