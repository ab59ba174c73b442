"""What the jobs do. Each function fills one folder from the folders of its inputs.

The order of the data: ``features`` -> ``probe`` -> ``wild`` / ``auxiliary`` -> ``finetune`` /
``periodic`` -> ``combine`` -> ``connectivity``. Weights are safetensors files of the trained part
of the model (``featurizer.*`` and ``head.*``), predictions are ``outputs*.npz``, numbers are
``metrics.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.backbones import Model
from stockpot.backbones.model import PREFIX
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.evaluation import connectivity as paths
from stockpot.files import write_json
from stockpot.recycling.combine import combine_runs
from stockpot.tasks import Split, named_generator
from stockpot.training import (
    HyperParameters,
    build_feed,
    extract_features,
    linear_probe,
    periodic_stock,
)
from stockpot.training import (
    finetune as run_finetuning,
)
from stockpot.training.rows import (
    Rows,
    open_backbone,
    open_task,
    write_outputs,
)

ROWS = "rows.npz"
UNSEEN = "outputs-unseen.npz"

Values = Mapping[str, Any]
Folders = Mapping[str, Path]


def features(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    views: int,
    seed: int,
    root: str,
    cache: str,
) -> None:
    """Activations below the frozen cut, if there is one, and the base's features of every row."""
    task = open_task(data, root, cache)
    body = open_backbone(backbone, root)
    feed = build_feed(task, body, folder=out, views=views, augmentation=views > 0, seed=seed)
    vectors = extract_features(body, feed, np.arange(len(task)))
    np.save(out / "base_features.npy", vectors)
    write_json(out / "features.json", {"views": views, "seed": seed, "rows": len(task)})


def probe(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    metric: str,
    root: str,
    cache: str,
) -> None:
    """The head that all runs share: a linear probe on the base's features."""
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    model = _probed(rows, inputs["features"])
    save_state(out / "model.safetensors", model.state())
    outputs = rows.outputs(model)
    write_outputs(out / ROWS, rows.positions())
    write_outputs(out / "outputs.npz", outputs)
    write_json(out / "metrics.json", {"best": rows.metrics(outputs), "steps": 0})


def wild(
    out: Path,
    inputs: Folders,
    *,
    backbone: Values,
    weights: str,
    content: str,
    root: str,
    cache: str,
) -> None:
    """The trained part of somebody else's fine-tuning of the same base, without its head."""
    body = open_backbone(backbone, root)
    path = Path(root) / weights
    found = body.adopt(load_state(path), str(path))
    save_state(out / "featurizer.safetensors", {PREFIX + name: t for name, t in found.items()})
    write_json(out / "metrics.json", {"steps": 0})


def auxiliary(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    hyperparameters: Values,
    validation_fraction: float,
    seed: int,
    root: str,
    cache: str,
) -> None:
    """Fine-tune the base on another task, all of its domains, from a linear probe.

    The weights of the last step are kept, and its head is dropped (ModelRatatouille, step B).
    """
    split = {"held_out": [], "seed": seed, "validation_fraction": validation_fraction}
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache)
    settings = HyperParameters(**hyperparameters)
    model = _probed(rows, inputs["features"], settings.dropout)
    done = run_finetuning(
        model, rows.feed, rows.task, rows.split, settings, seed=seed, scratch=out / "resume"
    )
    save_state(out / "featurizer.safetensors", _featurizer(done.last))
    write_json(
        out / "metrics.json",
        {"steps": done.steps, "seconds": done.seconds, "history": done.history},
    )


def finetune(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    hyperparameters: Values,
    seed: int,
    init: Values,
    snapshots: list[int],
    swad: bool,
    metric: str,
    root: str,
    cache: str,
) -> None:
    """One run on the target: the shared head on the base's or an auxiliary's featurizer."""
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    settings = HyperParameters(**hyperparameters)
    model = rows.model(settings.dropout)
    base = load_state(inputs["probe"] / "model.safetensors")
    model.load_state(base)
    if init["kind"] == "base":
        settings = settings.replace(head_only_steps=0)
    else:
        model.load_state(_start(init, inputs), partial=True)
    done = run_finetuning(
        model,
        rows.feed,
        rows.task,
        rows.split,
        settings,
        seed=seed,
        metric=metric,
        snapshots=snapshots,
        swad=swad,
        scratch=out / "resume",
    )
    states = {"best": done.best, "average": done.average}
    if done.swad is not None:
        states["swad"] = done.swad
    metrics: dict[str, Any] = {}
    for name, state in states.items():
        save_state(out / f"{name}.safetensors", state)
        model.load_state(state)
        outputs = rows.outputs(model, test=name == "best")
        write_outputs(out / f"outputs-{name}.npz", outputs)
        metrics[name] = rows.metrics(outputs)
    for step, state in done.snapshots.items():
        save_state(out / f"step-{step}.safetensors", _featurizer(state))
    write_json(
        out / "metrics.json",
        {
            **metrics,
            "way": _way_from(base, done.best),
            "best_step": done.best_step,
            "steps": done.steps,
            "seconds": done.seconds,
            "history": done.history,
        },
    )


