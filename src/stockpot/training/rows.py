"""What every job on one task sees: task, split, backbone, features on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone, Model, load_backbone, reestimate_batchnorm
from stockpot.backbones.backbone import State
from stockpot.backbones.spec import BackboneSpec
from stockpot.errors import BackboneError, InputError, TaskError
from stockpot.evaluation.collapse import Start, measure_start, plain_score
from stockpot.evaluation.metrics import default_metric, fitting_metric
from stockpot.reading import read_json
from stockpot.tasks import (
    PARTS,
    Split,
    Task,
    draw_groups,
    load_task,
    named_generator,
    rotation_task,
    set_apart,
    split_task,
    take_rows,
)
from stockpot.tasks.specs import parse_task_spec
from stockpot.training.device import best_device
from stockpot.training.feed import Feed, build_feed
from stockpot.training.predict import predict

Outputs = dict[str, np.ndarray]
"""Predictions by ``"validation/<domain>"`` and ``"test/<domain>"``: float32 (N, outputs)."""


@lru_cache(maxsize=4)
def _task(data: str, root: str, cache: str) -> Task:
    value = json.loads(data)
    task = load_task(
        parse_task_spec(value["spec"]),
        root=Path(root),
        skip_corrupt=value["skip_corrupt"],
        cache=Path(cache),
        seed=value["seed"],
    )
    if value["content"] != task.fingerprint:
        raise TaskError(f"task '{task.name}': the data changed while the run was going on")
    if value["limit"] is not None:
        task = limit_task(task, value["limit"], value["seed"])
    if "rotation" in value:
        options = dict(value["rotation"])
        seen, _ = set_apart(task, held_out=options.pop("exclude"), **options)
        rows = np.concatenate(list(seen.values()))
        task = rotation_task(task, domains=list(seen), rows=rows, seed=value["seed"])
    return task


@lru_cache(maxsize=2)
def _backbone(spec: str, content: str, root: str) -> Backbone:
    body = load_backbone(BackboneSpec.model_validate_json(spec), root=Path(root))
    if body.fingerprint != content:
        raise BackboneError(
            f"backbone '{body.spec.name}' has other weights than a moment ago",
            hint="give it fixed weights, such as 'weights: FILE': averages need one base",
        )
    return body


def limit_task(task: Task, limit: int, seed: int) -> Task:
    """At most ``limit`` examples of every domain, drawn by ``seed`` and the domain's name alone.

    Where splits are fixed, so many of each part of every domain.
    """
    rows = []
    for domain in task.domains:
        own = task.rows(domain)
        if task.splits is None:
            rows.append(_limited(own, limit, seed, domain))
            continue
        for number, part in enumerate(PARTS):
            rows.append(_limited(own[task.splits[own] == number], limit, seed, domain, part))
    return take_rows(task, np.concatenate(rows))


def _limited(rows: np.ndarray, limit: int, seed: int, *names: str) -> np.ndarray:
    if len(rows) <= limit:
        return rows
    return np.sort(named_generator(seed, "limit", *names).permutation(rows)[:limit])


@dataclass
class Rows:
    """One split of one task, as inputs of one backbone.

    ``backbone`` holds the base's weights whenever a ``Rows`` is made. ``metric``: what scores and
    metrics are by; None: the default of the task's kind.
    """

    task: Task
    split: Split
    backbone: Backbone
    feed: Feed
    metric: str | None = None
    whole: Split | None = None
    """Of one half of the validation rows: the split that was halved."""

    @classmethod
    def open(
        cls,
        features: Path,
        data: Mapping[str, Any],
        backbone: Mapping[str, Any],
        split: Mapping[str, Any],
        root: str,
        cache: str,
        metric: str | None = None,
    ) -> Rows:
        """Load what a job needs; a worker that does several jobs loads it once."""
        task = open_task(data, root, cache)
        body = open_backbone(backbone, root)
        return cls(task, split_task(task, **split), body, open_feed(task, body, features), metric)

    @property
    def n_outputs(self) -> int:
        """Width of the head: classes, or one value."""
        return len(self.task.classes) if self.task.kind == "classification" else 1

    def model(self, dropout: float = 0.0) -> Model:
        """The backbone with a new head, to be filled by ``Model.load_state``."""
        return Model(self.backbone, self.n_outputs, dropout=dropout)

    def outputs(self, model: Model, *, test: bool = True) -> Outputs:
        """Predictions on the validation rows and, with ``test``, on the test rows."""
        parts = {f"validation/{name}": rows for name, rows in self.split.validation.items()}
        if test:
            parts |= {f"test/{name}": rows for name, rows in self.split.test.items()}
        return {name: predict(model, self.feed, rows) for name, rows in parts.items()}

    def positions(self) -> dict[str, np.ndarray]:
        """The task's rows behind outputs, by the same names."""
        rows = {f"validation/{name}": own for name, own in self.split.validation.items()}
        return rows | {f"test/{name}": own for name, own in self.split.test.items()}

    @property
    def is_half(self) -> bool:
        """Whether these are one half of the validation rows, without the held-out domains."""
        return self.whole is not None

    def halves(self) -> tuple[Rows, Rows] | None:
        """The same with one half of every domain's validation rows each, and no held-out domain.

        Which half a row is in depends on its domain alone, or on its group, which stays whole. None
        where a domain has one row or one group, or the metric has no value on one of the halves.
        """
        first, second = {}, {}
        if self.task.groups is not None:
            try:
                masks = draw_groups(self.task, self.split.validation, 0.5, 0, "halves")
            except TaskError:
                return None
        for domain, own in self.split.validation.items():
            if len(own) < 2:
                return None
            if self.task.groups is not None:
                first[domain], second[domain] = own[masks[domain]], own[~masks[domain]]
            else:
                order = named_generator(0, "halves", domain).permutation(own)
                first[domain] = np.sort(order[: len(own) // 2])
                second[domain] = np.sort(order[len(own) // 2 :])
            if not (self.is_defined(first[domain]) and self.is_defined(second[domain])):
                return None
        return self._half(first), self._half(second)

    def _half(self, validation: dict[str, np.ndarray]) -> Rows:
        split = replace(self.split, validation=validation, test={})
        return replace(self, split=split, whole=self.split)

    def half_of(self, outputs: Outputs) -> Outputs:
        """The validation rows of this half, from the outputs for all of them."""
        assert self.whole is not None
        return {
            f"validation/{domain}": outputs[f"validation/{domain}"][
                np.isin(self.whole.validation[domain], own)
            ]
            for domain, own in self.split.validation.items()
        }

    def ready(self, model: Model, average: State) -> State:
        """An average made ready for use: where asked for, BatchNorm statistics of its own.

        They are measured on training rows without augmentation (Izmailov et al. 2018, section 3.2).
        """
        if self.backbone.spec.batchnorm == "frozen":
            return average
        model.to(device := best_device()).load_state(average)
        self.feed.to(device)
        rows = np.concatenate(list(self.split.train.values()))
        rows = named_generator(0, "batchnorm").permutation(rows)[: 32 * 64]
        batches = np.array_split(rows, max(1, len(rows) // 64))
        reestimate_batchnorm(model, (self.feed.batch(each) for each in batches))
        return model.state()

    def scores(self, outputs: Outputs) -> dict[str, np.ndarray]:
        """Score of every example (higher is better), by the same names as ``outputs``."""
        rows = self.positions()
        return {
            name: score_rows(self.task, values, rows[name], self.metric)
            for name, values in outputs.items()
        }

    @property
    def has_default_metric(self) -> bool:
        """Whether scores are accuracy or R2."""
        kind = self.task.kind
        return fitting_metric(self.metric, kind) is default_metric(kind)

    def is_defined(self, rows: np.ndarray) -> bool:
        """Whether the metric has a value for these rows, whatever is predicted."""
        metric = fitting_metric(self.metric, self.task.kind)
        try:
            metric.check_labels(self.task.labels[rows])
        except InputError:
            return False
        return True

    def start(self, outputs: Outputs) -> Start:
        """What predictions made before training say of the run that starts there."""
        return measure_start(*self._validation(outputs), self.task.kind)

    def plain_score(self, outputs: Outputs) -> float | None:
        """Accuracy or R2 on validation, whatever the metric is; see :func:`plain_score`."""
        return plain_score(*self._validation(outputs), self.task.kind)

    def _validation(self, outputs: Outputs) -> tuple[Outputs, dict[str, np.ndarray]]:
        """Predictions and labels of the validation rows by domain."""
        rows = self.split.validation
        return (
            {name: outputs[f"validation/{name}"] for name in rows},
            {name: self.task.labels[own] for name, own in rows.items()},
        )

    def metrics(self, outputs: Outputs) -> dict[str, Any]:
        """Score on the training domains (mean over domains) and, where there, held out.

        The keys say accuracy whatever the metric is; higher is better.
        """
        scores = self.scores(outputs)
        means = {name: float(values.mean()) for name, values in scores.items()}
        inside = {k.split("/", 1)[1]: v for k, v in means.items() if k.startswith("validation/")}
        outside = {k.split("/", 1)[1]: v for k, v in means.items() if k.startswith("test/")}
        found: dict[str, Any] = {
            "id_by_domain": inside,
            "id_accuracy": float(np.mean(list(inside.values()))),
        }
        if outside:
            found["accuracy"] = float(np.mean(list(outside.values())))
        return found


def open_task(data: Mapping[str, Any], root: str, cache: str) -> Task:
    """The task that a job's ``data`` argument names."""
    return _task(json.dumps(data, sort_keys=True), root, cache)


def open_backbone(backbone: Mapping[str, Any], root: str) -> Backbone:
    """The backbone that a job's argument names, with the base's weights in it."""
    body = _backbone(json.dumps(backbone["spec"], sort_keys=True), backbone["content"], root)
    body.reset()
    return body


def open_feed(task: Task, backbone: Backbone, features: Path) -> Feed:
    """The inputs that the ``features`` job prepared."""
    made = read_json(features / "features.json")
    return build_feed(
        task,
        backbone,
        folder=features,
        views=made["views"],
        augmentation=made["views"] > 0,
        seed=made["seed"],
    )


def score_rows(
    task: Task, outputs: np.ndarray, rows: np.ndarray, metric: str | None = None
) -> np.ndarray:
    """Score of every one of the task's ``rows``, from the outputs for them."""
    return fitting_metric(metric, task.kind).row_scores(outputs, task.labels[rows])


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Keep predictions as one ``.npz`` file."""
    np.savez(path, **{name.replace("/", "|"): values for name, values in outputs.items()})  # type: ignore[arg-type]


def read_outputs(path: Path) -> Outputs:
    """Read what :func:`write_outputs` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return {name.replace("|", "/"): stored[name] for name in stored.files}


def all_finite(outputs: Outputs) -> bool:
    """Whether predictions can be scored at all."""
    return all(bool(np.isfinite(values).all()) for values in outputs.values())
