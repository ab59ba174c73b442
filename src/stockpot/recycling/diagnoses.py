"""Averages of weights held against their own members: measured, with intervals, and explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stockpot.evaluation.claims import Claim, compare_all
from stockpot.evaluation.crossed import Cell, crossed_mean, numbered
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.diversity import joint_errors, ratio_error
from stockpot.evaluation.evidence import Member, PairBarrier, SoupEvidence
from stockpot.evaluation.intervals import Interval, difference_interval
from stockpot.evaluation.metrics import correct, ensemble
from stockpot.execution import Job
from stockpot.recycling.cells import judged_on
from stockpot.recycling.contents import content_of
from stockpot.recycling.plan import Run
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.schema import Curve, DiagnosisResult

if TYPE_CHECKING:
    from stockpot.recycling.results import CellData

Array = np.ndarray
_ERROR = 0.05
MEMBERS = "its members' mean"


@dataclass(frozen=True)
class _Scored:
    """Scores of an average, of its members (M, N), and of their ensemble, on the same rows.

    By the domains that are tested. ``right``: whether each member answers right on all of them,
    (M, N); None for numbers. ``different``: how many members have weights of their own; fewer than
    two measure nothing.
    """

    runs: list[Run]
    average: dict[str, Array]
    members: dict[str, Array]
    ensemble: dict[str, Array]
    right: Array | None
    different: int

    @property
    def mean_member(self) -> dict[str, Array]:
        """Mean over members of the score of every row."""
        return {name: own.mean(axis=0) for name, own in self.members.items()}


def diagnose_cell(
    recipe: Recipe, data: CellData, connectivity: Sequence[Curve], cells: int
) -> list[DiagnosisResult]:
    """One diagnosis per average of two different runs or more: these weights on these rows.

    Whether an average is ahead of its members or behind holds together for all averages of all
    ``cells`` of the comparison.
    """
    scored = {
        name: each
        for name, each in _averages(data).items()
        if name in recipe.protocol_names and each.different > 1
    }
    claims = _against_members({data.where: scored}, data, 1 - _ERROR / cells)
    made = []
    for claim in claims:
        protocol = PROTOCOLS[claim.subject]
        evidence = _evidence(recipe, protocol, scored[protocol.name], claim, data, connectivity)
        found = diagnose(evidence)
        made.append(DiagnosisResult(protocol=protocol.name, **vars(found)))
    return made


def average_claims(cells: Sequence[CellData]) -> tuple[Claim, ...]:
    """Every average against the mean of its members, over all cells: did averaging help?"""
    scored = {data.where: _averages(data) for data in cells}
    return _against_members(scored, cells[0], 1 - _ERROR) if cells else ()


def is_average(protocol: Protocol) -> bool:
    """Whether a protocol averages weights of this cell's runs at their best step."""
    return (
        protocol.group == "average"
        and protocol.combine != "one"
        and protocol.take == "best"
        and not protocol.over_trials
    )


def _against_members(
    cells: Mapping[Cell, Mapping[str, _Scored]], data: CellData, level: float
) -> tuple[Claim, ...]:
    """Claims of all protocols that average two runs or more somewhere; ``data``: any cell's."""
    scores: dict[str, dict[Cell, dict[str, Array]]] = {}
    names = []
    for name in dict.fromkeys(name for each in cells.values() for name in each):
        if any(name not in each for each in cells.values()):
            continue
        if max(each[name].different for each in cells.values()) < 2:
            continue
        names.append(name)
        scores[name] = {where: each[name].average for where, each in cells.items()}
        scores[_members_of(name)] = {where: each[name].mean_member for where, each in cells.items()}
    labels = {name: PROTOCOLS[name].label for name in names}
    labels |= {_members_of(name): MEMBERS for name in names}
    return compare_all(
        scores,
        [(name, _members_of(name)) for name in names],
        rows=judged_on(data.cell.domains),
        metric=data.metric.name,
        labels=labels,
        level=level,
    )


def _members_of(name: str) -> str:
    return f"{name}/members"


def _averages(data: CellData) -> dict[str, _Scored]:
    """Every average of a cell that has members: where all were left out, the probe stands in."""
    return {
        name: _scored(PROTOCOLS[name], job, data)
        for name, job in data.cell.models.items()
        if is_average(PROTOCOLS[name]) and data.metrics(job).members
    }


