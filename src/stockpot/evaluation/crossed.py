"""The uncertainty of a mean over cells that share examples: how much, and from how little.

A *cell* is (domain, trial): one training, scored on the examples of one domain. The mean is the
plain mean over domains of the mean over trials. Two things move it:

- other examples: an example's *influence* is the sum over all cells that have it, so that what
  cells share is not counted as independent;
- other trainings: seen only in the scatter of cells that differ by their training. With two trials
  or more in every domain these are the trials of a domain, ``T - 1`` degrees of freedom a domain.
  With one trial they are the domains, ``D - 1`` degrees of freedom: every domain's model is a
  training of its own, and its scatter holds training noise and differences between domains. Below
  two degrees of freedom (one trial of one or two domains, two trials of one) the scatter of
  trainings is as good as unknown, and the margin is that of the examples alone.

The scatter contains the part of the examples' noise that parallel cells do not share, so that part
is taken off the examples' side and nothing counts twice. Each side has its own quantile of t, and
the squared margins add up: exact where one side dominates, slightly wide between (Howe 1974;
Graybill and Wang 1980, "modified large sample"). Few trials therefore give wide intervals, not
narrow ones. Degrees of freedom over several domains: Welch and Satterthwaite. Those of the
examples' side follow from the kurtosis of the influences (O'Neill 2014): where two models differ on
``c`` of many examples they are about ``2 c``, which comes close to the exact sign test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation.student import quantile

Cell = tuple[str, int]
Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Strata = Mapping[str, Array]
"""A cell's scores by source, (N,) each; its mean is the plain mean over sources."""
_DRAWS = 20_000
_LEAST_FREEDOM = 2.0


@dataclass(frozen=True)
class CrossedMean:
    """A mean and what moves it.

    Attributes:
        mean: over domains of means over trials.
        influence: of each example on the mean, shape (E,); sums to 0 over a cell.
        shared: variance from examples that parallel cells share.
        scatter: variance seen between parallel cells (0 if there are none).
        freedom: degrees of freedom of ``scatter``, 0 if there are too few parallel cells.
        trials: fewest trainings of a domain.
        domains: number of domains.
    """

    mean: float
    influence: Array
    shared: float
    scatter: float
    freedom: float
    trials: int
    domains: int

    @property
    def examples(self) -> float:
        """Variance of the mean from examples alone, for these very trainings."""
        return float(self.influence @ self.influence)

    @property
    def example_freedom(self) -> float:
        """Degrees of freedom of ``examples``: few where few examples carry all of it."""
        count, squares = len(self.influence), self.examples
        if squares == 0.0 or count < 2:
            return 1.0
        kurtosis = count * float((self.influence**4).sum()) / squares**2
        return max(1.0, 2.0 * count / max(kurtosis - (count - 3) / (count - 1), 1e-9))

    @property
    def covers_trainings(self) -> bool:
        """Whether the margin speaks of other trainings."""
        return self.freedom > 0.0

    def margin(self, error: float) -> float:
        """Half width of the interval that misses with probability ``error`` (both sides).

        Never narrower than half of what examples alone make it: trainings that agree by chance
        would make it a point. A higher floor would cover more than it says where trainings add
        nothing but noise of single examples.
        """
        return self.widened(
            quantile(error / 2, self.example_freedom) * float(np.sqrt(self.examples)), error
        )

    def of_these_trainings(self) -> CrossedMean:
        """The same mean where only examples would be others."""
        return replace(self, shared=self.examples, scatter=0.0, freedom=0.0)

    def widened(self, rows: float, error: float) -> float:
        """The margin where that of the examples alone is ``rows``, at the same ``error``."""
        if not self.covers_trainings:
            return rows
        between = quantile(error / 2, self.freedom) ** 2 * self.scatter
        kept = self.shared / self.examples if self.examples > 0.0 else 0.0
        return float(np.sqrt(max(rows**2 / 4.0, kept * rows**2 + between)))


def crossed_mean(
    cells: Mapping[Cell, Strata],
    examples: Mapping[Cell, Mapping[str, Numbers]],
    size: int,
    *,
    across: bool = True,
) -> CrossedMean:
    """Mean of ``cells``; ``examples``: the number in ``range(size)`` of every score's example.

    ``across``: with one trial let the domains stand in for trainings. Right for differences, which
    are alike in all domains unless there is something to see; never for levels.
    """
    return _joined(_domains(cells, examples, size), across)


def crossed_difference(
    first: Mapping[Cell, Strata],
    second: Mapping[Cell, Strata],
    examples: Mapping[Cell, Mapping[str, Numbers]],
    size: int,
    *,
    across: bool = True,
) -> CrossedMean:
    """``first`` minus ``second``: paired by trial where both have the same cells, else by example.

    Where one of them pools trials it is one training a domain, and so is the difference.
    """
    if first.keys() == second.keys():
        gaps = {
            cell: {name: values - second[cell][name] for name, values in strata.items()}
            for cell, strata in first.items()
        }
        return crossed_mean(gaps, examples, size, across=across)
    own, other = (
        _domains(dict(sorted(cells.items())), examples, size) for cells in (first, second)
    )
    return _joined(
        [
            _Domain(a.mean - b.mean, a.influence - b.influence, 1, 0.0, 0.0)
            for a, b in zip(own, other, strict=True)
        ],
        across,
    )


