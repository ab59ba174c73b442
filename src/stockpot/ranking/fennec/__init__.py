"""Fennec (arXiv 2403.06382): models and tasks in one transfer space, and archi2vec."""

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
    "operation_graph",
    "subtrees",
]
