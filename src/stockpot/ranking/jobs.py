"""What ``rank`` does outside its own process: one fine-tuning, up to some step, as a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Model
from stockpot.backbones.folder import place_base, save_folder
from stockpot.files import atomic_folder, write_json
from stockpot.provenance import Parent, Record, RunModel, versions, write_models
from stockpot.reading import read_json
from stockpot.tasks import Task, image_decoding, split_task
from stockpot.training import HyperParameters, Trainer, build_feed, extract_features, linear_probe
from stockpot.training.rows import Rows, open_backbone, open_task

Values = Mapping[str, Any]
Folders = Mapping[str, Path]
MODEL = "model"
_STATE = "trainer.pt"


def fine_tune(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    split: Values,
    hyperparameters: Values,
    augmentation: bool,
    seed: int,
    until: int,
    root: str,
    zoo: str,
    cache: str,
) -> None:
    """Fine-tune one model from its linear probe to step ``until``, and measure it.

    ``inputs`` may name the job that trained it up to an earlier step: this one goes on from there,
    with the numbers it would have had in one go. ``metrics.json`` holds ``value`` (accuracy or R2
    on the held-out domains where there are any, else on the validation rows; mean over domains),
    ``examples`` (how many it was measured on), ``probe`` (the same before training, None for a job
    that goes on) and ``seconds``. A job that comes to the last step keeps the model in ``model/``.
    """
    task = open_task(data, root, cache)
    body = open_backbone(backbone, zoo)
    parts = split_task(task, **split)
    feed = build_feed(
        task, body, folder=out / "activations", augmentation=augmentation, views=2, seed=seed
    )
    rows = Rows(task, parts, body, feed)
    settings = HyperParameters(**hyperparameters)
    model = rows.model(settings.dropout)
    measured = parts.test or parts.validation
    saved, before = out / _STATE, inputs.get("before")
    probe = None
    if not saved.exists() and before is None:
        _probe(rows, model)
        probe = _measure(rows, model)
        write_json(out / "probe.json", {"value": probe})
    trainer = Trainer(
        model, feed, task.labels, parts.train, {}, settings, seed=seed, kind=task.kind
    )
    if saved.exists():
        trainer.load(saved)
        probe = _read_probe(out)
    elif before is not None:
        trainer.load(before / _STATE)
    while trainer.step < until:
        step = settings.evaluate_every - trainer.step % settings.evaluate_every
        trainer.advance(min(step, until - trainer.step))
        if trainer.diverged is not None:
            raise trainer.diverged
        if trainer.step < settings.steps:
            trainer.save(saved)
    model.load_state(trainer.state())
    write_json(
        out / "metrics.json",
        {
            "value": _measure(rows, model),
            "examples": int(sum(map(len, measured.values()))),
            "probe": probe,
            "steps": trainer.step,
            "seconds": round(trainer.progress.seconds, 3),
        },
    )
    if trainer.step == settings.steps:
        saved.unlink(missing_ok=True)
        arguments = {
            "data": dict(data),
            "backbone": dict(backbone),
            "split": dict(split),
            "hyperparameters": dict(hyperparameters),
            "augmentation": augmentation,
            "seed": seed,
        }
        _keep(out, model, task, Path(zoo), arguments)


def _keep(out: Path, model: Model, task: Task, zoo: Path, arguments: Values) -> None:
    """The whole fine-tuning as a model folder, and where its base lies."""
    base = place_base(model.backbone, zoo, out)
    assert base.name is not None
    assert base.digest is not None
    metrics = read_json(out / "metrics.json")
    record = Record(
        kind="finetune",
        name=f"{base.name} on {task.name}",
        parents=(Parent(base.name, base.digest, "base"),),
        recipe=dict(arguments),
        data=task.fingerprint,
        metrics={"value": metrics["value"]},
        versions=versions("torch"),
    )
    with atomic_folder(out / MODEL, replace=True) as folder:
        save_folder(
            folder,
            model.backbone,
            model.state(),
            record=record,
            classes=task.classes,
            images=image_decoding(task, arguments["data"]["spec"].get("resize")),
        )
    write_models(out, [base, RunModel(MODEL)])


def _probe(rows: Rows, model: Model) -> None:
    """The head starts as a linear probe on the model's own features."""
    train = np.concatenate(list(rows.split.train.values()))
    validation = np.concatenate(list(rows.split.validation.values()))
    labels = rows.task.labels
    weight, bias = linear_probe(
        extract_features(rows.backbone, rows.feed, train),
        labels[train],
        extract_features(rows.backbone, rows.feed, validation),
        labels[validation],
        n_outputs=rows.n_outputs,
        kind=rows.task.kind,
    )
    model.set_head(weight, bias)


def _measure(rows: Rows, model: Model) -> float:
    found = rows.metrics(rows.outputs(model))
    return float(found.get("accuracy", found["id_accuracy"]))


def _read_probe(out: Path) -> float | None:
    try:
        return float(read_json(out / "probe.json")["value"])
    except FileNotFoundError:
        return None
