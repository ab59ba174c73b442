"""The family tree of the final weights, as nodes and edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stockpot.execution import Job
from stockpot.recycling.contents import content_of
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.plan import BASE, Plan
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.schema import FamilyEdge, FamilyNode, FamilyTree, MemberCounts


def member_counts(plan: Plan, folders: Mapping[Job, Path], final: str) -> MemberCounts | None:
    """Of the runs that the final weights could hold: how many there are and how many are in, of all
    and of those that started from auxiliary weights. None where the protocol holds one by design.
    """
    cell, protocol = plan.final_cell, PROTOCOLS[final]
    assert cell is not None
    runs = cell.runs.get(protocol.pool, [])
    if protocol.select == "best" or len(runs) < 2:
        return None
    members = set(read_metrics(folders[cell.models[final]]).members)
    content = content_of(final, cell, folders)
    auxiliary = {run.name for run in runs if run.init != BASE}
    return MemberCounts(
        runs=len(runs),
        members=len(members),
        auxiliary_runs=len(auxiliary),
        auxiliary_members=len(auxiliary & members),
        different=len(content.shares),
        is_average=content.is_average,
    )


def family(recipe: Recipe, plan: Plan, folders: Mapping[Job, Path], final: str) -> FamilyTree:
    """Nodes (base, probe, auxiliaries, runs, final) and edges from parents to children."""
    cell, protocol = plan.final_cell, PROTOCOLS[final]
    assert cell is not None
    members = content_of(final, cell, folders).shares
    nodes = {
        BASE: FamilyNode(id=BASE, label=Path(recipe.backbone.name).name, kind="base"),
        "probe": FamilyNode(id="probe", label="linear probe (head)", kind="probe"),
    }
    edges = [_edge(BASE, "probe", "features")]
    auxiliaries = {each.name: each for each in recipe.auxiliaries}
    for run in cell.runs.get(protocol.pool, []):
        if run.name not in members:
            continue
        nodes[run.name] = FamilyNode(id=run.name, label=run.name, kind="run")
        edges.append(_edge("probe", run.name, "head"))
        starts = [run.init]
        if run.init == "mixture":
            starts = [BASE, *auxiliaries]
        for start in starts:
            if start in auxiliaries and start not in nodes:
                kind = "wild" if auxiliaries[start].weights is not None else "auxiliary"
                nodes[start] = FamilyNode(id=start, label=start, kind=kind)
                edges.append(_edge(BASE, start, "base"))
            source = start if start in nodes else BASE
            edges.append(_edge(source, run.name, "init"))
        edges.append(_edge(run.name, "final", "model", members[run.name]))
    if not members:
        edges.append(_edge("probe", "final", "model", 1.0))
    nodes["final"] = FamilyNode(id="final", label=protocol.label, kind="final")
    return FamilyTree(nodes=tuple(nodes.values()), edges=tuple(edges))


def _edge(start: str, end: str, role: str, weight: float | None = None) -> FamilyEdge:
    return FamilyEdge(start=start, end=end, role=role, weight=weight)
