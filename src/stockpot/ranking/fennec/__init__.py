"""Fennec (arXiv 2403.06382): models and tasks in one transfer space, and archi2vec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily
from stockpot.ranking.fennec.archi2vec import (
    ArchitectureSpace,
    OperationGraph,
    cluster,
    operation_graph,
    subtrees,
)
from stockpot.ranking.fennec.factors import LatentFactors, factorise
from stockpot.ranking.fennec.method import Fennec, FennecRanking, ModelFacts, TaskFacts
from stockpot.ranking.fennec.transfer import fisher_score

if TYPE_CHECKING:
    from stockpot.ranking.fennec.door import rank_fennec
    from stockpot.ranking.fennec.offline import learn, rank_by

__all__ = [
    "ArchitectureSpace",
    "Fennec",
    "FennecRanking",
    "LatentFactors",
    "ModelFacts",
    "OperationGraph",
    "TaskFacts",
    "cluster",
    "factorise",
    "fisher_score",
    "learn",
    "operation_graph",
    "rank_by",
    "rank_fennec",
    "subtrees",
]

__getattr__ = lazily(
    __name__,
    {
        "door": "rank_fennec",
        "offline": "learn rank_by",
    },
)