def single_error(means: Sequence[CrossedMean], error: float) -> float:
    """The ``error`` of each interval such that all of them hold together with ``1 - error``.

    Single-step min-p (Westfall and Young 1993, 2.3): the quantile of the smallest p-value when no
    difference is real. Examples move all means together, as their influences say; what trainings
    do to different means counts as independent, which is on the safe side (Sidak 1967). Between
    ``error / len(means)`` and ``error``; the same for the same means.
    """
    total = np.array([max(m.examples, m.shared + m.scatter) for m in means])
    moving = total > 0.0
    if moving.sum() <= 1:
        return error
    influence = np.stack([m.influence for m in means])[moving]
    total = total[moving]
    joint = influence @ influence.T
    # Whatever an interval holds beyond the examples' joint part is drawn on its own.
    scale = np.array(
        [
            np.sqrt(m.shared / m.examples) if m.covers_trainings and m.examples > 0.0 else 1.0
            for m, kept in zip(means, moving, strict=True)
            if kept
        ]
    )
    scale = np.minimum(scale, 1.0)
    joint = joint * scale[:, None] * scale[None, :]
    own = np.maximum(total - joint.diagonal(), 0.0)
    values, vectors = np.linalg.eigh(joint)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) / np.sqrt(total)[:, None]
    alone = np.sqrt(own / total)
    drawn = _normal(len(total))
    largest = np.abs(drawn[0] @ root.T + drawn[1] * alone).max(axis=1)
    threshold = float(np.quantile(largest, 1.0 - error))
    found = 2.0 * NormalDist().cdf(-threshold)
    return float(np.clip(found, error / len(total), error))


@lru_cache(maxsize=4)
def _normal(count: int) -> Array:
    """``(2, draws, count)`` standard normal numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal((2, _DRAWS, count))


@dataclass(frozen=True)
class _Domain:
    """A domain's mean, each example's influence on it, and the scatter of its trials.

    ``between``: variance of the mean seen between trials; ``within``: the part of it that is
    expected from examples.
    """

    mean: float
    influence: Array
    trials: int
    between: float
    within: float


def _domains(
    cells: Mapping[Cell, Strata], examples: Mapping[Cell, Mapping[str, Numbers]], size: int
) -> list[_Domain]:
    domains: dict[str, list[Cell]] = {}
    for cell in cells:
        domains.setdefault(cell[0], []).append(cell)
    made = []
    for trials in domains.values():
        means = np.zeros(len(trials))
        influences = np.zeros((len(trials), size))
        for index, cell in enumerate(trials):
            strata = cells[cell]
            for name, values in strata.items():
                means[index] += values.mean() / len(strata)
                share = (values - values.mean()) / (len(values) * len(strata))
                np.add.at(influences[index], examples[cell][name], share)
        between, within = _scatter(means, influences)
        made.append(
            _Domain(float(means.mean()), influences.mean(axis=0), len(trials), between, within)
        )
    return made


def _scatter(means: Array, influences: Array) -> tuple[float, float]:
    """Variance of the mean of G parallel means, as they scatter, and examples' share in it.

    With ``q`` the mean variance of a mean due to examples less the mean covariance of two of them,
    means scatter by ``training variance + q``; both are divided by G.
    """
    count = len(means)
    if count == 1:
        return 0.0, 0.0
    own = float((influences**2).sum())
    total = influences.sum(axis=0)
    q = own / count - (float(total @ total) - own) / (count * (count - 1))
    return float(means.var(ddof=1)) / count, max(0.0, q) / count


def _joined(parts: Sequence[_Domain], across: bool) -> CrossedMean:
    count = len(parts)
    means = np.array([part.mean for part in parts])
    influences = np.stack([part.influence for part in parts])
    trials = min(part.trials for part in parts)
    spare = np.array([part.trials - 1 for part in parts], dtype=np.float64)
    if trials > 1:
        each = np.array([part.between for part in parts]) / count**2
        scatter, within = float(each.sum()), sum(part.within for part in parts) / count**2
        freedom = float(spare.sum())
        # Welch (1947): with spare + 2 and 2 taken off, the estimate is right for equal variances.
        squares = float((each**2 / (spare + 2.0)).sum())
        welch = scatter**2 / squares - 2.0 if squares > 0.0 else freedom
    elif not across:
        scatter, within, freedom, welch = 0.0, 0.0, 0.0, 0.0
    else:
        scatter, within = _scatter(means, influences)
        freedom = welch = float(count - 1)
    freedom = min(freedom, welch) if freedom >= _LEAST_FREEDOM else 0.0
    influence = influences.mean(axis=0)
    shared = max(0.0, float(influence @ influence) - within)
    return CrossedMean(float(means.mean()), influence, shared, scatter, freedom, trials, count)


def numbered(
    cells: Mapping[Cell, Strata], examples: Mapping[Cell, Mapping[str, npt.ArrayLike]] | None
) -> tuple[dict[Cell, dict[str, Numbers]], int]:
    """Number the examples of cells from 0: by identity where known, else by order in a domain."""
    numbers: dict[Cell, dict[str, Numbers]] = {}
    if examples is None:
        starts: dict[tuple[str, str], tuple[int, int]] = {}
        size = 0
        for cell, strata in cells.items():
            numbers[cell] = {}
            for name, values in strata.items():
                if (cell[0], name) not in starts:
                    starts[(cell[0], name)] = size, len(values)
                    size += len(values)
                if len(values) != starts[(cell[0], name)][1]:
                    raise InputError(
                        f"trials of domain '{cell[0]}' have {starts[(cell[0], name)][1]} and "
                        f"{len(values)} examples",
                        hint="say which example is which",
                    )
                numbers[cell][name] = np.arange(len(values)) + starts[(cell[0], name)][0]
        return numbers, size
    identities = {
        cell: {name: np.asarray(examples[cell][name]) for name in strata}
        for cell, strata in cells.items()
    }
    known = np.unique(
        np.concatenate([own for each in identities.values() for own in each.values()])
    )
    for cell, each in identities.items():
        numbers[cell] = {name: np.searchsorted(known, own) for name, own in each.items()}
    return numbers, len(known)
