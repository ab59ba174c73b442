"""Finished jobs as results: measures with intervals, comparisons, costs, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone
from stockpot.continual.methods import METHODS
from stockpot.continual.metrics import Measures, measure
from stockpot.continual.plan import ContinualCell
from stockpot.continual.recipe import ContinualRecipe, Setting
from stockpot.continual.schema import (
    ContinualBackbone,
    ContinualData,
    ContinualResults,
    MethodNotes,
    MethodPair,
    MethodResult,
    PublishedLoss,
    SettingResult,
    TrialMean,
)
from stockpot.evaluation import paired_bootstrap
from stockpot.evaluation.intervals import Estimate, Interval
from stockpot.execution import Job, in_order
from stockpot.provenance import versions
from stockpot.reading import read_json
from stockpot.tasks import Task

PAIRS = (
    ("tmc", "soup"),
    ("tmc", "ensemble"),
    ("tmc", "soup_square"),
    ("tmc", "ensemble_square"),
    ("tmc", "joint_tangent"),
    ("statistics", "tmc"),
    ("statistics", "ranpac"),
    ("statistics", "joint"),
)


def collect_results(
    recipe: ContinualRecipe,
    task: Task,
    backbone: Backbone,
    cells: Sequence[ContinualCell],
    folders: Mapping[Job, Path],
    digest: str,
) -> ContinualResults:
    """The content of ``results.json``; ``digest``: of the recipe."""
    everything = list(in_order([job for cell in cells for job in cell.evaluations.values()]))
    network = backbone.network
    return ContinualResults(
        recipe_digest=digest,
        version=ContinualResults.current,
        kind="continual",
        title=recipe.title,
        task=ContinualData(
            name=task.name, classes=tuple(task.classes), fingerprint=task.fingerprint
        ),
        backbone=ContinualBackbone(
            name=recipe.backbone.name,
            trained_from=recipe.backbone.freeze_below,
            parameters=sum(p.numel() for p in network.parameters()),
            trained_parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        ),
        trials=recipe.trials,
        baseline=recipe.baseline,
        settings=tuple(
            _setting(recipe, setting, task, [c for c in cells if c.setting == setting], folders)
            for setting in recipe.settings
        ),
        recipe=recipe.model_dump(mode="json"),
        seconds=sum(_seconds(folders[job]) for job in everything),
        versions=versions("torch", "transformers", "timm"),
    )


def _setting(
    recipe: ContinualRecipe,
    setting: Setting,
    task: Task,
    cells: Sequence[ContinualCell],
    folders: Mapping[Job, Path],
) -> SettingResult:
    scores: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    measured: dict[str, list[Measures]] = {name: [] for name in recipe.method_names}
    for name, trials in measured.items():
        for cell in cells:
            labels = task.labels[cell.stream.test]
            chosen = np.load(folders[cell.evaluations[name]] / "predictions.npy")
            tasks = [part.classes for part in cell.stream.parts]
            trials.append(measure(setting.mode, tasks, chosen, labels))
            scores.setdefault(name, {})[(setting.name, cell.trial)] = chosen[-1] == labels
    examples = {(setting.name, cell.trial): cell.stream.test for cell in cells}
    estimates = paired_bootstrap(scores, recipe.baseline, examples=examples)
    methods = tuple(
        _method(name, trials, estimates[name], cells, folders) for name, trials in measured.items()
    )
    stream = cells[0].stream
    return SettingResult(
        name=setting.name,
        mode=setting.mode,
        tasks=len(stream.parts),
        classes_per_task=tuple(len(part.classes) for part in stream.parts),
        train=len(stream.rows),
        test=len(stream.test),
        warnings=_warnings(recipe, setting, cells),
        methods=methods,
        comparisons=_comparisons(scores, examples),
        published=_beside_published(setting, methods),
    )


def _method(
    name: str,
    trials: Sequence[Measures],
    estimate: Estimate,
    cells: Sequence[ContinualCell],
    folders: Mapping[Job, Path],
) -> MethodResult:
    row, overall = METHODS[name], estimate.overall
    matrices = np.array([each.matrix for each in trials if each.matrix], dtype=float)
    steps = [each.steps for each in trials if each.steps]
    return MethodResult(
        method=name,
        label=row.label,
        group=row.group,
        cost=row.cost,
        finals=tuple(each.final for each in trials),
        incremental=_mean([each.incremental for each in trials]),
        forgetting=_mean([each.forgetting for each in trials]),
        backward=_mean([each.backward for each in trials]),
        forward=_mean([each.forward for each in trials]),
        steps=tuple(np.mean(steps, axis=0).tolist()) if steps else (),
        matrix=tuple(
            tuple(None if np.isnan(value) else float(value) for value in values)
            for values in (matrices.mean(axis=0) if len(matrices) else ())
        ),
        seconds=_training_seconds(name, cells, folders),
        notes=_merged(
            [read_json(folders[cell.evaluations[name]] / "notes.json") for cell in cells]
        ),
        # The bootstrap is linear and may leave the range of an accuracy near its ends.
        final=Interval(
            *(min(max(end, 0.0), 1.0) for end in (overall.mean, overall.low, overall.high))
        ),
        covers=estimate.covers,
        difference=estimate.difference,
    )


def _mean(values: Sequence[float | None]) -> TrialMean | None:
    """Mean over the trials in which a measure is defined."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return TrialMean(mean=float(np.mean(known)), sd=spread)


