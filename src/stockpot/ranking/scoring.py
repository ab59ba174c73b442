"""Scores of every model on a sample that grows until the ranking no longer depends on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from stockpot.errors import InputError
from stockpot.evaluation import Interval
from stockpot.ranking.features import Extracted, Extractor, Failed, Stability, flat, stability
from stockpot.ranking.features.sample import strata
from stockpot.ranking.request import Sample
from stockpot.ranking.schema import HELD_OUT
from stockpot.ranking.scores import Evidence, Value, compute, defined, pool_values
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from stockpot.tasks import Task
from stockpot.tasks.task import Array

STOP_BY = ("logme", "reg_hscore")
"""Scores that say whether a sample is large enough, the first that is defined."""

LOOK = (*HELD_OUT, "logme")
"""Scores of the first look: what a head reaches on examples that it has not seen, and LogME."""


_NORMAL = 1.6449  # standard deviations from the mean to the end of a 90 % interval


@dataclass
class Scored:
    """What the scores say about the models that could be run.

    ``values``: model -> score -> value. ``extracted``: features and measured facts. ``failed``:
    models that could not be run. ``rounds``: one stability per sample size that was tried.
    ``seconds``: model -> time of features and scores.
    """

    values: dict[str, dict[str, Value]] = field(default_factory=dict)
    extracted: dict[str, Extracted] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    rounds: list[Stability] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Examples in the last round."""
        return max((len(made.rows) for made in self.extracted.values()), default=0)

    def by_score(self) -> dict[str, dict[str, float]]:
        """Score -> model -> number, for scores that some model has."""
        found: dict[str, dict[str, float]] = {}
        for model, values in self.values.items():
            for name, value in values.items():
                found.setdefault(name, {})[model] = value.value
        return found


def score_models(
    entries: Mapping[str, ModelEntry | FeatureEntry],
    extractor: Extractor,
    sample: Sample,
    *,
    names: list[str] | None = None,
    seed: int = 0,
    on_model: Callable[[str], None] = lambda name: None,
    ahead: Callable[[list[str], int], list[Failed]] = lambda names, count: [],
    on_first: Callable[[Scored], None] = lambda scored: None,
) -> Scored:
    """Extract and score, on ``sample.first`` examples and then twice as many, until it is enough.

    ``names``: which scores; default: all cheap ones that are defined for a model. Raises
    ``InputError`` for a name that is defined for no model. A model that fails is listed and left
    out. ``on_model`` is called before each model is run. ``ahead`` is told before each round which
    models and how many rows will be asked for, may fill the extractor's cache by other means, and
    returns models that failed. ``on_first`` gets what the scores of :data:`LOOK` say of the first
    examples, before more are looked at.
    """
    found = Scored()
    working = dict(entries)
    most = min(sample.most, len(extractor.order))
    count = most if sample.keep == "moments" else min(sample.first, most)
    while True:
        for lost in ahead(list(working), count):
            found.failed.append(lost)
            found.extracted.pop(lost.name, None)
            del working[lost.name]
        for name, entry in list(working.items()):
            on_model(name)
            made = extractor(name, entry, count)
            if isinstance(made, Failed):
                found.failed.append(made)
                found.extracted.pop(name, None)
                del working[name]
            else:
                found.extracted[name] = made
        if not found.extracted:
            return found
        task, layers = extractor.task, {}
        for name, made in found.extracted.items():
            layers[name] = best_layer(made, entries[name], task)
        found.layers = {name: layer for name, layer in layers.items() if layer is not None}
        if sample.keep == "moments":
            break
        found.rounds.append(_stability(found.extracted, entries, layers, task, seed))
        if found.rounds[-1].settled or count >= most:
            break
        if len(found.rounds) == 1:
            on_first(_valued(found, entries, task, layers, LOOK if names is None else names))
        count = min(2 * count, most)
    found = _valued(found, entries, task, layers, names)
    for name in names or ():
        if found.values and not any(name in own for own in found.values.values()):
            raise InputError(f"scores: no model of the zoo gives what '{name}' needs")
    return found


