"""Transferability scores: how promising a pretrained model is for a task, without fine-tuning it.

``compute(["logme", "hscore"], Evidence(features, targets))`` gives each score's ``Value``. One
file holds one score; ``SCORES`` lists them with what they need and where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stockpot.errors import ScoreError
from stockpot.ranking.scores import (
    etran,
    gbc,
    hscore,
    knn,
    leep,
    logme,
    nce,
    ncti,
    nleep,
    occam,
    pactran,
    parc,
    probe,
    ridge,
    sfda,
    transrate,
)
from stockpot.ranking.scores.checks import check_evidence, refusal
from stockpot.ranking.scores.score import Evidence, Kind, Score, Value, join_pair
from stockpot.ranking.scores.workspace import Workspace
from stockpot.yaml_lines import suggestion

__all__ = [
    "SCORES",
    "Evidence",
    "Kind",
    "Score",
    "Value",
    "check_names",
    "compute",
    "defined",
    "join_pair",
    "pool_values",
]

SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        logme.SCORE,
        hscore.SCORE,
        hscore.REGULARISED,
        transrate.SCORE,
        sfda.SCORE,
        gbc.SCORE,
        etran.SCORE,
        ncti.SCORE,
        leep.SCORE,
        nce.SCORE,
        pactran.DIRICHLET,
        pactran.GAMMA,
        nleep.SCORE,
        parc.SCORE,
        pactran.SCORE,
        occam.INT,
        occam.CONCEPT,
        knn.SCORE,
        ridge.SCORE,
        probe.SCORE,
    )
}


def compute(names: Iterable[str], evidence: Evidence) -> dict[str, Value]:
    """Values of the named scores, in the order of the names.

    All of them share one Gram matrix and one spectrum. Raises ``ScoreError`` before anything is
    computed: an unknown name, evidence that is unsound (array and row are named), or a score that
    is not defined for it (with those that are).
    """
    wanted = list(dict.fromkeys(names))
    check_names(wanted)
    check_evidence(evidence)
    for name in wanted:
        refused = refusal(SCORES[name], evidence, SCORES)
        if refused:
            raise refused
    work = Workspace(evidence)
    return {name: SCORES[name].function(work) for name in wanted}


def check_names(names: Iterable[str]) -> None:
    """``ScoreError`` for a name that no score has."""
    for name in names:
        if name not in SCORES:
            raise ScoreError(
                f"no score is called '{name}'{suggestion(name, list(SCORES))}",
                hint=f"there are: {', '.join(sorted(SCORES))}",
            )


def defined(evidence: Evidence, *, cheap: bool = False) -> list[str]:
    """Names of the scores that are defined for the evidence; with ``cheap``, of the cheap ones."""
    check_evidence(evidence)
    return [
        name
        for name, score in SCORES.items()
        if refusal(score, evidence, SCORES) is None and (score.cheap or not cheap)
    ]


def pool_values(name: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """Final values of all models of a pool, from each model's own; only NCTI and ETran change."""
    pool = SCORES[name].pool
    if pool is None or not values:
        return dict(values)
    return dict(zip(values, pool(list(values.values())), strict=True))
