"""The verb: check everything, let the trainer train, and make a soup of what came out."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.matching import match_names
from stockpot.errors import InputError, LineageError, RecipeError
from stockpot.evaluators.spec import load_evaluator
from stockpot.execution import Backend, in_order, make_backend
from stockpot.files import digest, file_digest
from stockpot.inspection.lineage import refuse_strangers
from stockpot.interrupts import ended_by_signals
from stockpot.outputs import check_output, recipe_digest
from stockpot.soups.budget import Budget
from stockpot.soups.rows import RowSplit
from stockpot.soups.run import (
    Opened,
    Souped,
    SoupSettings,
    SoupSetup,
    finish_soup,
    prepare_soup,
)
from stockpot.trainers.candidates import ProtocolMaker
from stockpot.trainers.contract import ADAPTERS, NAME, code_problems, name_of, open_trainer
from stockpot.trainers.jobs import located
from stockpot.trainers.plan import TrainerFacts, TrainerPlan, make_trainer_plan
from stockpot.trainers.recipe import TrainerRecipe, all_values
from stockpot.trainers.trainings import Trainings

RecipeSource = str | Path | Mapping[str, Any] | TrainerRecipe


def recycle_with(
    recipe: RecipeSource,
    output: str | Path,
    *,
    backend: str | Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_job: float | None = None,
    seed: int | None = None,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
) -> Souped:
    """Fine-tune with a trainer of your own from every init, average, judge, keep the best model.

    Arguments as of ``stockpot.recycle``. What comes out is what ``stockpot.soup`` gives, and
    ``results.trainings``. The same call goes on after an interruption.

    Raises:
        InputError: recipe, trainer, evaluator or weights are wrong; found before anything runs, but
            for a trainer that writes no model of the init's family.
        OutputError: the output cannot be written, or holds the results of another recipe.
        JobError: a training failed; the next call goes on from there.
        StockpotError: an evaluator that fails on every model.
    """
    started, output = time.monotonic(), Path(output)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        checked, folder = _opened(recipe, root, changes, seed)
        plan, evaluator = _prepared(stack, checked, folder)
        identity = recipe_digest(checked.model_dump(mode="json"))
        writes = ("model", "models.json")
        check_output(output, "results.json", identity, overwrite=overwrite, writes=writes)
        workers = make_backend(
            backend, jobs, threads=checked.threads, address=address, gpus_per_job=gpus_per_job
        )
        trained = Trainings(plan, output / "work")
        trained.train(workers, quiet=quiet)
        setup = _setup(stack, checked, folder, trained, output, evaluator)
        setup.budget.started = started
        return finish_soup(setup, identity, output, quiet=quiet)


def plan_trainings(
    recipe: RecipeSource,
    *,
    seed: int | None = None,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
) -> list[str]:
    """Check everything as :func:`recycle_with` does and name its jobs; trains nothing."""
    checked, folder = _opened(recipe, root, changes, seed)
    with ExitStack() as stack:
        plan, _ = _prepared(stack, checked, folder)
    return [job.label for job in in_order(plan.jobs())]


def _opened(
    recipe: RecipeSource, root: str | Path | None, changes: Sequence[str], seed: int | None
) -> tuple[TrainerRecipe, Path]:
    checked, folder = TrainerRecipe.open(recipe, root, changes)
    if seed is not None:
        checked = checked.model_copy(update={"seed": seed})
    return checked, folder


def _prepared(stack: ExitStack, recipe: TrainerRecipe, root: Path) -> tuple[TrainerPlan, Opened]:
    """The plan and the evaluator, after everything was checked that can be before a training."""
    with recipe.placed():
        spec = recipe.trainer.model_dump(mode="json")
        if problems := code_problems(spec, root):
            raise RecipeError(problems)
        trainer = open_trainer(spec, root)
        named = set(recipe.hyperparameters)
        for key, own in (
            ("head", recipe.head or {}),
            *(("auxiliaries", one.hyperparameters) for one in recipe.auxiliaries),
        ):
            if unknown := sorted(set(own) - named):
                raise InputError(
                    f"{key}: '{unknown[0]}' is not among hyperparameters",
                    hint="say there what all other trainings take",
                )
        problems = trainer.check(
            recipe.hyperparameters,
            data=recipe.data is not None or any(one.data for one in recipe.auxiliaries),
            varied=recipe.is_drawn,
        )
        others = (one.hyperparameters for one in recipe.auxiliaries)
        given: list[dict[str, Any]] = [dict(recipe.hyperparameters), recipe.head or {}, *others]
        for values in given:
            for name, value in values.items():
                problems += trainer.refusals(name, all_values(value))
        if problems:
            raise RecipeError(problems)
        source = recipe.evaluate
        evaluator, constraints = load_evaluator(
            root / source if isinstance(source, str) else source, root=root
        )
        for one in (evaluator, *(limit.evaluator for limit in constraints)):
            stack.enter_context(one)
        if evaluator.size is not None:
            RowSplit(recipe.judge, recipe.seed).parts(evaluator.size)
        facts = _facts(recipe, root, trainer.identity)
    return make_trainer_plan(recipe, facts), (evaluator, constraints)


def _facts(recipe: TrainerRecipe, root: Path, trainer: str) -> TrainerFacts:
    contents: dict[str, str] = {}
    own = recipe.trainer.function in ADAPTERS
    for name in [recipe.data, *(one.data for one in recipe.auxiliaries)]:
        if name is not None and (root / name).exists():
            contents[name] = _content(root / name)
        elif name is not None and (own or not name_of(name) or not name.startswith(NAME)):
            hint = f"{recipe.trainer.function} reads a file"
            if not own:
                hint = f"where the trainer knows data by that name: data: {NAME}{name_of(name)}"
            raise InputError(f"data: {root / name} does not exist", hint=hint)
    with open_checkpoint(located(recipe.base, root)) as base:
        if base.path is None or Path(located(recipe.base, root)).is_file():
            raise InputError(f"base: {recipe.base} is no model folder", hint="give its folder")
        for pattern in recipe.head_tensors if recipe.head is None else ():
            if not fnmatch.filter(base.names, pattern):
                raise InputError(f"head_tensors: '{pattern}' names no tensor of {recipe.base}")
        lies = base.path if base.path.is_dir() else base.path.parent
        for one in recipe.auxiliaries:
            if one.weights is not None:
                with open_checkpoint(located(one.weights, root)) as weights:
                    refuse_strangers({one.name: weights}, base)
                    contents[one.weights] = weights.digest()
        return TrainerFacts(base.digest(), str(lies.absolute()), str(root), trainer, contents)


def _content(path: Path) -> str:
    """Hash of a file, or of all files of a folder."""
    if path.is_file():
        return file_digest(path)
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return digest([[str(one.relative_to(path)), file_digest(one)] for one in files])


def _setup(
    stack: ExitStack,
    recipe: TrainerRecipe,
    root: Path,
    made: Trainings,
    output: Path,
    evaluator: Opened,
) -> SoupSetup:
    """The soup of what was trained."""
    plan, trained = made.plan, made.collect(recipe, root, output)
    models = made.models()
    source = located(recipe.base, root) if plan.start is None else made.model(plan.start)
    known = [open_checkpoint(path) for path in (next(iter(models.values())), source)]
    (_, base), _ = match_names([stack.enter_context(one) for one in known])
    settings = SoupSettings(
        search="none", judge=recipe.judge, racing=recipe.racing, seed=recipe.seed
    )
    setup = prepare_soup(stack, models, evaluator, base, settings, force=True)
    setup.budget, setup.trained = (
        Budget(),
        replace(trained, doubts=(*trained.doubts, *_doubts(setup))),
    )
    setup.recipe = recipe.model_dump(mode="json")
    order = {name: index for index, name in enumerate(setup.ingredients.names)}
    order |= {name: order[other] for name, other in setup.ingredients.same.items()}
    pools = {
        pool: list(dict.fromkeys(order[name] for name in names if name in order))
        for pool, names in plan.pools.items()
    }
    setup.make = partial(ProtocolMaker, protocols=recipe.table, pools=pools)
    return setup


def _doubts(setup: SoupSetup) -> tuple[str, ...]:
    """A note where trained models look like strangers. They are never refused: what is known is
    better than what a look at weights says, and scores tell what an average is worth."""
    ground = setup.ingredients
    try:
        return refuse_strangers(dict(zip(ground.names, ground.models, strict=True)), ground.base)
    except LineageError as error:
        return (
            f"the weights alone look like strangers': {error.message}. Either the trainer moves "
            "them very far, or it does not start from its init",
        )
