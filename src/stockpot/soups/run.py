"""The verb: open, evaluate, search, choose, judge, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.evaluators.contract import Evaluator
from stockpot.evaluators.function import FunctionEvaluator, state_of
from stockpot.evaluators.spec import Constraint, load_evaluator
from stockpot.evaluators.store import ScoreStore
from stockpot.extras import require
from stockpot.files import digest, write_json
from stockpot.inspection.sources import Source
from stockpot.interrupts import ended_by_signals
from stockpot.outputs import check_output
from stockpot.progress import progress
from stockpot.soups.blend import Blends
from stockpot.soups.budget import Budget
from stockpot.soups.candidates import CandidateMaker
from stockpot.soups.collect import SoupOutcome, SoupTrainings, collect
from stockpot.soups.engine import SoupEngine
from stockpot.soups.ingredients import OpenIngredients, open_ingredients
from stockpot.soups.judging import judge
from stockpot.soups.limits import SoupLimits
from stockpot.soups.measuring import Evaluations
from stockpot.soups.rows import RowSplit
from stockpot.soups.save import save_soup
from stockpot.soups.schema import SoupResults
from stockpot.soups.search import METHODS
from stockpot.soups.stages import SearchStage, method_stage

CONTROLS = ("none", "one", "equal")
Checkpoints = Sequence[Source] | Mapping[str, Source]
Opened = tuple[Evaluator, tuple[Constraint, ...]]
Evaluate = str | Path | Mapping[str, Any] | Evaluator | Opened | Callable[..., Any]


@dataclass(frozen=True)
class Souped:
    """A finished soup. ``folder``: with ``model``, ``results.json`` and the measured scores, None
    where no output was given; ``state`` holds the weights then."""

    folder: Path | None
    results: SoupResults
    state: dict[str, Any] | None = None

    @property
    def model(self) -> Path:
        """The model folder. Raises ``InputError`` for a soup in memory."""
        if self.folder is None:
            raise InputError("this soup has no folder", hint="its weights are in `state`")
        return self.folder / "model"


@dataclass(frozen=True)
class SoupSettings:
    """Everything but models and evaluator; arguments of :func:`soup`."""

    budget: str | int | None = None
    search: str = "cmaes"
    layer_groups: int = 4
    gain: float = 0.0
    judge: int = 5
    racing: bool = True
    controls: str = "one"
    seed: int = 0
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.search not in METHODS:
            raise InputError(f"search: got '{self.search}'", hint=f"one of {', '.join(METHODS)}")
        if self.controls not in CONTROLS:
            hint = f"one of {', '.join(CONTROLS)}"
            raise InputError(f"controls: got '{self.controls}'", hint=hint)
        if self.layer_groups < 1 or self.gain < 0:
            raise InputError("layer_groups are 1 or more, and gain is 0 or more")
        if self.methods and self.search == "none":
            raise InputError("methods are searched, and search is none", hint="leave it out")
        if self.search != "none":
            require(self.search, "the search of coefficients")


@dataclass
class SoupSetup:
    """What is open while a soup is made. ``make``: makes the candidates, in the order of the
    arguments of ``CandidateMaker``; ``trained``: how the ingredients came about, where that is
    known."""

    ingredients: OpenIngredients
    evaluator: Evaluator
    constraints: tuple[Constraint, ...]
    engine: SoupEngine
    settings: SoupSettings
    budget: Budget
    recipe: dict[str, Any] = field(default_factory=dict)
    stages: tuple[SearchStage, ...] = ()
    make: Callable[..., CandidateMaker] = CandidateMaker
    trained: SoupTrainings = field(default_factory=SoupTrainings)

    def notes(self) -> list[str]:
        """What is worth a note before anything runs."""
        notes = [*self.ingredients.notes, *self.trained.notes]
        if self.evaluator.unknown:
            notes.append(
                f"the scores of {self.evaluator.label} are not kept for later runs: "
                f"{self.evaluator.unknown}, which has no content to tell it by; a "
                "FunctionEvaluator with an identity of your own keeps them"
            )
        return notes


def soup(
    checkpoints: Checkpoints,
    evaluate: Evaluate,
    *,
    base: Source | None = None,
    output: str | Path | None = None,
    budget: str | int | None = None,
    search: str = "cmaes",
    layer_groups: int = 4,
    gain: float = 0.0,
    judge: int = 5,
    racing: bool = True,
    controls: str = "one",
    seed: int = 0,
    methods: Sequence[str] = (),
    cache: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> Souped:
    """Make the best model of existing checkpoints, by an evaluator.

    Args:
        checkpoints: folders, files, hub ids, states in memory, or a mapping that names them.
        evaluate: ``eval.yaml`` or its content, an ``Evaluator``, or a function ``(model)`` or
            ``(model, rows)`` that returns scores of rows or one number, higher is better (see
            ``stockpot.evaluators.FunctionEvaluator``).
        base: the model that all were fine-tuned from: for Model Stock and curves to it.
        output: folder for model, results and measured scores; None keeps all in memory.
        budget: ``60`` evaluations, or ``"2h"`` for the whole run; by default 5 a model, 30 at
            least.
        search: "cmaes", "optuna" or "none".
        layer_groups: groups of layers that get coefficients of their own in the second search.
        gain: the search ends where ten generations in a row won less.
        judge: of ten rows, how many judge and choose nothing.
        racing: score hopeless models on some of the rows only.
        controls: "one": shuffled differences with the kept coefficients; "equal": also a search of
            those and random shares, each with as many evaluations as the search; "none".
        seed: of the split of the rows, the search and the controls.
        methods: merge methods whose numbers (density, scale, t) are searched, too.
        cache: folder of measured scores that other runs share; by default inside ``output``.
        force: take models that have no ancestor in common.
        overwrite: replace the results of another soup in ``output``.
        quiet: no progress, no words about models that could not be evaluated.

    The same call goes on after an interruption; what was measured is not measured again.

    Raises:
        InputError: what cannot be read or does not fit, before anything runs; a subclass says what.
        StockpotError: an evaluator that fails on every model, constraints that nothing keeps.
        OutputError: ``output`` holds the results of another soup, or cannot be written.
    """
    settings = SoupSettings(
        budget, search, layer_groups, gain, judge, racing, controls, seed, tuple(methods)
    )
    options: dict[str, Any] = {
        "cache": cache,
        "force": force,
        "overwrite": overwrite,
        "quiet": quiet,
    }
    return soup_with(settings, checkpoints, evaluate, base, output, **options)


def soup_with(
    settings: SoupSettings,
    checkpoints: Checkpoints,
    evaluate: Evaluate,
    base: Source | None,
    output: str | Path | None,
    *,
    cache: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    quiet: bool = True,
) -> Souped:
    """:func:`soup` with its settings in one."""
    folder = None if output is None else Path(output)
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        setup = prepare_soup(stack, checkpoints, evaluate, base, settings, force)
        setup.budget.started = started
        identity = digest(setup.recipe)
        if folder is not None:
            writes = ("model", "models.json")
            check_output(folder, "results.json", identity, overwrite=overwrite, writes=writes)
        return finish_soup(setup, identity, folder, cache=cache, quiet=quiet)


def finish_soup(
    setup: SoupSetup,
    identity: str,
    folder: Path | None,
    *,
    cache: str | Path | None = None,
    quiet: bool = True,
) -> Souped:
    """Evaluate, choose, judge and write what is set up. ``identity``: of the recipe."""
    store = cache if cache is not None or folder is None else folder / "work" / "scores"
    if setup.evaluator.unknown:
        store = None
    expected = setup.budget.evaluations or 10.0 * len(setup.ingredients.models)
    with progress("soup", expected, quiet=quiet) as advance:
        scores = ScoreStore(None if store is None else Path(store))
        outcome = _measure(setup, scores, (lambda words: None) if quiet else _warn, advance)
    outcome.seconds = time.monotonic() - setup.budget.started
    results = collect(outcome, setup.recipe, identity)
    if folder is None:
        return Souped(None, results, state_of(setup.engine.checkpoint(outcome.kept.blend)))
    save_soup(folder, outcome, results)
    write_json(folder / "results.json", results.to_json())
    return Souped(folder, results)


def plan_soup(
    checkpoints: Checkpoints,
    evaluate: Evaluate,
    *,
    base: Source | None = None,
    force: bool = False,
    **settings: Any,
) -> list[str]:
    """Check everything as :func:`soup` does and say what it would do; evaluates nothing."""
    return plan_with(SoupSettings(**settings), checkpoints, evaluate, base, force=force)


def plan_with(
    settings: SoupSettings,
    checkpoints: Checkpoints,
    evaluate: Evaluate,
    base: Source | None,
    *,
    force: bool = False,
) -> list[str]:
    """:func:`plan_soup` with its settings in one."""
    with ExitStack() as stack:
        setup = prepare_soup(stack, checkpoints, evaluate, base, settings, force)
        engine, budget, rows = setup.engine, setup.budget, setup.evaluator.size
        amount = (
            f"{budget.evaluations} evaluations" if budget.evaluations else f"{budget.seconds:g} s"
        )
        changed = f"{len(engine.changes)} of {len(engine.tensors)} tensors differ"
        ground = f"; base {setup.ingredients.base_name}" if base is not None else ""
        return [
            f"{engine.count} models, {changed}{ground}",
            f"evaluator: {setup.evaluator.label}" + (f", {rows} rows" if rows else ""),
            f"budget: {amount}; search: {settings.search}",
            *(f"note: {note}" for note in setup.notes()),
        ]


def prepare_soup(
    stack: ExitStack,
    checkpoints: Checkpoints,
    evaluate: Evaluate,
    base: Source | None,
    settings: SoupSettings,
    force: bool,
) -> SoupSetup:
    """Read, check and open everything; nothing is evaluated."""
    evaluator, constraints = read_evaluator(evaluate)
    split = RowSplit(settings.judge, settings.seed)
    for one in (evaluator, *(limit.evaluator for limit in constraints)):
        stack.enter_context(one)
    if base is None and any(
        one.lose_at_most is not None and one.against == "base" for one in constraints
    ):
        raise InputError("a constraint is against 'base', and there is none", hint="give a base")
    ingredients = open_ingredients(stack, checkpoints, base, force=force)
    budget = Budget.parse(settings.budget, len(ingredients.models))
    first = next((one for one in ingredients.models if one.home), ingredients.models[0])
    for one in (evaluator, *(limit.evaluator for limit in constraints)):
        one.prepare(first)
    if evaluator.size is not None:
        split.parts(evaluator.size)
    engine = SoupEngine(ingredients.models, ingredients.base)
    stack.callback(engine.close)
    if not engine.changes:
        raise InputError("the weights of these models are all the same")
    recipe = {
        "models": dict(zip(ingredients.names, engine.digests, strict=True)),
        "base": None if ingredients.base is None else ingredients.base.digest(),
        "evaluate": evaluator.identity,
        "constraints": [
            [one.evaluator.identity, one.lose_at_most, one.against] for one in constraints
        ],
        **{key: value for key, value in vars(settings).items() if key != "methods"},
        **({"methods": list(settings.methods)} if settings.methods else {}),
    }
    blends = Blends(ingredients.names, len(engine.changes), has_base=engine.base is not None)
    stages = tuple(method_stage(name, blends) for name in settings.methods)
    return SoupSetup(ingredients, evaluator, constraints, engine, settings, budget, recipe, stages)


def read_evaluator(evaluate: Evaluate) -> Opened:
    """The evaluator and its constraints. Raises ``InputError``."""
    if isinstance(evaluate, tuple):
        return evaluate
    if isinstance(evaluate, Evaluator):
        return evaluate, ()
    if isinstance(evaluate, str | Path | Mapping):
        return load_evaluator(evaluate)
    if callable(evaluate):
        return FunctionEvaluator(evaluate), ()
    raise InputError(f"{type(evaluate).__name__} is no evaluator", hint="give a function")


def _measure(
    setup: SoupSetup, store: ScoreStore, say: Callable[[str], None], advance: Callable[..., None]
) -> SoupOutcome:
    settings, engine = setup.settings, setup.engine
    evaluations = Evaluations(
        engine,
        setup.evaluator,
        store,
        RowSplit(settings.judge, settings.seed),
        setup.budget,
        say,
        advance,
        settings.racing,
    )
    limits = [one for one in setup.constraints if one.lose_at_most is not None]
    if setup.constraints:
        evaluations.limits = SoupLimits(limits, engine, store, evaluations.split)
    blends = Blends(setup.ingredients.names, len(engine.changes), has_base=engine.base is not None)
    maker = setup.make(engine, blends, evaluations, settings.seed, notes=setup.notes())
    maker.cheap()
    maker.search(settings.search, settings.layer_groups, settings.gain, setup.stages)
    watched = [one for one in setup.constraints if one.lose_at_most is None]
    kept = judge(maker, watched, settings)
    return SoupOutcome(maker, setup.ingredients, setup.evaluator, kept, setup.trained)


def _warn(words: str) -> None:
    import sys

    if not os.environ.get("NO_PROGRESS"):
        print(f"warning: {words}", file=sys.stderr)  # noqa: T201
