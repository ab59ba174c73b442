"""Everything that a ranking says, as its results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from stockpot.provenance import versions
from stockpot.ranking.beliefs import Beliefs
from stockpot.ranking.features import Failed
from stockpot.ranking.prepare import task_name
from stockpot.ranking.schema import (
    BudgetResult,
    HistorySize,
    ModelCost,
    NextModel,
    ProposedModel,
    RankedModel,
    RankResults,
    RankTask,
    RungResult,
    SampleResult,
    SampleRound,
    UnrankedModel,
)
from stockpot.ranking.scores import SCORES
from stockpot.ranking.scoring import Scored
from stockpot.ranking.state import RankingRun
from stockpot.ranking.verify import compare_orders

_FLOAT, _COPIES = 4, 4  # weights, gradient and the optimizer's two moments, in float32


def collect(
    run: RankingRun,
    before: Beliefs,
    after: Beliefs,
    begun: float,
    digest: str,
    proposals: tuple[ProposedModel, ...] = (),
) -> RankResults:
    """All results, which the report draws.

    ``before``: the posterior before any fine-tuning of this run; ``after``: with all of it.
    ``begun``: when it began, of ``time.perf_counter``; ``digest``: of what was asked.
    """
    prepared, task, table = run.prepared, run.prepared.task, run.table
    costs = run.costs
    left = {n: c for n, c in costs.items() if n not in run.tuned and n not in run.known}
    following = after.next(left, 1) if left else []
    return RankResults(
        recipe_digest=digest,
        version=RankResults.current,
        title=prepared.title,
        task=RankTask(
            name=task.name,
            history_name=task_name(prepared),
            kind=task.kind,
            modality=task.modality,
            metric=prepared.metric,
            domains=task.domains,
            held_out=tuple(prepared.request.held_out),
            classes=task.classes,
            examples={name: int(count) for name, count in task.counts().items()},
            judged_by=prepared.judged,
        ),
        models=tuple(_model(run, name, before, after, costs) for name in after.order),
        failed=unranked(run.failed),
        sample=_sample(run.scored),
        history=table and HistorySize(models=len(table.models), tasks=len(table.tasks)),
        evidence=after.evidence,
        budget=BudgetResult(
            seconds=run.options.budget,
            select=run.options.select,
            used=round(sum(one.seconds for one in run.tuned.values()), 1),
        ),
        rungs=tuple(
            RungResult(steps=rung.steps, measured=_finite(rung.measured), kept=rung.kept)
            for rung in run.rungs
        ),
        next=NextModel(model=following[0], seconds=left[following[0]]) if following else None,
        verified=compare_orders(before, run.scored, run.tuned, table, prepared)
        if run.options.verify
        else None,
        versions=versions("torch", "transformers", "timm", "scikit-learn"),
        seconds=round(time.perf_counter() - begun, 1),
        notes=run.notes,
        proposals=proposals,
    )


def unranked(failed: Iterable[Failed]) -> tuple[UnrankedModel, ...]:
    """Models that could not be used."""
    return tuple(UnrankedModel(model=each.name, reason=each.reason) for each in failed)


def _model(
    run: RankingRun, name: str, before: Beliefs, after: Beliefs, costs: Mapping[str, float]
) -> RankedModel:
    facts, values = run.facts(name), run.scored.values.get(name, {})
    count = facts.get("parameters")
    return RankedModel(
        **vars(after.of(name)),
        name=name,
        before=before.of(name),
        metadata=run.metadata.get(name, {}),
        scores={score: value.value for score, value in values.items()},
        untrained=facts.get("untrained", False),
        warnings={
            **{score: value.warning for score, value in values.items() if value.warning},
            **{
                score: f"not computed: it needs {' and '.join(SCORES[score].needs)}"
                for score in run.prepared.request.scores or ()
                if values and score not in values
            },
        },
        tuned=run.tuned.get(name),
        known=run.known.get(name),
        cost=ModelCost(
            parameters=count,
            dimensions=facts.get("dimensions"),
            feature_seconds=run.scored.seconds.get(name),
            tuning_seconds=costs.get(name),
            megabytes=None if count is None else round(_FLOAT * _COPIES * count / 2**20, 1),
        ),
    )


def _sample(scored: Scored) -> SampleResult:
    return SampleResult(
        rows=scored.rows,
        rounds=tuple(
            SampleRound(
                agreement=each.agreement,
                same_best=each.same_best,
                rows=each.rows,
                settled=each.settled,
            )
            for each in scored.rounds
        ),
        failed=unranked(scored.failed),
        layers=scored.layers,
    )


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value > float("-inf")}
