"""Finished jobs as one JSON value: measures with intervals, comparisons, costs, warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone
from stockpot.continual.methods import METHODS
from stockpot.continual.metrics import Measures, measure
from stockpot.continual.plan import ContinualCell
from stockpot.continual.recipe import ContinualRecipe, Setting
from stockpot.evaluation import paired_bootstrap
from stockpot.execution import Job, in_order
from stockpot.provenance import versions
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
_SCALARS = ("incremental", "forgetting", "backward", "forward")


def collect_results(
    recipe: ContinualRecipe,
    task: Task,
    backbone: Backbone,
    cells: Sequence[ContinualCell],
    folders: Mapping[Job, Path],
) -> dict[str, Any]:
    """The content of ``results.json``."""
    everything = list(in_order([job for cell in cells for job in cell.evaluations.values()]))
    return {
        "schema": 1,
        "kind": "continual",
        "title": recipe.title,
        "task": {
            "name": task.name,
            "classes": list(task.classes),
            "fingerprint": task.fingerprint,
        },
        "backbone": {
            "name": recipe.backbone.name,
            "trained_from": recipe.backbone.freeze_below,
            "parameters": sum(p.numel() for p in backbone.network.parameters()),
            "trained_parameters": sum(
                p.numel() for p in backbone.network.parameters() if p.requires_grad
            ),
        },
        "trials": recipe.trials,
        "baseline": recipe.baseline,
        "settings": [
            _setting(recipe, setting, task, [c for c in cells if c.setting == setting], folders)
            for setting in recipe.settings
        ],
        "recipe": recipe.model_dump(mode="json"),
        "seconds": sum(_seconds(folders[job]) for job in everything),
        "versions": versions("torch", "transformers", "timm"),
    }


def _setting(
    recipe: ContinualRecipe,
    setting: Setting,
    task: Task,
    cells: Sequence[ContinualCell],
    folders: Mapping[Job, Path],
) -> dict[str, Any]:
    scores: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    rows = []
    for name in recipe.method_names:
        found: list[Measures] = []
        notes: list[dict[str, Any]] = []
        for cell in cells:
            folder = folders[cell.evaluations[name]]
            labels = task.labels[cell.stream.test]
            chosen = np.load(folder / "predictions.npy")
            tasks = [part.classes for part in cell.stream.parts]
            found.append(measure(setting.mode, tasks, chosen, labels))
            notes.append(_json(folder / "notes.json"))
            scores.setdefault(name, {})[(setting.name, cell.trial)] = chosen[-1] == labels
        rows.append(
            {
                "method": name,
                "label": METHODS[name].label,
                "group": METHODS[name].group,
                "cost": METHODS[name].cost,
                **_summary(found),
                "seconds": _training_seconds(name, cells, folders),
                "notes": _merged(notes),
            }
        )
    examples = {(setting.name, cell.trial): cell.stream.test for cell in cells}
    estimates = paired_bootstrap(scores, recipe.baseline, examples=examples)
    for row in rows:
        estimate = estimates[row["method"]]
        # The bootstrap is linear and may leave the range of an accuracy near its ends.
        final = estimate.overall.to_json()
        row["final"] = {key: min(max(value, 0.0), 1.0) for key, value in final.items()}
        row["covers"] = estimate.covers
        row["difference"] = estimate.difference.to_json() if estimate.difference else None
    stream = cells[0].stream
    return {
        "name": setting.name,
        "mode": setting.mode,
        "tasks": len(stream.parts),
        "classes_per_task": [len(part.classes) for part in stream.parts],
        "train": len(stream.rows),
        "test": len(stream.test),
        "warnings": _warnings(recipe, setting, cells),
        "methods": rows,
        "comparisons": _comparisons(scores, examples),
        "published": _beside_published(setting, rows),
    }


def _beside_published(setting: Setting, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points that methods lose to joint training of their own kind, here and in print."""
    finals = {row["method"]: row["final"]["mean"] for row in rows}
    found = []
    for name, printed in setting.published.items():
        joint = "joint_tangent" if METHODS[name].group == "tangent" else "joint"
        if name in finals and joint in finals:
            lost = 100 * (finals[joint] - finals[name])
            found.append({"method": name, "against": joint, "lost": lost, "published": printed})
    return found


def _summary(found: Sequence[Measures]) -> dict[str, Any]:
    """Means over trials; ``sd`` is the standard deviation between trials."""
    summary: dict[str, Any] = {"finals": [each.final for each in found]}
    for name in _SCALARS:
        values = [getattr(each, name) for each in found]
        known = [value for value in values if value is not None]
        summary[name] = None
        if known:
            spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
            summary[name] = {"mean": float(np.mean(known)), "sd": spread}
    steps = [each.steps for each in found if each.steps]
    summary["steps"] = np.mean(steps, axis=0).tolist() if steps else []
    matrices = [each.matrix for each in found if each.matrix]
    summary["matrix"] = []
    if matrices:
        stacked = np.array(matrices, dtype=float)
        summary["matrix"] = [
            [None if np.isnan(value) else float(value) for value in row]
            for row in stacked.mean(axis=0)
        ]
    return summary


def _comparisons(
    scores: Mapping[str, Mapping[tuple[str, int], np.ndarray]],
    examples: Mapping[tuple[str, int], np.ndarray],
) -> list[dict[str, Any]]:
    """The questions that the methods were put side by side for."""
    found = []
    for method, against in PAIRS:
        if method in scores and against in scores:
            pair = {name: scores[name] for name in (method, against)}
            difference = paired_bootstrap(pair, against, examples=examples)[method].difference
            assert difference is not None
            found.append({"method": method, **difference.to_json()})
    return found


def _warnings(
    recipe: ContinualRecipe, setting: Setting, cells: Sequence[ContinualCell]
) -> list[str]:
    few = any(len(part.classes) < 2 for cell in cells for part in cell.stream.parts)
    if few and "tmc" in recipe.method_names:
        return [
            "TMC collapses here: a component that holds a single class learns a constant, under "
            "any loss and any target. Give each component two classes or more, or use the "
            "statistics composer."
        ]
    return []


def _training_seconds(
    name: str, cells: Sequence[ContinualCell], folders: Mapping[Job, Path]
) -> float | None:
    """Mean over trials of what the method's own training took, feature vectors included."""
    totals = []
    for cell in cells:
        total = sum(_seconds(folders[job]) for job in cell.trained[name])
        evaluation = cell.evaluations[name]
        if "phi" in evaluation.inputs:
            made = _json(folders[evaluation.inputs["phi"]] / "phi.json")
            notes = _json(folders[evaluation] / "notes.json")
            total += made["seconds_per_row"] * len(cell.stream.rows) + notes["solve_seconds"]
        totals.append(total)
    return float(np.mean(totals))


def _merged(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Largest gaps, mean times, and the penalties that were chosen."""
    merged: dict[str, Any] = {}
    for key in notes[0]:
        values = [each[key] for each in notes]
        if key.startswith("gap") or key == "component_bytes":
            merged[key] = max(values)
        elif key == "penalty":
            merged[key] = values
        else:
            merged[key] = float(np.mean(values))
    return merged


def _seconds(folder: Path) -> float:
    return float(_json(folder / "done.json")["seconds"])


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