def periodic(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    hyperparameters: list[Values],
    seeds: list[int],
    every: int,
    optimizer_state: Literal["keep", "reset"],
    metric: str,
    root: str,
    cache: str,
) -> None:
    """Model Stock during training: parallel runs, merged every ``every`` steps towards the base."""
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    anchor = load_state(inputs["probe"] / "model.safetensors")
    settings = [HyperParameters(**each).replace(head_only_steps=0) for each in hyperparameters]
    done = periodic_stock(
        lambda index: rows.model(settings[index].dropout),
        anchor,
        rows.feed,
        rows.task,
        rows.split,
        settings,
        seeds=seeds,
        every=every,
        metric=metric,
        optimizer_state=optimizer_state,
        scratch=out / "resume",
    )
    model = rows.model()
    model.load_state(done.last)
    save_state(out / "last.safetensors", done.last)
    outputs = rows.outputs(model)
    write_outputs(out / "outputs-last.npz", outputs)
    write_json(
        out / "metrics.json",
        {
            "last": rows.metrics(outputs),
            "steps": done.steps,
            "seconds": done.seconds,
            "history": done.history,
        },
    )


def combine(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    members: list[str],
    take: str,
    select: str,
    combine: str,
    greedy_on: str,
    metric: str,
    root: str,
    cache: str,
) -> None:
    """Select runs and make one model, or one prediction, of them."""
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    runs = {name: inputs[f"run:{name}"] for name in members}
    made = combine_runs(
        rows, runs, inputs["probe"], take=take, select=select, combine=combine, greedy_on=greedy_on
    )
    if made.state is not None:
        save_state(out / "model.safetensors", made.state)
    write_outputs(out / "outputs.npz", made.outputs)
    if made.unseen is not None:
        write_outputs(out / UNSEEN, made.unseen)
    write_json(
        out / "metrics.json",
        {"best": rows.metrics(made.outputs), "members": made.members, "how": made.how},
    )


def connectivity(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    pairs: list[dict[str, str]],
    points: int,
    examples: int,
    metric: str,
    root: str,
    cache: str,
) -> None:
    """The score along the straight line between pairs of weights, on a sample of the rows."""
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    seed = split["seed"]
    part = _sample(rows, examples, seed)
    small = Rows(rows.task, part, rows.backbone, rows.feed, metric)
    model = small.model()

    def evaluate(state: Any) -> dict[str, float]:
        model.load_state(state)
        found = small.metrics(small.outputs(model))
        return {"id": found["id_accuracy"], "ood": found["accuracy"]}

    def weights(name: str) -> Any:
        if name == "base":
            return load_state(inputs["probe"] / "model.safetensors")
        if f"run:{name}" in inputs:
            return load_state(inputs[f"run:{name}"] / "best.safetensors")
        return load_state(inputs["average"] / "model.safetensors")

    curves = []
    for pair in pairs:
        found = paths.curve(weights(pair["a"]), weights(pair["b"]), evaluate, points)
        curves.append(
            {
                **pair,
                "lambdas": found.lambdas,
                "id": found.values["id"],
                "ood": found.values["ood"],
                "barrier_id": found.barrier["id"],
                "barrier_ood": found.barrier["ood"],
                "examples_id": sum(map(len, small.split.validation.values())),
                "examples_ood": sum(map(len, small.split.test.values())),
            }
        )
    write_json(out / "connectivity.json", curves)


def _probed(rows: Rows, folder: Path, dropout: float = 0.0) -> Model:
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


def _featurizer(state: Values) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.startswith(PREFIX)}


def _way_from(base: Values, state: Values) -> dict[str, float]:
    """How far a run went: median cosine of its matrices to the base's, relative distance."""
    cosines, moved, norm = [], 0.0, 0.0
    for name, value in _featurizer(state).items():
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


def _start(init: Values, inputs: Folders) -> dict[str, Any]:
    """Featurizer weights that a run starts from."""
    if init["kind"] == "weights":
        return load_state(inputs["init"] / "featurizer.safetensors")
    if init["kind"] == "trajectory":
        return load_state(inputs["init"] / f"step-{init['snapshot']}.safetensors")
    from stockpot.merging import merge

    base = _featurizer(load_state(inputs["probe"] / "model.safetensors"))
    count = len(init["coefficients"])
    others = [load_state(inputs[f"init{i}"] / "featurizer.safetensors") for i in range(1, count)]
    merged = merge([base, *others], method="linear", weights=init["coefficients"])
    return dict(merged.state)


def _sample(rows: Rows, examples: int, seed: int) -> Split:
    """About ``examples`` validation rows and as many held-out rows, spread over the domains.

    More of a domain where the metric is undefined for so few, such as rows of one class.
    """

    def some(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        share = max(1, examples // max(1, len(parts)))
        sampled = {}
        for name, own in parts.items():
            order, count = named_generator(seed, "paths", name).permutation(own), share
            while count < len(own) and not rows.is_defined(order[:count]):
                count *= 2
            sampled[name] = np.sort(order[:count])
        return sampled

    split = rows.split
    return Split(train=split.train, validation=some(split.validation), test=some(split.test))


def read_metrics(folder: Path) -> dict[str, Any]:
    """A job's numbers."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found
