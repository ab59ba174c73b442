"""The family tree of the final weights, as nodes and edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.execution import Job
from stockpot.recycling.jobs import read_metrics
from stockpot.recycling.plan import BASE, Plan
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe


def member_counts(plan: Plan, folders: Mapping[Job, Path], final: str) -> dict[str, int] | None:
    """Of the runs that the final weights could hold: how many there are and how many are in, of all
    and of those that started from auxiliary weights. None where the protocol holds one by design.
    """
    cell, protocol = plan.final_cell, PROTOCOLS[final]
    assert cell is not None
    runs = cell.runs.get(protocol.pool, [])
    if protocol.select == "best" or len(runs) < 2:
        return None
    members = set(read_metrics(folders[cell.models[final]])["members"])
    auxiliary = {run.name for run in runs if run.init != BASE}
    return {
        "runs": len(runs),
        "members": len(members),
        "auxiliary_runs": len(auxiliary),
        "auxiliary_members": len(auxiliary & members),
    }


def family(recipe: Recipe, plan: Plan, folders: Mapping[Job, Path], final: str) -> dict[str, Any]:
    """Nodes (base, probe, auxiliaries, runs, final) and edges from parents to children."""
    cell, protocol = plan.final_cell, PROTOCOLS[final]
    assert cell is not None
    metrics = read_metrics(folders[cell.models[protocol.name]])
    members = set(metrics["members"])
    weights = metrics["how"].get("coefficients", {})
    nodes = {
        BASE: {"id": BASE, "label": Path(recipe.backbone.name).name, "kind": "base"},
        "probe": {"id": "probe", "label": "linear probe (head)", "kind": "probe"},
    }
    edges: list[dict[str, Any]] = [
        {"from": BASE, "to": "probe", "role": "features", "weight": None}
    ]
    auxiliaries = {each.name: each for each in recipe.auxiliaries}
    for run in cell.runs.get(protocol.pool, []):
        if run.name not in members:
            continue
        nodes[run.name] = {"id": run.name, "label": run.name, "kind": "run"}
        edges.append({"from": "probe", "to": run.name, "role": "head", "weight": None})
        starts = [run.init]
        if run.init == "mixture":
            starts = [BASE, *auxiliaries]
        for start in starts:
            if start in auxiliaries and start not in nodes:
                kind = "wild" if auxiliaries[start].weights is not None else "auxiliary"
                nodes[start] = {"id": start, "label": start, "kind": kind}
                edges.append({"from": BASE, "to": start, "role": "base", "weight": None})
            source = start if start in nodes else BASE
            edges.append({"from": source, "to": run.name, "role": "init", "weight": None})
        weight = weights.get(run.name, 1 / len(members))
        edges.append({"from": run.name, "to": "final", "role": "model", "weight": weight})
    if not members:
        edges.append({"from": "probe", "to": "final", "role": "model", "weight": 1.0})
    nodes["final"] = {"id": "final", "label": protocol.label, "kind": "final"}
    return {"nodes": list(nodes.values()), "edges": edges}