def _scored(protocol: Protocol, job: Job, data: CellData) -> _Scored:
    runs = {run.name: run for run in data.cell.runs[protocol.pool]}
    chosen = [runs[name] for name in data.metrics(job).members]
    outputs = [data.test_outputs(run.job, "outputs-best.npz") for run in chosen]
    kind = data.metric.kind
    joined = {name: ensemble([one[name] for one in outputs], kind) for name in data.labels}
    members = [data.scores(one) for one in outputs]
    right = None
    if kind == "classification":
        right = np.stack([_right(one, data) for one in outputs])
    return _Scored(
        chosen,
        data.scores(data.test_outputs(job, "outputs.npz")),
        {name: np.stack([own[name] for own in members]) for name in data.labels},
        data.scores(joined),
        right,
        len(content_of(protocol.name, data.cell, data.folders).shares),
    )


def _right(outputs: Mapping[str, Array], data: CellData) -> Array:
    return np.concatenate(
        [correct(outputs[name], data.labels[name], "classification") for name in data.labels]
    )


def _evidence(
    recipe: Recipe,
    protocol: Protocol,
    scored: _Scored,
    claim: Claim,
    data: CellData,
    connectivity: Sequence[Curve],
) -> SoupEvidence:
    mean = scored.mean_member
    names = {run.name for run in data.cell.runs[protocol.pool]}
    ratio, ratio_high = None, None
    if scored.right is not None:
        ratio = ratio_error(scored.right)
        ratio_high = _ratio_high(scored.right, ratio)
    return SoupEvidence(
        members=tuple(
            _member(recipe, run, data, index, scored.members)
            for index, run in enumerate(scored.runs)
        ),
        average=_mean(scored.average),
        average_id=data.metrics(data.cell.models[protocol.name]).main.id_accuracy,
        ensemble=_mean(scored.ensemble),
        low=claim.low,
        high=claim.high,
        ratio_error=ratio,
        ratio_error_high=ratio_high,
        gain=_interval(scored.ensemble, mean, data.metric.name),
        shortfall=_interval(scored.ensemble, scored.average, data.metric.name),
        barriers=tuple(
            PairBarrier(
                pair.a,
                pair.b,
                pair.kind,
                pair.barrier_id,
                pair.barrier_ood,
                pair.examples_id,
                pair.examples_ood,
            )
            for pair in connectivity
            if pair.kind != "base to best run"
            and (
                {pair.a, pair.b} <= {*names, "base"}
                or (pair.kind == "base to average" and pair.b == protocol.name)
            )
        ),
        head_shared=True,
        batchnorm="frozen" if recipe.backbone.batchnorm == "frozen" else "reestimate",
        metric=data.metric.name,
    )


def _member(
    recipe: Recipe, run: Run, data: CellData, index: int, scores: Mapping[str, Array]
) -> Member:
    metrics = data.metrics(run.job)
    values = [point.validation for point in metrics.history]
    means = [float(np.mean(list(v.values()))) if isinstance(v, Mapping) else v for v in values]
    others = {name: np.delete(own, index, axis=0).mean(axis=0) for name, own in scores.items()}
    wild = {each.name for each in recipe.auxiliaries if each.weights is not None}
    return Member(
        name=run.name,
        accuracy=metrics.main.tested,
        init=run.init,
        id_accuracy=metrics.main.id_accuracy,
        learning_rate=run.hyperparameters["learning_rate"],
        cosine=metrics.way.cosine if metrics.way else None,
        distance=metrics.way.distance if metrics.way else None,
        fall=max(means) - means[-1] if means else None,
        validated=data.validated(run.job),
        foreign=run.init in wild,
        behind=_interval(
            others, {name: own[index] for name, own in scores.items()}, data.metric.name
        ),
    )


def _mean(scores: Mapping[str, Array]) -> float:
    """The mean over domains of the mean over rows, as everywhere."""
    return float(np.mean([own.mean() for own in scores.values()]))


def _interval(first: Mapping[str, Array], second: Mapping[str, Array], metric: str) -> Interval:
    """Of ``first`` minus ``second``, paired scores of one cell by domain, over its rows."""
    cell = {("", 0): {name: own - second[name] for name, own in first.items()}}
    return difference_interval(crossed_mean(cell, *numbered(cell, None)), _ERROR, metric)


def _ratio_high(right: Array, ratio: float) -> float | None:
    """Upper end of the ratio-error's interval: a ratio of two counts, on the log scale.

    With the counts of a typical pair, so wider than what the mean over pairs has.
    """
    one, both = (float(counts.mean()) for counts in joint_errors(right))
    if one == 0.0 or both == 0.0:
        return None
    return float(ratio * np.exp(1.96 * np.sqrt(1 / one + 1 / both)))
