"""From finished jobs to ``results.json``: numbers, intervals, reasons, and the family tree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stockpot.evaluation.claims import HELD_OUT, compare_all
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.diversity import mean_diversity
from stockpot.evaluation.evidence import Evidence, Member, PairBarrier
from stockpot.evaluation.intervals import paired_bootstrap
from stockpot.evaluation.metrics import METRICS, Metric, correct, ensemble
from stockpot.execution import Job
from stockpot.provenance import versions
from stockpot.recycling.choice import KeptModel
from stockpot.recycling.cost import training_cost
from stockpot.recycling.examine import Examined
from stockpot.recycling.family import family
from stockpot.recycling.jobs import read_metrics
from stockpot.recycling.judging import other_metrics
from stockpot.recycling.plan import Cell, Plan, Run
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import Recipe
from stockpot.tasks import Task
from stockpot.training.rows import read_outputs

Folders = Mapping[Job, Path]
Scores = np.ndarray


@dataclass
class _CellData:
    """Everything about one cell that is needed more than once."""

    cell: Cell
    labels: np.ndarray
    metric: Metric
    folders: Folders

    def metrics(self, job: Job) -> dict[str, Any]:
        return read_metrics(self.folders[job])

    def test_outputs(self, job: Job, file: str) -> np.ndarray:
        outputs = read_outputs(self.folders[job] / file)
        return np.concatenate([v for name, v in outputs.items() if name.startswith("test/")])

    def protocol_scores(self, name: str, metric: Metric | None = None) -> Scores:
        """Score of every held-out row; the mean over runs of a protocol that combines none.

        By the recipe's metric, or by ``metric``.
        """
        protocol, metric = PROTOCOLS[name], metric or self.metric
        if protocol.combine != "each":
            outputs = self.test_outputs(self.cell.models[name], "outputs.npz")
            return metric.row_scores(outputs, self.labels)
        runs = self.cell.runs[protocol.pool]
        each = [self.test_outputs(run.job, "outputs-best.npz") for run in runs]
        scores = [metric.row_scores(outputs, self.labels) for outputs in each]
        return np.asarray(np.mean(scores, axis=0))

    def scores(self, outputs: np.ndarray) -> Scores:
        return self.metric.row_scores(outputs, self.labels)


def limited(task: Task, plan: Plan) -> Task:
    """The task as the jobs of a plan see it, with at most the recipe's number of rows."""
    from stockpot.training.rows import limit_task

    data = plan.cells[0].probe.arguments["data"]
    return task if data["limit"] is None else limit_task(task, data["limit"], data["seed"])


def collect(
    recipe: Recipe, examined: Examined, plan: Plan, folders: Folders, choice: KeptModel
) -> dict[str, Any]:
    """All results as one JSON value (schema 2), which the report draws."""
    task, body = examined.task, examined.backbone
    small = limited(task, plan)
    metric, beside = METRICS[examined.facts.metric], other_metrics(recipe, task.kind)
    cells = [
        _CellData(cell, small.labels[small.rows(str(cell.held_out))], metric, folders)
        for cell in plan.cells
    ]
    return {
        "schema": 2,
        "title": recipe.title,
        "task": {
            "name": task.name,
            "kind": task.kind,
            "metric": metric.name,
            "metrics": {each.name: each.to_json() for each in (metric, *beside)},
            "domains": list(task.domains),
            "classes": list(task.classes),
            "examples": {name: int(count) for name, count in task.counts().items()},
            "skipped": list(task.skipped),
        },
        "backbone": {
            "kind": recipe.backbone.kind,
            "name": Path(recipe.backbone.name).name.rpartition(":")[2],
            "parameters": sum(each.numel() for each in body.network.parameters()),
            "trained_parameters": sum(
                each.numel() for each in body.network.parameters() if each.requires_grad
            ),
        },
        "cells": [_cell(recipe, data) for data in cells],
        "table": _table(recipe, cells, beside),
        "lineage": family(recipe, plan, folders, choice.protocol),
        "wild": [
            {"name": name, **asdict(evidence), "doubt": evidence.doubt}
            for name, evidence in examined.lineage.items()
        ],
        "final": {**_final(plan, choice), "claims": _claims(cells, choice)},
        "recipe": yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False),
        "versions": versions("torch", "transformers", "timm", "accelerate"),
        "seconds": round(sum(_seconds(folders[job]) for job in set(folders)), 1),
    }


