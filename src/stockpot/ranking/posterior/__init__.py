"""One Gaussian model of how models stand on a new task, given all evidence there is."""

from stockpot.ranking.posterior.evidence import Sensor
from stockpot.ranking.posterior.learning import BUCKETS, Settings
from stockpot.ranking.posterior.model import Posterior, fit
from stockpot.ranking.posterior.result import Candidate, Evidence, Ranking, Standing
from stockpot.ranking.posterior.scale import Scale

__all__ = [
    "BUCKETS",
    "Candidate",
    "Evidence",
    "Posterior",
    "Ranking",
    "Scale",
    "Sensor",
    "Settings",
    "Standing",
    "fit",
]
