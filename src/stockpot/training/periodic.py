"""Model Stock during training: parallel runs, merged towards a fixed anchor now and then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stockpot.backbones.backbone import State
from stockpot.backbones.model import Model
from stockpot.errors import DivergedError, InputError
from stockpot.files import write_json
from stockpot.progress import progress
from stockpot.tasks import Split, Task
from stockpot.training.feed import Feed
from stockpot.training.finetune import describe
from stockpot.training.hyperparameters import HyperParameters
from stockpot.training.mixing import mix
from stockpot.training.trainer import Trainer


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
    diverged: dict[str, Any] | None


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
    ``scratch`` is a folder for resuming, saved at every merge. Members must have the same steps.
    """
    steps = settings[0].steps
    if len(settings) < 2 or len(seeds) != len(settings):
        raise InputError(f"periodic merging: {len(settings)} members and {len(seeds)} seeds")
    if any(each.steps != steps for each in settings) or every < 1:
        raise InputError("periodic merging: members need the same steps, and 'every' 1 or more")
    trainers = []
    for index, (each, seed) in enumerate(zip(settings, seeds, strict=True)):
        model = make_model(index)
        model.load_state(anchor)
        # A member by itself is never evaluated: only merged weights are.
        trainers.append(
            Trainer(
                model,
                feed,
                task.labels,
                split.train,
                {},
                each.replace(evaluate_every=steps + 1, average_from=1.0),
                seed=seed,
                kind=task.kind,
                device=device,
            )
        )
    merged: State = dict(anchor)
    history: list[dict[str, Any]] = []
    best, best_step = merged, 0
    diverged: DivergedError | None = None
    note = scratch / "periodic.json" if scratch is not None else None
    if scratch is not None and note is not None and note.exists():
        found = json.loads(note.read_text(encoding="utf-8"))
        history, best_step = found["history"], found["best_step"]
        for index, trainer in enumerate(trainers):
            trainer.load(scratch / f"member-{found['step']}-{index}.pt")
        merged = _read(scratch / f"merged-{found['step']}.safetensors")
        if best_step:
            best = _read(scratch / f"merged-{best_step}.safetensors")
    done = trainers[0].step
    evaluator = Trainer(
        trainers[0].model,
        feed,
        task.labels,
        split.train,
        split.validation,
        settings[0],
        seed=seeds[0],
        kind=task.kind,
        metric=metric,
        device=device,
    )
    if not history:
        evaluator.load_weights(merged)
        history.append(_entry(0, evaluator.evaluate()))
    with progress("Model Stock during training", steps) as advance:
        advance(done)
        while done < steps:
            states = []
            for index, trainer in enumerate(trainers):
                trainer.model.dropout.p = settings[index].dropout
                trainer.load_weights(merged)
                if optimizer_state == "reset":
                    trainer.reset_optimizer()
                trainer.advance(every)
                states.append(trainer.state())
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
            merged = tried
            history.append(_entry(done, score))
            if score["validation"] > max(h["validation"] for h in history[:-1]) + 1e-9:
                best, best_step = merged, done
            if scratch is not None and note is not None and done < steps:
                _save(scratch, trainers, merged, done)
                write_json(note, {"step": done, "best_step": best_step, "history": history})
    if scratch is not None and scratch.exists():
        for file in scratch.iterdir():
            file.unlink()
        scratch.rmdir()
    return PeriodicStock(
        best=best,
        last=merged,
        best_step=best_step,
        steps=sum(trainer.step for trainer in trainers),
        seconds=sum(trainer.progress.seconds for trainer in trainers),
        history=history,
        diverged=describe(diverged) if diverged else None,
    )


def _entry(step: int, score: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": step, **{key: score[key] for key in ("validation", "by_domain")}}


def _save(scratch: Path, trainers: Sequence[Trainer], merged: State, step: int) -> None:
    from stockpot.checkpoints.torch_io import save_state

    scratch.mkdir(parents=True, exist_ok=True)
    save_state(scratch / f"merged-{step}.safetensors", merged)
    for index, trainer in enumerate(trainers):
        trainer.save(scratch / f"member-{step}-{index}.pt")


def _read(path: Path) -> State:
    from stockpot.checkpoints.torch_io import load_state

    return dict(load_state(path))
