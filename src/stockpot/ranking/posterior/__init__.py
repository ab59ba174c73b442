"""One Gaussian model of how models stand on a new task, given all evidence there is."""

from stockpot.ranking.posterior.evidence import Sensor
from stockpot.ranking.posterior.learning import BUCKETS, PosteriorSettings
from stockpot.ranking.posterior.model import Posterior, fit
from stockpot.ranking.posterior.result import Candidate, EvidenceUse, Ranking, Standing
from stockpot.ranking.posterior.scale import MonotoneScale

__all__ = [
    "BUCKETS",
    "Candidate",
    "EvidenceUse",
    "MonotoneScale",
    "Posterior",
    "PosteriorSettings",
    "Ranking",
    "Sensor",
    "Standing",
    "fit",
]
