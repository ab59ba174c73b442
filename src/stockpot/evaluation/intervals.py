"""Confidence intervals by a paired bootstrap, and differences in words.

What an interval covers. One *cell* is (held-out domain, trial); a trial trains everything anew.

- Examples: the held-out examples of a domain are drawn again with replacement, the same draw for
  every protocol and, where trials are tested on the same examples, for every trial (crossed
  design). One trial more therefore adds no independent examples.
- Trials: with two or more trials in a domain the interval is widened by what trials scatter beyond
  their examples, with Student's t for few trials (``crossed``); two trials of one domain alone are
  too few. Without them the interval says nothing about other seeds, and :attr:`Estimate.covers`
  says so.
- Domains are fixed: the overall value is the plain mean over these domains, and the interval does
  not speak about domains that were not tested.

- Rows that (nearly) all agree have (nearly) no scatter to redraw. An interval reaches at least as
  far as rows of a kind that was not seen could move the mean (``unseen``); where all rows are
  right or all wrong that is the exact interval of a share.

The statistic is a mean of means, so each resample is the estimate plus (counts - 1) times each
example's influence on it: one matrix product, exact where trials share their examples.
Sources: Efron and Tibshirani (1993) ch. 6 and 13; Owen (2007, "The pigeonhole bootstrap") on why
drawing rows and columns of a crossed design independently counts their interaction three times.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation.crossed import Array, Cell, CrossedMean, crossed_difference, crossed_mean
from stockpot.evaluation.metrics import METRICS
from stockpot.evaluation.unseen import Stratum, largest_fall
from stockpot.evaluation.wording import difference_words

Ends = tuple[float, float]
UNBOUNDED: Ends = (-np.inf, np.inf)
_BLOCK = 250


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval around it, in units of what is estimated."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Difference(Interval):
    """A protocol minus a named baseline on the same examples, and what that says in words."""

    against: str
    words: str

    def to_json(self) -> dict[str, Any]:
        return {"against": self.against, **super().to_json(), "words": self.words}


@dataclass(frozen=True)
class Estimate:
    """One protocol: per domain, overall, and against the baseline (None for itself)."""

    domains: dict[str, Interval]
    overall: Interval
    difference: Difference | None
    domain_differences: dict[str, Difference]
    covers: str

    def to_json(self) -> dict[str, Any]:
        """The keys of a result table's row: ``domains``, ``mean``, ``low``, ``high``, ..."""
        return {
            "domains": {name: each.to_json() for name, each in self.domains.items()},
            **self.overall.to_json(),
            "difference": self.difference.to_json() if self.difference else None,
            "domain_differences": {k: v.to_json() for k, v in self.domain_differences.items()},
            "covers": self.covers,
        }


