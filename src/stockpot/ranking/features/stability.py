"""When a sample is large enough: the ranking no longer changes with the examples drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stockpot.tasks import named_generator
from stockpot.tasks.task import Array

RESAMPLES = 10
AGREEMENT = 0.9


@dataclass(frozen=True)
class Stability:
    """How far a ranking depends on the examples that were drawn.

    ``agreement``: mean weighted Kendall tau between the ranking by all rows and by resampled ones.
    ``same_best``: share of resamples with the same model in front. ``spread``: by model, standard
    deviation of its score over resamples.
    """

    agreement: float
    same_best: float
    spread: dict[str, float]
    rows: int

    @property
    def settled(self) -> bool:
        """Whether more examples are unlikely to change the ranking."""
        return self.agreement >= AGREEMENT


def stability(
    evaluate: Callable[[Array], Mapping[str, float]],
    strata: Array,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Stability:
    """Rank by resampled rows and compare with the ranking by all of them.

    ``evaluate(positions)`` gives the score of every model on these rows (int64, ascending, within
    0..n-1), nan where it has none, from cached features; ``strata`` (n,): rows are resampled within
    equal values.

    A resample is half of the rows, drawn without replacement: a mean over it scatters around the
    mean over all as much as over a bootstrap sample, but no row occurs twice, and a repeated row is
    what leave-one-out and nearest-neighbour scores cannot bear.
    """
    from scipy.stats import weightedtau

    strata = np.asarray(strata)
    whole = evaluate(np.arange(len(strata)))
    names = list(whole)
    reference = np.array([whole[name] for name in names])
    drawn = np.array(
        [
            [found[name] for name in names]
            for found in (evaluate(_half(strata, seed, index)) for index in range(resamples))
        ]
    )
    reference = np.nan_to_num(reference, nan=np.nanmin(reference, initial=0.0))
    drawn = np.where(np.isfinite(drawn), drawn, reference)
    if len(names) < 2:
        return Stability(1.0, 1.0, dict.fromkeys(names, 0.0), len(strata))
    taus = [float(weightedtau(reference, each).statistic) for each in drawn]
    same = float(np.mean(drawn.argmax(axis=1) == reference.argmax()))
    spread = dict(zip(names, drawn.std(axis=0).tolist(), strict=True))
    return Stability(float(np.nan_to_num(np.mean(taus))), same, spread, len(strata))


def _half(strata: Array, seed: int, index: int) -> Array:
    """Half of the rows of every stratum; an odd one out is kept or left by lot."""
    draw = named_generator(seed, "half", index)
    kept = []
    for group in np.unique(strata):
        own = draw.permutation(np.flatnonzero(strata == group))
        kept.append(own[: (len(own) + int(draw.integers(2))) // 2])
    return np.sort(np.concatenate(kept))
