"""Which pretrained model to start from: scores, history, and the posterior that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.ranking import fennec
    from stockpot.ranking.gram import Moments
    from stockpot.ranking.prepare import Prepared, prepare_task
    from stockpot.ranking.request import load_request
    from stockpot.ranking.scores import Evidence, compute, defined
    from stockpot.ranking.verb import Ranked, plan_rank, rank
    from stockpot.ranking.verify import weighted_tau
    from stockpot.ranking.zoo import ModelEntry, load_zoo

__all__ = [
    "Evidence",
    "ModelEntry",
    "Moments",
    "Prepared",
    "Ranked",
    "compute",
    "defined",
    "fennec",
    "load_request",
    "load_zoo",
    "plan_rank",
    "prepare_task",
    "rank",
    "weighted_tau",
]

__getattr__ = lazily(
    __name__,
    {
        "fennec": "",
        "gram": "Moments",
        "prepare": "Prepared prepare_task",
        "request": "load_request",
        "scores": "Evidence compute defined",
        "verb": "Ranked plan_rank rank",
        "verify": "weighted_tau",
        "zoo": "ModelEntry load_zoo",
    },
)
