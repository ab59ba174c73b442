"""A whole fine-tuning: train, keep the best, the last, the averages and the snapshots; resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from stockpot.backbones.backbone import State
from stockpot.backbones.model import Model
from stockpot.errors import DivergedError
from stockpot.progress import progress
from stockpot.tasks import Split, Task
from stockpot.training.feed import Feed
from stockpot.training.hyperparameters import HyperParameters
from stockpot.training.trainer import Trainer

_RESUME = "trainer.pt"


class Diverged(TypedDict):
    """Where a run became useless, and how: as ``metrics.json`` has it."""

    step: int
    learning_rate: float
    what: str


@dataclass(frozen=True)
class FineTuned:
    """What a run leaves; states hold the trained part of the model, in original units.

    ``best``: the step with the best mean score over the validation domains (the first of
    equals). ``average``: uniform mean of the iterates, at the evaluation or the end that
    ``average_at`` names. ``swad``: None unless asked for. ``steps``: those taken, which
    ``early_stopping`` may make fewer. ``history``: one entry per evaluation, step 0 first, with
    ``step``, ``validation``, ``by_domain``, ``validation_loss`` and ``loss`` (of the steps since
    the last; None at step 0), and where the average was evaluated, ``average_validation``.
    ``diverged``: None, or where and with what a run ended early that became non-finite. Then
    ``last``, and whatever else it did not come to, is ``best``: step 0 always is a candidate.
    """

    best: State
    last: State
    average: State
    swad: State | None
    snapshots: dict[int, State]
    best_step: int
    steps: int
    seconds: float
    history: list[dict[str, Any]]
    diverged: Diverged | None


def finetune(
    model: Model,
    feed: Feed,
    task: Task,
    split: Split,
    settings: HyperParameters,
    *,
    seed: int,
    metric: str | None = None,
    snapshots: Sequence[int] = (),
    swad: bool = False,
    scratch: Path | None = None,
    device: str | None = None,
    shares: int | None = None,
) -> FineTuned:
    """Fine-tune ``model`` from the weights it has, which are a candidate of "best" themselves.

    ``metric``: what the best step is chosen by (None: the default of the task's kind).
    ``snapshots``: steps after which the weights are kept; those of a step that an early stop leaves
    out are the last ones. ``scratch``: a folder in which the run is
    saved at every evaluation, so that the same call goes on after a kill; emptied at the end.
    ``shares``: see ``shares.py``; a program that ``torchrun`` starts several times trains together.
    """
    start = model.state()
    trainer = Trainer(
        model,
        feed,
        task.labels,
        split.train,
        split.validation,
        settings,
        seed=seed,
        kind=task.kind,
        metric=metric,
        classes=task.classes,
        swad=swad,
        snapshots=snapshots,
        device=device,
        shares=shares,
    )
    saved = scratch / _RESUME if scratch is not None else None
    if saved is not None and saved.exists():
        trainer.load(saved)
    with progress("Fine-tuning", settings.steps) as advance:
        advance(trainer.step)
        while not trainer.finished:
            before = trainer.step
            trainer.advance(settings.evaluate_every - before % settings.evaluate_every)
            advance(trainer.step - before)
            if saved is not None and not trainer.finished:
                trainer.save(saved)
    result = _result(trainer, start, snapshots, swad)
    if saved is not None and trainer.accelerator.is_main_process:
        saved.unlink(missing_ok=True)
        if saved.parent.exists() and not any(saved.parent.iterdir()):
            saved.parent.rmdir()
    return result


def _result(trainer: Trainer, start: State, snapshots: Sequence[int], swad: bool) -> FineTuned:
    """What a trainer has at its end; ``start`` stands for what it did not come to."""
    best, seen = trainer.progress.best or start, trainer.progress.snapshots
    ended_well = trainer.diverged is None
    last = trainer.state() if ended_well else best
    return FineTuned(
        best=best,
        last=last,
        average=trainer.average() if ended_well or trainer.moving.count else best,
        swad=trainer.swad() if ended_well or trainer.moving.count or not swad else best,
        snapshots={step: seen.get(step, last) for step in snapshots},
        best_step=trainer.progress.best_step,
        steps=trainer.step,
        seconds=trainer.progress.seconds,
        history=trainer.progress.history,
        diverged=describe(trainer.diverged) if trainer.diverged else None,
    )


def describe(error: DivergedError) -> Diverged:
    """How ``metrics.json`` and ``results.json`` say that a run diverged."""
    what = f"the {error.what} is not finite"
    return {"step": error.step, "learning_rate": error.learning_rate, "what": what}
