"""What a recipe trains on and what it is judged on: cells, their splits and their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from stockpot.errors import RecipeError, TaskError
from stockpot.execution import Arguments
from stockpot.recycling.recipe import Auxiliary, Recipe
from stockpot.tasks import Task, split_task
from stockpot.tasks.task import quoted
from stockpot.training.rows import limit_task
from stockpot.yaml_lines import suggestion

JudgedOn = Literal["held-out domains", "test rows"]

IN_DISTRIBUTION = "in-distribution"
"""Name of a cell that holds no domain out and is judged on test rows of its own sources."""


def hash_seed(*parts: object) -> int:
    """A seed in [0, 2^31) that depends on ``parts`` alone."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


def held_out_sets(recipe: Recipe, domains: Sequence[str]) -> list[tuple[str, ...]]:
    """The domains that each cell holds out together, in the recipe's order.

    An empty set stands for a cell that is judged on test rows of its own sources: where the recipe
    says ``none``, and where there is but one domain.
    """
    if recipe.train_domains is not None:
        return [tuple(name for name in domains if name not in recipe.train_domains)]
    if recipe.held_out == "none" or (recipe.held_out == "all" and len(domains) == 1):
        return [()]
    if recipe.held_out == "all":
        return [(name,) for name in domains]
    return [(one,) if isinstance(one, str) else tuple(one) for one in recipe.held_out]


def cell_name(held_out: Sequence[str]) -> str:
    """How a cell is called: its held-out domains, or ``in-distribution``."""
    return " + ".join(held_out) or IN_DISTRIBUTION


def judged_on(held_out: Sequence[str]) -> JudgedOn:
    """What a cell is judged on: domains that it has never seen, or rows that it has not."""
    return "held-out domains" if held_out else "test rows"


def tested_as(held_out: Sequence[str]) -> str:
    """What a model card calls the rows that a cell is judged on."""
    return "held_out" if held_out else "test"


def trained_on(name: str | None, held_out: Sequence[str]) -> str:
    """What a cell of this name trains on, in words."""
    if held_out:
        return f"all domains but {', '.join(held_out)}"
    return "all domains" if name is None else "the training rows of all domains"


def why_trained_on(name: str | None, held_out: Sequence[str], cells: int) -> str:
    """One sentence: why the model that is kept was trained on what it was trained on.

    ``name`` and ``held_out`` are those of its cell, ``cells`` counts the cells of the comparison.
    """
    if name is None:
        return (
            "It was trained on all domains, as final.train_on says; the numbers of the comparison "
            "are those of models that were made the same way without what they are judged on."
        )
    if not held_out:
        return "Test rows were left out of its training, so that the numbers are its own."
    which = f"{' and '.join(held_out)}, held out first" if cells > 1 else " and ".join(held_out)
    return (
        f"It was trained without {which}, so that its numbers there are about a domain that it has "
        "never seen; final.train_on: all trains on all domains, and leaves none to judge that by."
    )


def split_arguments(recipe: Recipe, held_out: Sequence[str] | None, trial: int) -> Arguments:
    """Arguments of ``split_task`` for a cell; ``held_out`` None: train on all, judge on nothing.

    Test rows are the same in all trials: averages over trials would else have trained on them.
    """
    split: Arguments = {
        "held_out": list(held_out or ()),
        "seed": hash_seed("split", recipe.seed, trial),
        "validation_fraction": recipe.training.validation_fraction,
    }
    if held_out is None:
        return split
    if not held_out or recipe.unseen_groups:
        split["test_fraction"] = recipe.test_fraction
        split["test_seed"] = hash_seed("test", recipe.seed)
    if held_out and recipe.unseen_groups:
        split["unseen_groups"] = True
    return split


def check_splits(recipe: Recipe, task: Task) -> None:
    """Divide ``task`` as every cell will.

    Raises ``RecipeError`` for domains that the task does not have, ``TaskError`` where a cell has
    nothing to train, validate or test on.
    """
    _check_names(recipe, task)
    limit = recipe.training.limit_per_domain
    if limit is not None:
        task = limit_task(task, limit, recipe.seed)
    sets: list[tuple[str, ...] | None] = [*held_out_sets(recipe, task.domains)]
    if recipe.final.train_on == "all":
        sets.append(None)
    for held_out in sets:
        for trial in range(recipe.trials):
            split_task(task, **split_arguments(recipe, held_out, trial))
    if () in sets or recipe.unseen_groups:
        _check_rotations(recipe)


def check_auxiliary(recipe: Recipe, auxiliary: Auxiliary, task: Task) -> None:
    """Divide an auxiliary's task as its training will; ``TaskError`` where that cannot be."""
    limit = auxiliary.training.limit_per_domain or recipe.training.limit_per_domain
    if limit is not None:
        task = limit_task(task, limit, recipe.seed)
    seed = hash_seed("auxiliary", recipe.seed, auxiliary.name)
    split_task(task, seed=seed, validation_fraction=recipe.training.validation_fraction)


def _check_names(recipe: Recipe, task: Task) -> None:
    lists = {"train_domains": recipe.train_domains or []}
    if not isinstance(recipe.held_out, str):
        lists["held_out"] = [
            name for one in recipe.held_out for name in ([one] if isinstance(one, str) else one)
        ]
    for key, names in lists.items():
        for name in names:
            if name not in task.domains:
                raise TaskError(
                    f"{key}: unknown domain '{name}' in task '{task.name}'"
                    f"{suggestion(name, task.domains)}",
                    hint=f"it has {', '.join(task.domains)}",
                )
    if recipe.train_domains is not None and not held_out_sets(recipe, task.domains)[0]:
        raise RecipeError(
            [
                f"train_domains: {quoted(recipe.train_domains)} are all domains of task "
                f"'{task.name}', none is left to judge on; leave them out and say held_out: none "
                "to judge on test rows"
            ]
        )
    for held_out in held_out_sets(recipe, task.domains):
        if set(held_out) == set(task.domains):
            raise TaskError(
                f"held_out: {quoted(held_out)} are all domains of task '{task.name}', none is left "
                "to train on",
                hint="say held_out: none to judge on test rows of the same source",
            )


def _check_rotations(recipe: Recipe) -> None:
    """Test rows that are drawn depend on which rows there are: images must be the target's own."""
    target = recipe.training.limit_per_domain
    for auxiliary in recipe.auxiliaries:
        limit = auxiliary.training.limit_per_domain
        if auxiliary.rotation and limit is not None and limit != target:
            raise RecipeError(
                [
                    f"auxiliary '{auxiliary.name}': limit_per_domain {limit} is not the target's "
                    f"({target}); test rows drawn from one would be seen through the other"
                ]
            )