def _cell(recipe: Recipe, data: _CellData) -> dict[str, Any]:
    cell = data.cell
    seen: dict[Job, dict[str, Any]] = {}
    for runs in cell.runs.values():
        for run in runs:
            seen.setdefault(run.job, _run(run, data))
    connectivity = []
    if cell.connectivity is not None:
        path = data.folders[cell.connectivity] / "connectivity.json"
        connectivity = json.loads(path.read_text(encoding="utf-8"))
    shown = {name: job for name, job in cell.models.items() if name in recipe.protocol_names}
    models = [_model(PROTOCOLS[name], job, data) for name, job in shown.items()]
    diversity, diagnoses = [], []
    for name, job in shown.items():
        protocol = PROTOCOLS[name]
        if _is_average(protocol) and not protocol.over_trials:
            found = _diagnosis(recipe, protocol, job, data, connectivity)
            if found is not None:
                diagnoses.append({"protocol": name, **found})
                if name in ("soup_uniform", "ratatouille_uniform"):
                    diversity.append(_diversity(protocol, found["evidence"]))
    return {
        "held_out": cell.held_out,
        "trial": cell.trial,
        "runs": list(seen.values()),
        "models": models,
        "connectivity": connectivity,
        "diversity": diversity,
        "diagnosis": diagnoses,
    }


def _is_average(protocol: Protocol) -> bool:
    return protocol.group == "average" and protocol.combine != "one" and protocol.take == "best"


def _run(run: Run, data: _CellData) -> dict[str, Any]:
    metrics = data.metrics(run.job)
    main = metrics.get("best") or metrics["last"]
    return {
        "id": run.name,
        "label": run.name,
        "pool": run.pool,
        "init": run.init,
        "hyperparameters": dict(run.hyperparameters),
        "id_accuracy": main["id_accuracy"],
        "accuracy": main["accuracy"],
        "steps": metrics["steps"],
        "seconds": metrics["seconds"],
        "history": metrics["history"],
    }


def _model(protocol: Protocol, job: Job, data: _CellData) -> dict[str, Any]:
    metrics = data.metrics(job)
    steps, seconds = training_cost(protocol, job, data.folders)
    members = metrics["members"]
    return {
        "protocol": protocol.name,
        "label": protocol.label,
        "selection": protocol.selection,
        "members": members,
        # What pools trials was trained on rows that this trial holds back for validation.
        "id_accuracy": None if protocol.over_trials else metrics["best"]["id_accuracy"],
        "accuracy": metrics["best"]["accuracy"],
        "steps": steps,
        "seconds": seconds,
        "forward_cost": len(members) if protocol.combine == "ensemble" else 1,
        "oracle": protocol.group == "oracle",
        "how": metrics["how"],
    }


