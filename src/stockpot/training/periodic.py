"""Model Stock during training: parallel runs, merged towards a fixed anchor now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stockpot.backbones.backbone import State
from stockpot.backbones.model import Model
from stockpot.errors import DivergedError, InputError
from stockpot.files import write_json
from stockpot.progress import progress
from stockpot.reading import read_json
from stockpot.tasks import Split, Task
from stockpot.training.feed import Feed
from stockpot.training.finetune import Diverged, describe
from stockpot.training.hyperparameters import HyperParameters
from stockpot.training.mixing import mix
from stockpot.training.trainer import Trainer, is_stopped

_NOTE = "periodic.json"


@dataclass(frozen=True)
class PeriodicStock:
    """``last`` and ``best`` are merged weights; ``steps`` and ``seconds`` count all members.

    ``history`` begins with the anchor at step 0. ``diverged``: None, or how a member (or a merge)
    became non-finite; the run ended there, and ``last`` are the last finite merged weights.
    """

    best: State
    last: State
    best_step: int
    steps: int
    seconds: float
    history: list[dict[str, Any]]
    diverged: Diverged | None


def stock(states: Sequence[Mapping[str, Tensor]], anchor: Mapping[str, Tensor]) -> State:
    """Model Stock of some states around ``anchor`` (Jang et al. 2024, equation 7, per tensor)."""
    from stockpot.merging import merge

    return mix([*states, anchor], lambda own: merge(own[:-1], method="stock", base=own[-1]).state)


def periodic_stock(
    make_model: Callable[[int], Model],
    anchor: Mapping[str, Tensor],
    feed: Feed,
    task: Task,
    split: Split,
    settings: Sequence[HyperParameters],
    *,
    seeds: Sequence[int],
    every: int,
    metric: str | None = None,
    optimizer_state: Literal["keep", "reset"] = "keep",
    ready: Callable[[State], State] = lambda merged: merged,
    scratch: Path | None = None,
    device: str | None = None,
) -> PeriodicStock:
    """Train one member per setting; every ``every`` steps all go on from their Model Stock average.

    All start at ``anchor``, which stays the anchor of every merge (the paper's periodic merging).
    ``make_model(i)`` gives member i's model; members may share one backbone, as their weights are
    swapped in and out. ``metric``: what the best merge is chosen by (None: the default of the
    task's kind). ``optimizer_state``: after a merge a member's moments are kept or forgotten.
    ``ready`` makes merged weights ready for use (statistics of their own, see ``Rows.ready``).
    ``scratch`` is a folder for resuming, saved at every merge. Members must have the same steps;
    ``early_stopping`` of the first counts evaluations of the merged weights.
    """
    steps = settings[0].steps
    if len(settings) < 2 or len(seeds) != len(settings):
        raise InputError(f"periodic merging: {len(settings)} members and {len(seeds)} seeds")
    if any(own.steps != steps for own in settings) or every < 1:
        raise InputError("periodic merging: members need the same steps, and 'every' 1 or more")
    trainer_of = partial(
        Trainer,
        feed=feed,
        labels=task.labels,
        train=split.train,
        kind=task.kind,
        classes=task.classes,
        device=device,
    )
    trainers = _members(trainer_of, make_model, anchor, settings, seeds)
    merges = _Merges(scratch, trainers, dict(anchor), dict(anchor))
    evaluator = trainer_of(
        trainers[0].model, validation=split.validation, hp=settings[0], seed=seeds[0], metric=metric
    )
    diverged: DivergedError | None = None
    if not merges.history:
        evaluator.load_weights(merges.last)
        merges.add(0, merges.last, evaluator.evaluate())
    done = trainers[0].step
    with progress("Model Stock during training", steps) as advance:
        advance(done)
        while done < steps and not is_stopped(merges.history, merges.best_step, settings[0]):
            states = _advance(trainers, settings, merges.last, every, optimizer_state)
            diverged = next((t.diverged for t in trainers if t.diverged), None)
            if diverged is not None:
                break
            tried = ready(stock(states, anchor))
            advance(trainers[0].step - done)
            done = evaluator.progress.step = trainers[0].step
            evaluator.load_weights(tried)
            try:
                score = evaluator.evaluate()
            except DivergedError as error:
                diverged = error
                break
            merges.add(done, tried, score)
            if done < steps:
                merges.save(done)
    return merges.finish(diverged)


@dataclass
class _Merges:
    """The merged weights so far: the last and the best of them, and how all of them scored.

    ``scratch``: the folder for resuming, if any.
    """

    scratch: Path | None
    trainers: Sequence[Trainer]
    last: State
    best: State
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, merged: State, score: Mapping[str, Any]) -> None:
        before = [entry["validation"] for entry in self.history]
        if before and score["validation"] > max(before) + 1e-9:
            self.best, self.best_step = merged, step
        self.last = merged
        shown = {key: score[key] for key in ("validation", "by_domain")}
        self.history.append({"step": step, **shown})

    def save(self, step: int) -> None:
        """Keep everything in ``scratch``; the note, which says that it is whole, comes last."""
        from stockpot.checkpoints.torch_io import save_state

        if self.scratch is None:
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        save_state(self.scratch / f"merged-{step}.safetensors", self.last)
        for index, trainer in enumerate(self.trainers):
            trainer.save(self.scratch / f"member-{step}-{index}.pt")
        note = {"step": step, "best_step": self.best_step, "history": self.history}
        write_json(self.scratch / _NOTE, note)

    def __post_init__(self) -> None:
        """Go on from what ``save`` has kept, if anything."""
        if self.scratch is None or not (self.scratch / _NOTE).exists():
            return
        note = read_json(self.scratch / _NOTE)
        self.history, self.best_step = note["history"], note["best_step"]
        for index, trainer in enumerate(self.trainers):
            trainer.load(self.scratch / f"member-{note['step']}-{index}.pt")
        self.last = _read(self.scratch / f"merged-{note['step']}.safetensors")
        if self.best_step:
            self.best = _read(self.scratch / f"merged-{self.best_step}.safetensors")

    def finish(self, diverged: DivergedError | None) -> PeriodicStock:
        """The whole of it; ``scratch`` is removed."""
        if self.scratch is not None and self.scratch.exists():
            for file in self.scratch.iterdir():
                file.unlink()
            self.scratch.rmdir()
        return PeriodicStock(
            best=self.best,
            last=self.last,
            best_step=self.best_step,
            steps=sum(trainer.step for trainer in self.trainers),
            seconds=sum(trainer.progress.seconds for trainer in self.trainers),
            history=self.history,
            diverged=describe(diverged) if diverged else None,
        )


def _members(
    trainer_of: Callable[..., Trainer],
    make_model: Callable[[int], Model],
    anchor: Mapping[str, Tensor],
    settings: Sequence[HyperParameters],
    seeds: Sequence[int],
) -> list[Trainer]:
    """One trainer a member, at the anchor. It never evaluates: only merged weights are scored."""
    trainers = []
    for index, (own, seed) in enumerate(zip(settings, seeds, strict=True)):
        model = make_model(index)
        model.load_state(anchor)
        alone = own.replace(evaluate_every=own.steps + 1, average_from=1.0, early_stopping=None)
        trainers.append(trainer_of(model, validation={}, hp=alone, seed=seed))
    return trainers


def _advance(
    trainers: Sequence[Trainer],
    settings: Sequence[HyperParameters],
    merged: State,
    every: int,
    optimizer_state: str,
) -> list[State]:
    """Every member's weights after ``every`` steps from the merged ones."""
    states = []
    for trainer, own in zip(trainers, settings, strict=True):
        trainer.model.dropout.p = own.dropout
        trainer.load_weights(merged)
        if optimizer_state == "reset":
            trainer.reset_optimizer()
        trainer.advance(every)
        states.append(trainer.state())
    return states


def _read(path: Path) -> State:
    from stockpot.checkpoints.torch_io import load_state

    return dict(load_state(path))
