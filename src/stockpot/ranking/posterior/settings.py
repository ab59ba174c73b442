"""What is learnt of the posterior for one number of anchors."""

from __future__ import annotations

from dataclasses import dataclass, field

from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.covariance import Shared
from stockpot.ranking.posterior.fallback import MemberWeights
from stockpot.ranking.posterior.scale import MonotoneScale


@dataclass(frozen=True)
class PosteriorSettings:
    """What is learnt for one number of anchors.

    ``noise``: variance of an anchor, in units of D; ``general``: strength of the general order;
    ``likeness``: how much a task is like single old ones, 0..1 (rho of :mod:`.covariance`);
    ``blend``: weights of the mixture's members (:mod:`.fallback`);
    ``low``, ``high``: 5 % and 95 % quantiles of errors in predicted standard deviations, of ranks;
    ``metric_low``, ``metric_high``: likewise of the metric, as the anchors tell its units;
    ``metric_width``: factor on intervals of the metric, as other tasks tell its units;
    ``sharpness``: factors on deviations for P(best), and their weights;
    ``merit``: correlation with the truth, and ``merit_without``: that of mean rank over history;
    ``tasks``: how many it was learnt from.
    """

    scale: MonotoneScale = field(default_factory=MonotoneScale)
    noise: float = 1.0
    general: float = 0.5
    likeness: float = 0.0
    blend: MemberWeights = field(default_factory=MemberWeights)
    low: float = -1.645
    high: float = 1.645
    metric_low: float = -2.5
    metric_high: float = 2.5
    metric_width: float = 1.0
    sharpness: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    merit: float = float("nan")
    merit_without: float = float("nan")
    tasks: int = 0

    def alike(self, shared: Shared) -> Array | None:
        """``(N, T)``: what each old task would have a new one be; None without likeness."""
        return self.likeness * shared.profiles if self.likeness else None
