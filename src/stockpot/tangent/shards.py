"""Which rows belong to which component, and which to none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.recipe import TangentRecipe
from stockpot.tangent.rows import Portion, make_portion, row_hashes, units
from stockpot.tasks import Task, draw_groups, named_generator, set_apart
from stockpot.tasks.parts import PARTS, TEST, TRAIN, VALIDATION
from stockpot.tasks.splits import Rows
from stockpot.tasks.task import check_domains

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of one component (int64, ascending): to train on, and to validate on."""

    name: str
    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True, eq=False)
class Division:
    """All shards, and the test rows by domain, which no component ever sees.

    ``hashes``: of every row of the task, by which rows are told apart.
    """

    shards: tuple[Shard, ...]
    test: dict[str, np.ndarray]
    hashes: np.ndarray

    @property
    def validation(self) -> np.ndarray:
        """Validation rows of all shards."""
        return np.sort(np.concatenate([shard.validation for shard in self.shards]))


def divide(task: Task, recipe: TangentRecipe, without: np.ndarray | None = None) -> Division:
    """Divide ``task`` as ``recipe`` says; depends on its seed and the rows' contents alone.

    Where a row goes is decided by its own content: a row, or a whole shard, that comes or goes
    moves no other. Fixed splits are kept, and groups stay whole. ``without``: a mask (N,) of rows
    that are left out.
    Raises ``InputError`` for a task without classes, or a shard that would be empty.
    """
    if task.kind != "classification":
        raise InputError(f"task '{task.name}' has numbers for labels, components need classes")
    hashes = row_hashes(task)
    kept = _kept(task, recipe, hashes, without)
    train, fixed, test = _apart(task, recipe, hashes, kept, without)
    groups = _groups(task, recipe, hashes, train)
    if fixed:
        validation = _groups(task, recipe, hashes, fixed)
    else:
        validation = _validation(task, recipe, hashes, groups)
    shards = []
    for name, own in groups.items():
        aside = validation.get(name, _NONE)
        rows = np.setdiff1d(own, aside)
        if len(rows):
            shards.append(Shard(name, rows, np.sort(aside)))
        elif without is None:
            raise InputError(f"component '{name}' has no rows to train on")
    if not shards:
        raise InputError(f"task '{task.name}': no rows are left to train on")
    return Division(tuple(shards), test, hashes)


def portions(task: Task, division: Division, shard: Shard, blocks: int = 0) -> list[Portion]:
    """The rows of a shard as they are kept: training rows, then validation rows.

    With ``blocks`` training rows alone, in as many portions at most: each row goes where the first
    byte of its hash says.
    """
    if not blocks:
        return [make_portion(task, division.hashes, shard.train, shard.validation)]
    number = np.array([int(content[:2], 16) * blocks // 256 for content in division.hashes])
    parts = [shard.train[number[shard.train] == block] for block in range(blocks)]
    return [make_portion(task, division.hashes, rows) for rows in parts if len(rows)]


def _kept(
    task: Task, recipe: TangentRecipe, hashes: np.ndarray, without: np.ndarray | None
) -> np.ndarray:
    """Mask of the rows that take part: at most so many of a domain, of each of its fixed parts."""
    kept = np.ones(len(task), dtype=bool) if without is None else ~without
    if recipe.limit_per_domain is None:
        return kept
    parts = np.zeros(len(task), dtype=np.int8) if task.splits is None else task.splits
    for domain in task.domains:
        for part in range(len(PARTS)):
            rows = task.rows(domain)
            rows = rows[(parts[rows] == part) & kept[rows]]
            order = np.argsort(units(hashes, rows, recipe.seed, "limit"), kind="stable")
            kept[rows[order[recipe.limit_per_domain :]]] = False
    return kept


def _apart(
    task: Task,
    recipe: TangentRecipe,
    hashes: np.ndarray,
    kept: np.ndarray,
    without: np.ndarray | None,
) -> tuple[Rows, Rows, Rows]:
    """Rows of the components, those of them that the task says validate (if any), test rows."""
    check_domains(task.name, recipe.held_out, task.domains)
    seen, test = set_apart(task, held_out=recipe.held_out)
    seen, test = ({name: rows[kept[rows]] for name, rows in s.items()} for s in (seen, test))
    fixed: Rows = {}
    if task.splits is not None:
        parts = task.splits
        fixed = {name: rows[parts[rows] == VALIDATION] for name, rows in seen.items()}
        fixed = {name: rows for name, rows in fixed.items() if len(rows)}
        own = {name: task.rows(name) for name in seen}
        held = {name: rows[kept[rows] & (parts[rows] == TEST)] for name, rows in own.items()}
        test |= {name: rows for name, rows in held.items() if len(rows)}
        seen = {name: rows[parts[rows] == TRAIN] for name, rows in seen.items()}
        seen = {name: rows for name, rows in seen.items() if len(rows)}
    if task.splits is None or not (recipe.held_out or test):
        # Of a site that withdrew test rows may still be there: none becomes training data.
        short = [name for name in seen if without is not None and without[task.rows(name)].any()]
        drawn = _drawn(task, recipe, hashes, seen, recipe.test_fraction, "test", short)
        seen = {name: np.setdiff1d(rows, drawn[name]) for name, rows in seen.items()}
        test |= drawn
    return seen, fixed, test


def _drawn(
    task: Task,
    recipe: TangentRecipe,
    hashes: np.ndarray,
    rows: Rows,
    fraction: float,
    side: str,
    short: Collection[str] = (),
) -> Rows:
    """Of every entry about ``fraction``: one content at least, and, but for ``short`` ones, not the
    last one."""
    drawn: Rows = {}
    if task.groups is not None:
        pool = {name: own for name, own in rows.items() if len(own) and name not in short}
        masks = draw_groups(task, pool, fraction, recipe.seed, side, leave=2)
        drawn = {name: own[masks[name]] for name, own in pool.items()}
    for name in [name for name in rows if name not in drawn]:
        own = rows[name]
        values = units(hashes if task.groups is None else task.groups, own, recipe.seed, side)
        chosen = values < fraction
        if len(own) and name not in short:
            chosen |= values == values.min()
            chosen &= values < values.max()
        drawn[name] = own[chosen]
    return drawn


def _validation(task: Task, recipe: TangentRecipe, hashes: np.ndarray, groups: Rows) -> Rows:
    """Rows of every component that validate it."""
    fraction = recipe.validation_fraction
    if not fraction:
        return {}
    if task.groups is not None:
        masks = draw_groups(task, groups, fraction, recipe.seed, "validation")
        return {name: rows[masks[name]] for name, rows in groups.items()}
    return _drawn(task, recipe, hashes, groups, fraction, "validation")


def class_groups(task: Task, recipe: TangentRecipe) -> dict[str, np.ndarray]:
    """Component name -> its class numbers, for components by classes."""
    order = np.arange(len(task.classes))
    if recipe.components.order_seed is not None:
        order = named_generator(recipe.components.order_seed, "classes").permutation(order)
    size = recipe.components.classes or 1
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return {f"classes-{index}": np.sort(part) for index, part in enumerate(parts)}


def _groups(task: Task, recipe: TangentRecipe, hashes: np.ndarray, train: Rows) -> Rows:
    """The rows of each component. Random parts go by content: none moves when another goes."""
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
    number = (units(hashes, rows, recipe.seed, "shards") * count).astype(np.int64)
    return {f"part-{index}": rows[number == index] for index in range(count)}