def _diagnosis(
    recipe: Recipe,
    protocol: Protocol,
    job: Job,
    data: _CellData,
    connectivity: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    metrics = data.metrics(job)
    runs = {run.name: run for run in data.cell.runs[protocol.pool]}
    chosen = [runs[name] for name in metrics["members"]]
    if len(chosen) < 2:
        return None
    outputs = [data.test_outputs(run.job, "outputs-best.npz") for run in chosen]
    scores = np.stack([data.scores(each) for each in outputs])
    joined = ensemble(list(outputs), data.metric.kind)
    average = data.scores(data.test_outputs(job, "outputs.npz"))
    where = (str(data.cell.held_out), data.cell.trial)
    compared = paired_bootstrap(
        {"average": {where: average}, "members": {where: scores.mean(axis=0)}},
        "members",
        resamples=recipe.resamples,
    )["average"].difference
    assert compared is not None
    ratio = None
    if data.metric.kind == "classification":
        right = [correct(each, data.labels, "classification") for each in outputs]
        ratio = mean_diversity(np.stack(right)).ratio_error
    evidence = Evidence(
        members=tuple(_member(run, data) for run in chosen),
        average=float(average.mean()),
        average_id=metrics["best"]["id_accuracy"],
        ensemble=float(data.scores(joined).mean()),
        low=compared.low,
        high=compared.high,
        ratio_error=ratio,
        barriers=tuple(
            PairBarrier(
                pair["a"],
                pair["b"],
                pair["kind"],
                pair["barrier_id"],
                pair["barrier_ood"],
                pair["examples_id"],
                pair["examples_ood"],
            )
            for pair in connectivity
            if {pair["a"], pair["b"]} <= {*runs, "base"}
            or (pair["kind"] == "base to average" and pair["b"] == protocol.name)
        ),
        head_shared=True,
        batchnorm="frozen" if recipe.backbone.batchnorm == "frozen" else "reestimate",
        metric=data.metric.name,
    )
    return diagnose(evidence).to_json()


def _member(run: Run, data: _CellData) -> Member:
    metrics = data.metrics(run.job)
    values = [point["validation"] for point in metrics["history"]]
    means = [float(np.mean(list(v.values()))) if isinstance(v, dict) else float(v) for v in values]
    return Member(
        name=run.name,
        accuracy=metrics["best"]["accuracy"],
        init=run.init,
        id_accuracy=metrics["best"]["id_accuracy"],
        learning_rate=run.hyperparameters["learning_rate"],
        cosine=metrics["way"]["cosine"],
        distance=metrics["way"]["distance"],
        fall=max(means) - means[-1] if means else None,
    )


def _diversity(protocol: Protocol, evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pool": protocol.pool,
        "ratio_error": evidence.get("ratio_error"),
        "ensemble": evidence["ensemble"],
        "mean_member": evidence["mean_member"],
        "average": evidence["average"],
        "ensemble_gain": evidence["ensemble_gain"],
    }


def _table(
    recipe: Recipe, cells: Sequence[_CellData], beside: Sequence[Metric]
) -> list[dict[str, Any]]:
    """One row per protocol, with intervals over domains and the difference to the reference."""
    if not cells:
        return []
    metric = cells[0].metric
    scores: dict[Metric, dict[str, dict[tuple[str, int], Scores]]] = {}
    costs: dict[str, list[tuple[float, float, int]]] = {}
    for data in cells:
        where = (str(data.cell.held_out), data.cell.trial)
        for name in recipe.protocol_names:
            protocol = PROTOCOLS[name]
            if protocol.over_trials and data.cell.trial > 0:
                continue  # one model for all trials
            for one in dict.fromkeys((metric, *beside)):
                own = scores.setdefault(one, {}).setdefault(name, {})
                own[where] = data.protocol_scores(name, one)
            if protocol.combine == "each":
                found = [data.metrics(run.job) for run in data.cell.runs[protocol.pool]]
                cost = (
                    float(np.mean([each["steps"] for each in found])),
                    float(np.mean([each["seconds"] for each in found])),
                    1,
                )
            else:
                job = data.cell.models[name]
                model = _model(protocol, job, data)
                cost = (model["steps"], model["seconds"], model["forward_cost"])
            costs.setdefault(name, []).append(cost)
    against = next(
        (name for name in ("soup_uniform", "erm", "linear_probe") if name in costs), None
    )
    settings: dict[str, Any] = {"resamples": recipe.resamples, "seed": recipe.seed}
    estimates = paired_bootstrap(scores[metric], against, metric=metric.name, **settings)
    others = {
        f"{name} by {each.name}": own for each in beside for name, own in scores[each].items()
    }
    also = paired_bootstrap(others, **settings) if others else {}
    rows = []
    for name, estimate in estimates.items():
        protocol = PROTOCOLS[name]
        steps, seconds, forward = np.mean(costs[name], axis=0)
        rows.append(
            {
                "protocol": name,
                "label": protocol.label,
                "group": protocol.group,
                "steps": float(steps),
                "seconds": float(seconds),
                "forward_cost": int(forward),
                **estimate.to_json(),
                "also": {
                    each.name: also[f"{name} by {each.name}"].overall.to_json() for each in beside
                },
            }
        )
    return rows


def _claims(cells: Sequence[_CellData], choice: KeptModel) -> list[dict[str, Any]]:
    """The kept protocol against no fine-tuning and against one, on rows that chose nothing."""
    kept = choice.protocol
    names = [kept, *(name for name in ("linear_probe", "single") if name != kept)]
    if not all(data.cell.runs.get("plain") for data in cells):
        names.remove("single")
    scores: dict[str, dict[tuple[str, int], Scores]] = {name: {} for name in names}
    for data in cells:
        where = (str(data.cell.held_out), data.cell.trial)
        for name in names:
            if PROTOCOLS[name].over_trials and data.cell.trial > 0:
                continue
            scores[name][where] = data.protocol_scores(name)
    claims = compare_all(
        scores,
        [(kept, other) for other in names[1:]],
        rows=HELD_OUT,
        metric=cells[0].metric.name,
        labels={name: PROTOCOLS[name].label for name in names},
    )
    return [claim.to_json() for claim in claims]


def _final(plan: Plan, choice: KeptModel) -> dict[str, Any]:
    assert plan.final_cell is not None
    held_out = plan.final_cell.held_out
    return {
        **choice.to_json(),
        "label": PROTOCOLS[choice.protocol].label,
        "folder": "model",
        "trained_on": "all domains" if held_out is None else f"all domains but {held_out}",
        "why": choice.reason(),
    }


def _seconds(folder: Path) -> float:
    return float(json.loads((folder / "done.json").read_text(encoding="utf-8"))["seconds"])
