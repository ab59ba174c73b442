"""Confidence intervals by a paired bootstrap, and differences in words.

What an interval covers. One *cell* is (held-out domain, trial); a trial trains everything anew.

- Examples: the held-out examples of a domain are drawn again with replacement, the same draw for
  every protocol and, where trials are tested on the same examples, for every trial (crossed
  design). One trial more therefore adds no independent examples.
- Trials: with two or more trials in a domain, trials are drawn again as well. Trial means scatter
  for two reasons, training and the finite test set; the second is already in the draw of examples,
  so that only the estimated rest (variance components, unbiased for few trials) is drawn.
  With one trial the interval says nothing about other seeds, and :attr:`Estimate.covers` says so.
- Domains are fixed: the overall value is the plain mean over these domains, and the interval does
  not speak about domains that were not tested.

The statistic is a mean of means, so each resample is the estimate plus (counts - 1) times each
example's influence on it: one matrix product, exact where trials share their examples.
Sources: Efron and Tibshirani (1993) ch. 6 and 13; Owen (2007, "The pigeonhole bootstrap") on why
drawing rows and columns of a crossed design independently counts their interaction three times.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation.wording import difference_words

Cell = tuple[str, int]
Array = npt.NDArray[np.float64]
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


@dataclass(frozen=True)
class _Part:
    """A domain's estimate, each example's influence on it, and the scatter of its trials."""

    mean: float
    influence: Array
    effects: tuple[tuple[Hashable, Array], ...]


def paired_bootstrap(
    scores: Mapping[str, Mapping[Cell, npt.ArrayLike]],
    baseline: str | None = None,
    *,
    examples: Mapping[Cell, Sequence[int] | npt.NDArray[Any]] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    metric: str = "accuracy",
) -> dict[str, Estimate]:
    """Intervals of every protocol and of its difference to ``baseline``.

    ``scores``: protocol -> (held-out domain, trial) -> per-example scores ``(N,)`` (see
    ``metrics.correct``). Every protocol has every domain; one that pools trials may have fewer
    trials (its difference then cannot pair trials and pairs examples only). ``examples`` gives the
    identity of each example of a cell; without it trials of a domain share their examples, in the
    same order. Equal seeds give equal intervals.

    Raises ``InputError`` on an unknown baseline, a missing domain, or lengths that do not match.
    """
    cells = _checked(scores, baseline, examples)
    domains = list(dict.fromkeys(domain for domain, _ in next(iter(cells.values()))))
    draws = _Draws(resamples, seed)
    values: dict[tuple[str, bool, str], tuple[float, Array]] = {}
    seeds = dict.fromkeys(cells, True)
    for domain in domains:
        sizes, parts = _parts(cells, domain, baseline, examples)
        keys = list(parts)
        centre = np.array([parts[key].mean for key in keys])
        moved = draws.examples(np.stack([parts[key].influence for key in keys], axis=1), sizes)
        for column, key in enumerate(keys):
            line = centre[column] + moved[:, column]
            for group, effects in parts[key].effects:
                line = line + draws.trials(effects, (domain, group))
            seeds[key[0]] &= bool(parts[key].effects)
            values[(*key, domain)] = (float(centre[column]), line)
    quantiles = ((1 - level) / 2, (1 + level) / 2)
    result = {}
    for name in cells:
        own, against = (name, False), (name, True)
        pairs = {domain: values[(*own, domain)] for domain in domains}
        overall = _interval(pairs.values(), quantiles)
        difference, by_domain = None, {}
        if baseline is not None and name != baseline:
            gaps = {domain: values[(*against, domain)] for domain in domains}
            difference = _difference(_interval(gaps.values(), quantiles), baseline, metric)
            by_domain = {
                domain: _difference(_interval([gap], quantiles), baseline, metric)
                for domain, gap in gaps.items()
            }
        result[name] = Estimate(
            {domain: _interval([pair], quantiles) for domain, pair in pairs.items()},
            overall,
            difference,
            by_domain,
            "other examples of these domains and other trainings"
            if seeds[name]
            else "other examples of these domains, not other trainings",
        )
    return result


class _Draws:
    """Resampling counts, drawn once for all protocols so that differences stay paired."""

    def __init__(self, resamples: int, seed: int) -> None:
        self.resamples = resamples
        self.seed = seed
        self._generator = np.random.default_rng(seed)
        self._trials: dict[Hashable, Array] = {}

    def examples(self, influence: Array, size: int) -> Array:
        """``(R, K)``: change of K statistics when ``size`` examples are drawn again R times."""
        blocks = []
        for start in range(0, self.resamples, _BLOCK):
            rows = min(_BLOCK, self.resamples - start)
            picks = self._generator.integers(size, size=(rows, size))
            picks += np.arange(rows)[:, None] * size
            counts = np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)
            blocks.append(counts.astype(np.float64) @ influence)
        return np.concatenate(blocks)

    def trials(self, effects: Array, group: Hashable) -> Array:
        """``(R,)``: mean of trial effects when the trials are drawn again R times."""
        counts = self._trials.get((group, len(effects)))
        if counts is None:
            size = len(effects)
            even = np.full(size, 1.0 / size)
            counts = self._generator.multinomial(size, even, size=self.resamples) / size
            self._trials[(group, size)] = counts
        drawn: Array = counts @ effects
        return drawn


def _parts(
    cells: Mapping[str, Mapping[Cell, Array]],
    domain: str,
    baseline: str | None,
    examples: Mapping[Cell, Any] | None,
) -> tuple[int, dict[tuple[str, bool], _Part]]:
    """Number of distinct examples of a domain, and the parts of protocols and of differences."""
    identities: dict[Cell, npt.NDArray[np.int64]] = {}
    names = sorted({cell for each in cells.values() for cell in each if cell[0] == domain})
    if examples is None:
        size = len(next(each[names[0]] for each in cells.values() if names[0] in each))
        identities = {cell: np.arange(size) for cell in names}
    else:
        known = np.unique(np.concatenate([np.asarray(examples[cell]) for cell in names]))
        size = len(known)
        identities = {cell: np.searchsorted(known, np.asarray(examples[cell])) for cell in names}

    own = {
        name: {trial: values for (where, trial), values in each.items() if where == domain}
        for name, each in cells.items()
    }

    def part(trials: Mapping[int, Array], group: Hashable) -> _Part:
        return _part([(identities[(domain, t)], trials[t]) for t in sorted(trials)], size, group)

    parts = {(name, False): part(trials, "paired") for name, trials in own.items()}
    for name, trials in own.items():
        if baseline is None or name == baseline:
            continue
        if trials.keys() == own[baseline].keys():
            gap = {t: trials[t] - own[baseline][t] for t in trials}
            parts[(name, True)] = part(gap, "paired")
        else:
            mine, theirs = parts[(name, False)], part(own[baseline], "baseline")
            parts[(name, True)] = _Part(
                mine.mean - theirs.mean,
                mine.influence - theirs.influence,
                mine.effects + tuple((group, -each) for group, each in theirs.effects),
            )
    return size, parts


def _part(
    trials: Sequence[tuple[npt.NDArray[np.int64], Array]], size: int, group: Hashable
) -> _Part:
    """Variance components of T trials: see the module's docstring.

    With ``m_t`` a trial's mean and ``b_tu`` an example's influence on it, the scatter ``s^2`` of
    the means estimates ``training variance + q``, where ``q`` is the mean variance of ``m_t`` due
    to examples minus the mean covariance between trials. Effects are scaled so that drawing T of
    them has variance ``max(0, s^2 - q) / T``.
    """
    count = len(trials)
    means = np.array([values.mean() for _, values in trials])
    influence = np.zeros(size)
    squares = 0.0
    for identity, values in trials:
        each = (values - values.mean()) / len(values)
        np.add.at(influence, identity, each / count)
        squares += float(each @ each)
    if count == 1:
        return _Part(float(means[0]), influence, ())
    scatter = float(means.var(ddof=1))
    shared = (count**2 * float(influence @ influence) - squares) / (count * (count - 1))
    kept = max(0.0, scatter - (squares / count - shared)) / scatter if scatter > 0 else 0.0
    effects = (means - means.mean()) * np.sqrt(kept * count / (count - 1))
    return _Part(float(means.mean()), influence, ((group, effects),))


def _interval(parts: Iterable[tuple[float, Array]], quantiles: tuple[float, float]) -> Interval:
    means, lines = zip(*parts, strict=True)
    # What sums to 0 exactly must not come out as 1e-17: whether an interval holds 0 decides words.
    low, high = np.round(np.quantile(np.mean(lines, axis=0), quantiles), 12)
    return Interval(float(np.mean(means)), float(low), float(high))


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