def paired_bootstrap(
    scores: Mapping[str, Mapping[Cell, npt.ArrayLike]],
    baseline: str | None = None,
    *,
    examples: Mapping[Cell, Sequence[int] | npt.NDArray[Any]] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    metric: str = "accuracy",
    within: Ends = UNBOUNDED,
    strata: Mapping[str, Sequence[Stratum]] | None = None,
) -> dict[str, Estimate]:
    """Intervals of every protocol and of its difference to ``baseline``.

    ``scores``: protocol -> (held-out domain, trial) -> per-example scores ``(N,)`` (see
    ``metrics.correct``). Every protocol has every domain; one that pools trials may have fewer
    trials (its difference then cannot pair trials and pairs examples only). ``examples`` gives the
    identity of each example of a cell; without it trials of a domain share their examples, in the
    same order. Equal seeds give equal intervals. ``within``: the lowest and the highest value that
    the mean can have; no interval leaves them, and none of a difference what they allow.
    ``strata``: of each domain, see ``Metric.strata``; without them shares of right rows have one.

    Raises ``InputError`` on an unknown baseline, a missing domain, or lengths that do not match.
    """
    cells = _checked(scores, baseline, examples)
    domains = list(dict.fromkeys(domain for domain, _ in next(iter(cells.values()))))
    numbers, blocks = _numbered(cells, domains, examples)
    compared: list[tuple[str, str | None]] = [(name, None) for name in cells]
    compared += [(name, baseline) for name in cells if baseline not in (None, name)]

    def crossed(name: str, against: str | None, only: str | None = None) -> CrossedMean:
        own, other = (
            {cell: {"": line} for cell, line in cells[each].items() if only in (None, cell[0])}
            for each in (name, against or name)
        )
        if against is None:
            return crossed_mean(own, numbers, blocks[domains[-1]].stop, across=False)
        return crossed_difference(own, other, numbers, blocks[domains[-1]].stop, across=False)

    measured = {pair: crossed(*pair) for pair in compared}
    influence = np.stack([each.influence for each in measured.values()], axis=1)
    generator = np.random.default_rng(seed)
    moved = {where: _redrawn(influence[blocks[where]], resamples, generator) for where in domains}
    quantiles = ((1 - level) / 2, (1 + level) / 2)
    overall: dict[tuple[str, str | None], Interval] = {}
    by_domain: dict[tuple[str, str | None], dict[str, Interval]] = {}
    for column, pair in enumerate(compared):
        lines = {where: moved[where][:, column] for where in domains}
        ends = within if pair[1] is None else of_differences(within)
        whole = np.sum(list(lines.values()), axis=0)
        overall[pair] = _interval(measured[pair], whole, quantiles, ends)
        by_domain[pair] = {
            where: _interval(crossed(*pair, where), len(domains) * line, quantiles, ends)
            for where, line in lines.items()
        }
    result = {}
    for name in cells:
        pair = (name, baseline)
        result[name] = Estimate(
            by_domain[(name, None)],
            overall[(name, None)],
            _difference(overall[pair], str(baseline), metric) if pair in compared else None,
            {
                where: _difference(gap, str(baseline), metric)
                for where, gap in by_domain.get(pair, {}).items()
            },
            "other examples of these domains and other trainings"
            if measured[(name, None)].covers_trainings
            else "other examples of these domains, not other trainings",
        )
    shares = (_shares_of_rows(cells, metric), (0.0, 1.0))
    return _reaching(result, *(shares if strata is None else (strata, within)), level)


def _numbered(
    cells: Mapping[str, Mapping[Cell, Array]],
    domains: Sequence[str],
    examples: Mapping[Cell, Any] | None,
) -> tuple[dict[Cell, dict[str, npt.NDArray[np.int64]]], dict[str, slice]]:
    """A number for every example, and the block of numbers of each domain."""
    lines = {cell: line for each in cells.values() for cell, line in each.items()}
    numbers: dict[Cell, dict[str, npt.NDArray[np.int64]]] = {}
    blocks, start = {}, 0
    for where in domains:
        here = [cell for cell in lines if cell[0] == where]
        own = {
            cell: np.arange(len(lines[cell])) if examples is None else np.asarray(examples[cell])
            for cell in here
        }
        known = np.unique(np.concatenate(list(own.values())))
        numbers |= {cell: {"": np.searchsorted(known, own[cell]) + start} for cell in here}
        blocks[where] = slice(start, start + len(known))
        start += len(known)
    return numbers, blocks


def _redrawn(influence: Array, resamples: int, generator: np.random.Generator) -> Array:
    """``(R, K)``: change of K statistics when the examples are drawn again R times."""
    size = len(influence)
    blocks = []
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        picks = generator.integers(size, size=(rows, size))
        picks += np.arange(rows)[:, None] * size
        counts = np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)
        blocks.append(counts.astype(np.float64) @ influence)
    return np.concatenate(blocks)


def of_differences(within: Ends) -> Ends:
    """The lowest and the highest difference of two values that lie ``within``."""
    width = within[1] - within[0]
    return -width, width


def bounded(mean: float, below: float, above: float, within: Ends) -> Interval:
    """``mean - below`` to ``mean + above``, and no further than what is possible."""
    # What sums to 0 exactly must not come out as 1e-17: whether an interval holds 0 decides words.
    low, high = (round(float(np.clip(end, *within)), 12) for end in (mean - below, mean + above))
    return Interval(mean, low, high)


