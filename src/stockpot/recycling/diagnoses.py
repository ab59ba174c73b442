"""Averages of weights held against their own members: measured, with intervals, and explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stockpot.evaluation.claims import HELD_OUT, Claim, compare_all
from stockpot.evaluation.crossed import Cell, crossed_mean
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.diversity import double_fault, mean_diversity, single_fault
from stockpot.evaluation.evidence import Evidence, Member, PairBarrier
from stockpot.evaluation.intervals import Interval
from stockpot.evaluation.metrics import correct, ensemble
from stockpot.execution import Job
from stockpot.recycling.plan import Run
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import Recipe

if TYPE_CHECKING:
    from stockpot.recycling.results import CellData

Array = np.ndarray
_ERROR = 0.05
MEMBERS = "its members' mean"


@dataclass(frozen=True)
class _Scored:
    """Scores of an average, of its members (M, N), and of their ensemble, on the same rows.

    ``right``: whether each member answers right (M, N), None for numbers.
    """

    runs: list[Run]
    average: Array
    members: Array
    ensemble: Array
    right: Array | None


def diagnose_cell(
    recipe: Recipe, data: CellData, connectivity: Sequence[Mapping[str, Any]], cells: int
) -> list[dict[str, Any]]:
    """One diagnosis per average of two runs or more: these weights on these rows.

    Whether an average is ahead of its members or behind holds together for all averages of all
    ``cells`` of the comparison.
    """
    scored = {
        name: _scored(PROTOCOLS[name], job, data)
        for name, job in data.cell.models.items()
        if name in recipe.protocol_names and is_average(PROTOCOLS[name])
    }
    scored = {name: each for name, each in scored.items() if len(each.runs) > 1}
    claims = _against_members({_where(data): scored}, data.metric.name, 1 - _ERROR / cells)
    made = []
    for claim in claims:
        protocol = PROTOCOLS[claim.subject]
        evidence = _evidence(recipe, protocol, scored[protocol.name], claim, data, connectivity)
        made.append({"protocol": protocol.name, **diagnose(evidence).to_json()})
    return made


def average_claims(cells: Sequence[CellData]) -> tuple[Claim, ...]:
    """Every average against the mean of its members, over all cells: did averaging help?"""
    scored: dict[Cell, dict[str, _Scored]] = {}
    for data in cells:
        scored[_where(data)] = {
            name: _scored(PROTOCOLS[name], job, data)
            for name, job in data.cell.models.items()
            if is_average(PROTOCOLS[name])
        }
    return _against_members(scored, cells[0].metric.name, 1 - _ERROR) if cells else ()


def is_average(protocol: Protocol) -> bool:
    """Whether a protocol averages weights of this cell's runs at their best step."""
    return (
        protocol.group == "average"
        and protocol.combine != "one"
        and protocol.take == "best"
        and not protocol.over_trials
    )


def _against_members(
    cells: Mapping[Cell, Mapping[str, _Scored]], metric: str, level: float
) -> tuple[Claim, ...]:
    """Claims of all protocols that average two runs or more somewhere."""
    scores: dict[str, dict[Cell, Array]] = {}
    names = []
    for name in dict.fromkeys(name for each in cells.values() for name in each):
        if max(len(each[name].runs) for each in cells.values()) < 2:
            continue
        names.append(name)
        scores[name] = {where: each[name].average for where, each in cells.items()}
        scores[_members_of(name)] = {
            where: each[name].members.mean(axis=0) for where, each in cells.items()
        }
    labels = {name: PROTOCOLS[name].label for name in names}
    labels |= {_members_of(name): MEMBERS for name in names}
    return compare_all(
        scores,
        [(name, _members_of(name)) for name in names],
        rows=HELD_OUT,
        metric=metric,
        labels=labels,
        level=level,
    )


def _members_of(name: str) -> str:
    return f"{name}/members"


def _where(data: CellData) -> Cell:
    return str(data.cell.held_out), data.cell.trial