def _beside_published(
    setting: Setting, methods: Sequence[MethodResult]
) -> tuple[PublishedLoss, ...]:
    """Points that methods lose to joint training of their own kind, here and in print."""
    finals = {row.method: row.final.mean for row in methods}
    losses = []
    for name, printed in setting.published.items():
        joint = "joint_tangent" if METHODS[name].group == "tangent" else "joint"
        if name in finals and joint in finals:
            lost = 100 * (finals[joint] - finals[name])
            losses.append(PublishedLoss(method=name, against=joint, lost=lost, published=printed))
    return tuple(losses)


def _comparisons(
    scores: Mapping[str, Mapping[tuple[str, int], np.ndarray]],
    examples: Mapping[tuple[str, int], np.ndarray],
) -> tuple[MethodPair, ...]:
    """The questions that the methods were put side by side for."""
    found = []
    for method, against in PAIRS:
        if method in scores and against in scores:
            pair = {name: scores[name] for name in (method, against)}
            difference = paired_bootstrap(pair, against, examples=examples)[method].difference
            assert difference is not None
            found.append(MethodPair(method=method, **vars(difference)))
    return tuple(found)


def _warnings(
    recipe: ContinualRecipe, setting: Setting, cells: Sequence[ContinualCell]
) -> tuple[str, ...]:
    few = any(len(part.classes) < 2 for cell in cells for part in cell.stream.parts)
    if few and "tmc" in recipe.method_names:
        return (
            "TMC collapses here: a component that holds a single class learns a constant, under "
            "any loss and any target. Give each component two classes or more, or use the "
            "statistics composer.",
        )
    return ()


def _training_seconds(
    name: str, cells: Sequence[ContinualCell], folders: Mapping[Job, Path]
) -> float | None:
    """Mean over trials of what the method's own training took, feature vectors included."""
    totals = []
    for cell in cells:
        total = sum(_seconds(folders[job]) for job in cell.trained[name])
        evaluation = cell.evaluations[name]
        if "phi" in evaluation.inputs:
            made = read_json(folders[evaluation.inputs["phi"]] / "phi.json")
            notes = read_json(folders[evaluation] / "notes.json")
            total += made["seconds_per_row"] * len(cell.stream.rows) + notes["solve_seconds"]
        totals.append(total)
    return float(np.mean(totals))


def _merged(notes: Sequence[Mapping[str, Any]]) -> MethodNotes:
    """Largest gaps, mean times, and the penalties that were chosen."""
    merged: dict[str, float | list[float]] = {}
    for key in notes[0]:
        values = [each[key] for each in notes]
        if key.startswith("gap") or key == "component_bytes":
            merged[key] = max(values)
        elif key == "penalty":
            merged[key] = values
        else:
            merged[key] = float(np.mean(values))
    return MethodNotes.model_validate(merged)


def _seconds(folder: Path) -> float:
    return float(read_json(folder / "done.json")["seconds"])