def difference_interval(difference: CrossedMean, error: float, metric: str) -> Interval:
    """Of a difference of scores by ``metric``; misses with probability ``error``."""
    form = METRICS.get(metric)
    margin = difference.margin(error)
    ends = of_differences(form.scores_within) if form else UNBOUNDED
    return bounded(round(difference.mean, 12), margin, margin, ends)


def _interval(
    mean: CrossedMean, moved: Array, quantiles: tuple[float, float], within: Ends
) -> Interval:
    below, above = np.quantile(moved, quantiles)
    error = 2 * quantiles[0]
    rows = mean.widened(-float(below), error), mean.widened(float(above), error)
    return bounded(mean.mean, *rows, within)


def _reaching(
    estimates: Mapping[str, Estimate],
    strata: Mapping[str, Sequence[Stratum]],
    within: Ends,
    level: float,
) -> dict[str, Estimate]:
    """With intervals that hold what rows of a kind that was not seen could change.

    ``strata``: of each domain. As they are where nothing is known to be at stake.
    """
    if not any(strata.values()):
        return dict(estimates)

    def reach(own: Interval, domains: Mapping[str, Interval]) -> Interval:
        def fall(worst: float) -> float:
            at_stake = [
                Stratum(one.rows, one.weight * abs(each.mean - worst) / len(domains))
                for where, each in domains.items()
                for one in strata[where]
            ]
            return largest_fall(at_stake, (1 - level) / 2)

        free = bounded(own.mean, fall(within[0]), fall(within[1]), within)
        return Interval(own.mean, min(own.low, free.low), max(own.high, free.high))

    return {
        name: replace(
            own,
            domains={where: reach(each, {where: each}) for where, each in own.domains.items()},
            overall=reach(own.overall, own.domains),
        )
        for name, own in estimates.items()
    }


def _shares_of_rows(
    cells: Mapping[str, Mapping[Cell, Array]], metric: str
) -> dict[str, tuple[Stratum, ...]]:
    """The rows of each domain as one stratum, where every score is 0 or 1; else none at all."""
    if metric != "accuracy":
        return {}
    rows: dict[str, int] = {}
    for own in cells.values():
        for (where, _), line in own.items():
            if not np.isin(line, (0.0, 1.0)).all():
                return {}
            rows[where] = min(len(line), rows.get(where, len(line)))
    return {where: (Stratum(count, 1.0),) for where, count in rows.items()}


def _difference(interval: Interval, baseline: str, metric: str) -> Difference:
    words = difference_words(interval.mean, interval.low, interval.high, metric=metric)
    return Difference(interval.mean, interval.low, interval.high, baseline, words)


def _checked(
    scores: Mapping[str, Mapping[Cell, npt.ArrayLike]],
    baseline: str | None,
    examples: Mapping[Cell, Any] | None,
) -> dict[str, dict[Cell, Array]]:
    if not scores:
        raise InputError("no protocol to compare")
    if baseline is not None and baseline not in scores:
        raise InputError(
            f"the baseline '{baseline}' is not among the protocols",
            hint=f"choose one of: {', '.join(scores)}",
        )
    cells = {
        name: {cell: np.asarray(values, dtype=np.float64) for cell, values in each.items()}
        for name, each in scores.items()
    }
    everywhere = {domain for each in cells.values() for domain, _ in each}
    lengths: dict[Hashable, int] = {}
    for name, each in cells.items():
        missing = everywhere - {domain for domain, _ in each}
        if missing:
            raise InputError(f"protocol '{name}' has no scores for domain '{min(missing)}'")
        for cell, values in each.items():
            known = lengths.setdefault(cell if examples else cell[0], len(values))
            if examples is not None:
                known = len(examples[cell])
            if values.ndim != 1 or len(values) != known or known == 0:
                raise InputError(
                    f"protocol '{name}' has scores of shape {values.shape} for domain '{cell[0]}', "
                    f"trial {cell[1]}, expected ({known},)"
                )
            if not np.isfinite(values).all():
                raise InputError(
                    f"protocol '{name}' has a score that is not finite for domain '{cell[0]}', "
                    f"trial {cell[1]}"
                )
    return cells
