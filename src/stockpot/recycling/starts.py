"""What a run starts from, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Model
from stockpot.backbones.backbone import State
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation.collapse import Start
from stockpot.evaluation.metrics import default_metric
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.schema import LeftOutRun
from stockpot.training import FineTuned, PeriodicStock, linear_probe
from stockpot.training.finetune import Diverged
from stockpot.training.mixing import mix
from stockpot.training.rows import Rows, read_outputs

Values = Mapping[str, Any]
Folders = Mapping[str, Path]


def probed(rows: Rows, folder: Path, dropout: float = 0.0) -> Model:
    """The base with a linear probe trained on its features of the training rows."""
    vectors = np.load(folder / "base_features.npy", mmap_mode="r")
    train = np.concatenate(list(rows.split.train.values()))
    validation = np.concatenate(list(rows.split.validation.values()))
    labels = rows.task.labels
    weight, bias = linear_probe(
        np.asarray(vectors[train]),
        labels[train],
        np.asarray(vectors[validation]),
        labels[validation],
        n_outputs=rows.n_outputs,
        kind=rows.task.kind,
    )
    model = rows.model(dropout)
    model.set_head(weight, bias)
    return model


def without_head(state: Values) -> State:
    """What a state holds of the backbone, buffers included."""
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def initial_state(
    rows: Rows, model: Model, init: Values, inputs: Folders, diverged: Iterable[str]
) -> State:
    """Weights of the backbone that a run starts from.

    A mixture leaves out those of its ``inputs`` that ``diverged``; the others keep their
    proportions.
    """
    if init["kind"] == "weights":
        return load_state(inputs["init"] / "featurizer.safetensors")
    if init["kind"] == "trajectory":
        return load_state(inputs["init"] / f"step-{init['snapshot']}.safetensors")
    from stockpot.merging import merge

    probe = load_state(inputs["probe"] / "model.safetensors")
    base = without_head(probe)
    shares = init["coefficients"]
    used = {0: base} | {
        index: {**base, **load_state(inputs[f"init{index}"] / "featurizer.safetensors")}
        for index in range(1, len(shares))
        if f"init{index}" not in diverged
    }
    weights = np.array([shares[index] for index in used])
    weights /= weights.sum() if len(used) < len(shares) else 1.0
    fused = mix(
        list(used.values()),
        lambda states: merge(states, method="linear", weights=weights.tolist()).state,
    )
    return without_head(rows.ready(model, {**probe, **fused}))


def divergence(
    rows: Rows, model: Model, done: FineTuned | PeriodicStock, start: Start, learning_rate: float
) -> Diverged | None:
    """Where and how a run became useless: non-finite, or far below the probe at its end."""
    if done.diverged is not None or not done.history:
        return done.diverged
    last, score = done.history[-1], done.history[-1]["validation"]
    if not rows.has_default_metric:
        model.load_state(done.last)
        score = rows.plain_score(rows.outputs(model, test=False))
    if not start.collapsed(score):
        return None
    what = f"at the end {_compared(rows, score, start)}"
    return {"step": last["step"], "learning_rate": learning_rate, "what": what}


def unusable(rows: Rows, runs: Mapping[str, Path], probe: Path, take: str) -> list[LeftOutRun]:
    """Runs that no average wants, each with why."""
    start = rows.start(read_outputs(probe / "outputs.npz"))
    left_out = []
    for name, folder in runs.items():
        metrics = read_metrics(folder)
        own = metrics.of(take)
        if metrics.diverged:
            why = f"diverged: {metrics.diverged.what}"
        elif not own.usable:
            why = "its outputs are not finite"
        elif start.collapsed(own.plain_score):
            why = _compared(rows, own.plain_score, start)
        else:
            continue
        left_out.append(LeftOutRun(member=name, why=why))
    return left_out


def _compared(rows: Rows, score: float | None, start: Start) -> str:
    label = default_metric(rows.task.kind).label
    return f"{label} on validation {score:.3g}, linear probe {start.score:.3g}"


def way_from(base: Values, state: Values, model: Model) -> dict[str, float]:
    """How far a run went: median cosine of its matrices to the base's, relative distance."""
    cosines, moved, norm = [], 0.0, 0.0
    for name, value in without_head(state).items():
        if not model.is_weight(name):
            continue
        there, here = value.double().flatten(), base[name].double().flatten()
        moved += float((there - here).square().sum())
        norm += float(here.square().sum())
        if value.ndim >= 2:
            scale = float(there.norm() * here.norm())
            cosines.append(float(there @ here) / scale if scale > 0 else 0.0)
    return {
        "cosine": float(np.median(cosines)) if cosines else 1.0,
        "distance": float(np.sqrt(moved / norm)) if norm > 0 else 0.0,
    }
