"""Everything a ranking found, as one JSON value."""

from __future__ import annotations

import time
from typing import Any

from stockpot.provenance import versions
from stockpot.ranking.beliefs import Beliefs
from stockpot.ranking.prepare import task_name
from stockpot.ranking.scoring import summary
from stockpot.ranking.state import RankingRun
from stockpot.ranking.verify import compare_orders

_FLOAT, _COPIES = 4, 4  # weights, gradient and the optimizer's two moments, in float32


def collect(run: RankingRun, before: Beliefs, after: Beliefs, begun: float) -> dict[str, Any]:
    """All results (schema 1), which the report draws.

    ``before``: the posterior before any fine-tuning of this run; ``after``: with all of it.
    ``begun``: when it began, of ``time.perf_counter``.
    """
    prepared, task = run.prepared, run.prepared.task
    costs = run.costs(run.tuner())
    left = {n: c for n, c in costs.items() if n not in run.tuned and n not in run.known}
    following = after.next(left, 1) if left else []
    return {
        "schema": 1,
        "title": prepared.title,
        "task": {
            "name": task.name,
            "history_name": task_name(prepared),
            "kind": task.kind,
            "modality": task.modality,
            "metric": prepared.metric,
            "domains": list(task.domains),
            "held_out": list(prepared.request.held_out),
            "classes": list(task.classes),
            "examples": {name: int(count) for name, count in task.counts().items()},
            "judged_by": prepared.judged,
        },
        "models": [_model(run, name, before, after, costs) for name in after.order],
        "failed": [{"model": each.name, "reason": each.reason} for each in run.failed],
        "sample": summary(run.scored),
        "history": None
        if run.table is None
        else {"models": len(run.table.models), "tasks": len(run.table.tasks)},
        "evidence": after.evidence,
        "budget": {
            "seconds": run.options.budget,
            "select": run.options.select,
            "used": round(sum(one.seconds for one in run.tuned.values()), 1),
        },
        "rungs": [
            {"steps": rung.steps, "measured": _finite(rung.measured), "kept": list(rung.kept)}
            for rung in run.rungs
        ],
        "next": {"model": following[0], "seconds": left[following[0]]} if following else None,
        "verified": compare_orders(before, run.scored, run.tuned, run.table, prepared)
        if run.options.verify
        else None,
        "versions": versions("torch", "transformers", "timm", "scikit-learn"),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _model(
    run: RankingRun, name: str, before: Beliefs, after: Beliefs, costs: dict[str, float]
) -> dict[str, Any]:
    tuned, facts = run.tuned.get(name), run.facts(name)
    values = run.scored.values.get(name, {})
    count = facts.get("parameters")
    return {
        "name": name,
        **after.to_json(name),
        "before": before.to_json(name),
        "metadata": run.metadata.get(name, {}),
        "scores": {score: value.value for score, value in values.items()},
        "warnings": {score: value.warning for score, value in values.items() if value.warning},
        "tuned": tuned.to_json() if tuned else None,
        "known": run.known.get(name),
        "cost": {
            "parameters": count,
            "dimensions": facts.get("dimensions"),
            "feature_seconds": run.scored.seconds.get(name),
            "tuning_seconds": costs.get(name),
            "megabytes": None if count is None else round(_FLOAT * _COPIES * count / 2**20, 1),
        },
    }


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value > float("-inf")}