def _scored(protocol: Protocol, job: Job, data: CellData) -> _Scored:
    runs = {run.name: run for run in data.cell.runs[protocol.pool]}
    chosen = [runs[name] for name in data.metrics(job)["members"]]
    outputs = [data.test_outputs(run.job, "outputs-best.npz") for run in chosen]
    joined = ensemble(outputs, data.metric.kind)
    return _Scored(
        chosen,
        data.scores(data.test_outputs(job, "outputs.npz")),
        np.stack([data.scores(each) for each in outputs]),
        data.scores(joined),
        np.stack([correct(each, data.labels, "classification") for each in outputs])
        if data.metric.kind == "classification"
        else None,
    )


def _evidence(
    recipe: Recipe,
    protocol: Protocol,
    scored: _Scored,
    claim: Claim,
    data: CellData,
    connectivity: Sequence[Mapping[str, Any]],
) -> Evidence:
    mean = scored.members.mean(axis=0)
    names = {run.name for run in data.cell.runs[protocol.pool]}
    ratio, ratio_high = None, None
    if scored.right is not None:
        ratio = mean_diversity(scored.right).ratio_error
        ratio_high = _ratio_high(scored.right, ratio)
    return Evidence(
        members=tuple(
            _member(recipe, run, data, index, scored.members)
            for index, run in enumerate(scored.runs)
        ),
        average=float(scored.average.mean()),
        average_id=data.metrics(data.cell.models[protocol.name])["best"]["id_accuracy"],
        ensemble=float(scored.ensemble.mean()),
        low=claim.low,
        high=claim.high,
        ratio_error=ratio,
        ratio_error_high=ratio_high,
        gain=_interval(scored.ensemble - mean),
        shortfall=_interval(scored.ensemble - scored.average),
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
            if {pair["a"], pair["b"]} <= {*names, "base"}
            or (pair["kind"] == "base to average" and pair["b"] == protocol.name)
        ),
        head_shared=True,
        batchnorm="frozen" if recipe.backbone.batchnorm == "frozen" else "reestimate",
        metric=data.metric.name,
    )


def _member(recipe: Recipe, run: Run, data: CellData, index: int, scores: Array) -> Member:
    metrics = data.metrics(run.job)
    values = [point["validation"] for point in metrics["history"]]
    means = [float(np.mean(list(v.values()))) if isinstance(v, dict) else float(v) for v in values]
    others = np.delete(scores, index, axis=0)
    wild = {each.name for each in recipe.auxiliaries if each.weights is not None}
    return Member(
        name=run.name,
        accuracy=metrics["best"]["accuracy"],
        init=run.init,
        id_accuracy=metrics["best"]["id_accuracy"],
        learning_rate=run.hyperparameters["learning_rate"],
        cosine=metrics["way"]["cosine"],
        distance=metrics["way"]["distance"],
        fall=max(means) - means[-1] if means else None,
        validated=data.validated(run.job),
        foreign=run.init in wild,
        behind=_interval(others.mean(axis=0) - scores[index]),
    )


def _interval(gaps: Array) -> Interval:
    """Of the mean of one cell's paired differences (N,), over its rows."""
    cell = ("", 0)
    mean = crossed_mean({cell: {"": gaps}}, {cell: {"": np.arange(len(gaps))}}, len(gaps))
    margin = mean.margin(_ERROR)
    low, high = (round(value, 12) for value in (mean.mean - margin, mean.mean + margin))
    return Interval(mean.mean, low, high)


def _ratio_high(right: Array, ratio: float) -> float | None:
    """Upper end of the ratio-error's interval: a ratio of two counts, on the log scale.

    With the counts of a typical pair, so wider than what the mean over pairs has.
    """
    count = len(right)
    pairs = [(right[i], right[j]) for i in range(count) for j in range(i)]
    size = right.shape[1]
    one, both = (
        size * float(np.mean([measure(*pair) for pair in pairs]))
        for measure in (single_fault, double_fault)
    )
    if one == 0.0 or both == 0.0:
        return None
    return float(ratio * np.exp(1.96 * np.sqrt(1 / one + 1 / both)))
