"""One Gaussian model of how models stand on a new task, given all evidence there is."""

from stockpot.ranking.posterior.model import Posterior, fit
from stockpot.ranking.posterior.result import Ranking, Standing

__all__ = [
    "Posterior",
    "Ranking",
    "Standing",
    "fit",
]