def _valued(
    found: Scored,
    entries: Mapping[str, ModelEntry | FeatureEntry],
    task: Task,
    layers: Mapping[str, int | None],
    names: Sequence[str] | None,
) -> Scored:
    """With the values of the named scores, or of all cheap ones that are defined for a model."""
    found = replace(
        found, values={}, extracted=dict(found.extracted), failed=list(found.failed), seconds={}
    )
    for name, made in list(found.extracted.items()):
        start = time.perf_counter()
        evidence = evidence_of(made, entries[name], task, layer=layers[name])
        try:
            known = defined(evidence, cheap=names is None)
            wanted = known if names is None else [each for each in names if each in known]
            found.values[name] = compute(wanted, evidence)
        except InputError as error:
            found.failed.append(Failed(name, str(error)))
            del found.extracted[name]
            continue
        found.seconds[name] = round(made.seconds + time.perf_counter() - start, 3)
    _pool(found)
    return found


def held_out_value(values: Mapping[str, Value]) -> Interval | None:
    """What a head reaches on examples that it has not seen, with its 90 % interval: the better of
    ridge regression and nearest neighbours, each example predicted from the others."""
    known = [values[name] for name in HELD_OUT if name in values]
    known = [value for value in known if isfinite(value.details["error"])]
    if not known:
        return None
    best = max(known, key=lambda value: value.value)
    half = _NORMAL * float(best.details["error"])
    return Interval(best.value, best.value - half, best.value + half)


def evidence_of(
    made: Extracted,
    entry: ModelEntry | FeatureEntry,
    task: Task,
    *,
    layer: int | None = None,
    positions: Array | None = None,
) -> Evidence:
    """What the scores get to see of one model; ``positions`` restricts it to some of its rows."""
    rows = made.rows if positions is None else made.rows[positions]
    readout = entry.readout if isinstance(entry, ModelEntry) else "mean_of_layers"
    taken = {k: v if positions is None else v[positions] for k, v in made.arrays.items()}
    labels = task.labels[rows]
    if task.kind == "classification":  # a small sample may lack a class
        labels = np.unique(labels, return_inverse=True)[1]
    if made.moments is not None:
        return Evidence(None, labels, kind=task.kind, moments=made.moments)
    if layer is not None:
        features = taken["layers"][:, layer]
    else:
        features = flat(taken, readout)
    return Evidence(
        features.astype(np.float32),
        labels,
        kind=task.kind,
        logits=taken["logits"].astype(np.float32) if "logits" in taken else None,
    )


def best_layer(made: Extracted, entry: ModelEntry | FeatureEntry, task: Task) -> int | None:
    """The layer (0: embeddings) whose token means score best; None unless that was asked for."""
    if not isinstance(entry, ModelEntry) or entry.readout != "best_layer":
        return None
    if "layers" not in made.arrays:
        return None
    count = made.arrays["layers"].shape[1]
    values = []
    for layer in range(count):
        evidence = evidence_of(made, entry, task, layer=layer)
        name = _stop_score(evidence)
        values.append(compute([name], evidence)[name].value)
    return int(np.argmax(values))


def _stability(
    extracted: Mapping[str, Extracted],
    entries: Mapping[str, ModelEntry | FeatureEntry],
    layers: Mapping[str, int | None],
    task: Task,
    seed: int,
) -> Stability:
    rows = next(iter(extracted.values())).rows

    def evaluate(positions: Array) -> dict[str, float]:
        values = {}
        for name, made in extracted.items():
            evidence = evidence_of(
                made, entries[name], task, layer=layers[name], positions=positions
            )
            try:
                score = _stop_score(evidence)
                values[name] = compute([score], evidence)[score].value
            except InputError:  # half of the rows can be too few where all are enough
                values[name] = float("nan")
        return values

    return stability(evaluate, strata(task, rows), seed=seed)


def _stop_score(evidence: Evidence) -> str:
    known = defined(evidence, cheap=True)
    return next((name for name in STOP_BY if name in known), known[0])


def _pool(found: Scored) -> None:
    """Scores that are only final once all models of the pool are known."""
    for name in {score for values in found.values.values() for score in values}:
        own = {model: values[name] for model, values in found.values.items() if name in values}
        for model, value in pool_values(name, own).items():
            found.values[model][name] = value
