"""What the jobs do. Each function fills one folder from the folders of its inputs.

The order of the data: ``features`` -> ``probe`` -> ``wild`` / ``auxiliary`` -> ``finetune`` /
``periodic`` -> ``combine`` -> ``connectivity``. Weights are safetensors files of the trained part
of the model (``featurizer.*`` and ``head.*``), predictions are ``outputs*.npz``, numbers are
``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stockpot.backbones import Model
from stockpot.backbones.backbone import State
from stockpot.backbones.model import PREFIX
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.evaluation import connectivity as paths
from stockpot.files import write_json
from stockpot.recycling.combine import combine_runs
from stockpot.recycling.metrics import METRICS_FILE, read_metrics
from stockpot.recycling.starts import (
    divergence,
    initial_state,
    probed,
    way_from,
    without_head,
)
from stockpot.tasks import Split, named_generator
from stockpot.training import (
    FineTuned,
    HyperParameters,
    build_feed,
    extract_features,
    periodic_stock,
)
from stockpot.training import (
    finetune as run_finetuning,
)
from stockpot.training.finetune import Diverged
from stockpot.training.rows import (
    Outputs,
    Rows,
    all_finite,
    open_backbone,
    open_task,
    read_outputs,
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
    model = probed(rows, inputs["features"])
    save_state(out / "model.safetensors", model.state())
    outputs = rows.outputs(model)
    write_outputs(out / ROWS, rows.positions())
    write_outputs(out / "outputs.npz", outputs)
    write_json(out / METRICS_FILE, {"best": rows.metrics(outputs), "steps": 0})


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
    write_json(out / METRICS_FILE, {"steps": 0})


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

    The weights of the last step are kept, and its head is dropped (ModelRatatouille, step B). An
    auxiliary that diverged says so in ``metrics.json``; no run starts from it.
    """
    split = {"held_out": [], "seed": seed, "validation_fraction": validation_fraction}
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache)
    settings = HyperParameters(**hyperparameters)
    model = probed(rows, inputs["features"], settings.dropout)
    start = rows.start(rows.outputs(model, test=False))
    done = run_finetuning(
        model, rows.feed, rows.task, rows.split, settings, seed=seed, scratch=out / "resume"
    )
    save_state(out / "featurizer.safetensors", without_head(done.last))
    write_json(
        out / METRICS_FILE,
        {
            "steps": done.steps,
            "seconds": done.seconds,
            "history": done.history,
            "diverged": divergence(rows, model, done, start, settings.learning_rate),
        },
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
    """One run on the target: the shared head on the base's or an auxiliary's featurizer.

    ``metrics.json`` says under ``diverged`` where the run became non-finite or lost what the probe
    had; a run whose auxiliary diverged is not trained and leaves the probe's weights.
    """
    rows = Rows.open(inputs["features"], data, backbone, split, root, cache, metric)
    settings = HyperParameters(**hyperparameters)
    model = rows.model(settings.dropout)
    base = load_state(inputs["probe"] / "model.safetensors")
    model.load_state(base)
    known = read_outputs(inputs["probe"] / "outputs.npz")
    if init["kind"] == "base":
        settings = settings.replace(head_only_steps=0)
    else:
        bad = {
            name: lost
            for name, folder in inputs.items()
            if name.startswith("init") and (lost := read_metrics(folder).diverged)
        }
        if init["kind"] == "weights" and bad:
            why: Diverged = {
                "step": bad["init"].step,
                "learning_rate": bad["init"].learning_rate,
                "what": f"its auxiliary diverged: {bad['init'].what}",
            }
            done = FineTuned(base, base, base, base if swad else None, {}, 0, 0, 0.0, [], why)
            _keep_run(out, rows, model, done, base, known)
            return
        model.load_state(initial_state(rows, model, init, inputs, bad), partial=True)
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
    diverged = divergence(rows, model, done, rows.start(known), settings.learning_rate)
    _keep_run(out, rows, model, replace(done, diverged=diverged), base, known)


def _keep_run(
    out: Path, rows: Rows, model: Model, done: FineTuned, base: State, known: Outputs
) -> None:
    """Weights, predictions and numbers of a run; ``base`` and ``known`` are the probe's.

    What is written can be used: weights whose outputs are not finite are replaced by the probe's.
    """
    states = {"best": done.best, "average": rows.ready(model, done.average)}
    if done.swad is not None:
        states["swad"] = rows.ready(model, done.swad)
    metrics: dict[str, dict[str, float]] = {}
    for name, state in states.items():
        model.load_state(state)
        outputs = rows.outputs(model, test=name == "best")
        usable = all_finite(outputs)
        if not usable:
            state, outputs = base, known
        save_state(out / f"{name}.safetensors", state)
        write_outputs(out / f"outputs-{name}.npz", outputs)
        metrics[name] = {**_numbers(rows, outputs), "usable": usable}
    for step, state in done.snapshots.items():
        save_state(out / f"step-{step}.safetensors", without_head(state))
    write_json(
        out / METRICS_FILE,
        {
            **metrics,
            "way": way_from(base, load_state(out / "best.safetensors"), model),
            "best_step": done.best_step,
            "steps": done.steps,
            "seconds": done.seconds,
            "history": done.history,
            "diverged": done.diverged,
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
    model = rows.model()
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
        ready=lambda merged: rows.ready(model, merged),
        scratch=out / "resume",
    )
    model.load_state(done.last)
    outputs, last = rows.outputs(model), done.last
    known = read_outputs(inputs["probe"] / "outputs.npz")
    usable = all_finite(outputs)
    if not usable:
        last, outputs = anchor, known
    save_state(out / "last.safetensors", last)
    write_outputs(out / "outputs-last.npz", outputs)
    write_json(
        out / METRICS_FILE,
        {
            "last": {**_numbers(rows, outputs), "usable": usable},
            "steps": done.steps,
            "seconds": done.seconds,
            "history": done.history,
            "diverged": divergence(rows, model, done, rows.start(known), settings[0].learning_rate),
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
        out / METRICS_FILE,
        {"best": rows.metrics(made.outputs), "members": made.members, "how": made.how.to_json()},
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

    def weights(name: str) -> State:
        if name == "base":
            return load_state(inputs["probe"] / "model.safetensors")
        if f"run:{name}" in inputs:
            return load_state(inputs[f"run:{name}"] / "best.safetensors")
        return load_state(inputs["average"] / "model.safetensors")

    ends = {name: weights(name) for pair in pairs for name in (pair["a"], pair["b"])}

    def evaluate(state: Any) -> dict[str, float]:
        if not any(_same(state, end) for end in ends.values()):
            state = rows.ready(model, state)
        model.load_state(state)
        # Where the way leads through weights that overflow, a model counts as one that says 0.
        outputs = {n: np.where(np.isfinite(v), v, 0) for n, v in small.outputs(model).items()}
        found = small.metrics(outputs)
        return {"id": found["id_accuracy"], "ood": found["accuracy"]}

    curves = []
    for pair in pairs:
        found = paths.curve(ends[pair["a"]], ends[pair["b"]], evaluate, points)
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


def _numbers(rows: Rows, outputs: Outputs) -> dict[str, float]:
    return {**rows.metrics(outputs), "plain_score": rows.plain_score(outputs)}


def _same(state: State, other: State) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in state.items())


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
