"""What facts about a model (size, family, pretraining data) say before it has any result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array, Fact

_LOGARITHMIC = {"parameters", "flops", "seconds", "memory", "examples", "size"}
_MOST_WORDS = 40
_RIDGE = 10.0 ** np.arange(-1.0, 4.0, 0.5)


@dataclass(frozen=True)
class Encoder:
    """Facts -> numbers: logarithm of sizes, standardised; words that two models share, one-hot.

    A fact that is missing counts as average. ``numbers``: name -> (mean, deviation).
    """

    numbers: Mapping[str, tuple[float, float]]
    words: tuple[tuple[str, str], ...]

    def __call__(self, facts: Sequence[Mapping[str, Fact]]) -> Array:
        """``(n, features)``."""
        features = np.zeros((len(facts), len(self.numbers) + len(self.words)))
        for i, own in enumerate(facts):
            for j, (name, (mean, deviation)) in enumerate(self.numbers.items()):
                value = _number(name, own.get(name))
                if value is not None:
                    features[i, j] = (value - mean) / deviation
            for j, (name, word) in enumerate(self.words, start=len(self.numbers)):
                features[i, j] = float(own.get(name) == word)
        return features


def make_encoder(facts: Sequence[Mapping[str, Fact]]) -> Encoder | None:
    """The encoder of what varies among ``facts``; None if nothing does."""
    numbers = {}
    for name in sorted({name for own in facts for name in own}):
        values = [v for own in facts if (v := _number(name, own.get(name))) is not None]
        if len(values) >= 3 and float(np.std(values)) > 1e-9:
            numbers[name] = (float(np.mean(values)), float(np.std(values)))
    counts = Counter(
        (name, value) for own in facts for name, value in own.items() if isinstance(value, str)
    )
    common = [pair for pair, n in counts.most_common(_MOST_WORDS) if 2 <= n < len(facts)]
    if not numbers and not common:
        return None
    return Encoder(numbers, tuple(common))


def _number(name: str, value: Fact | None) -> float | None:
    if value is None or isinstance(value, str) or not np.isfinite(value):
        return None
    if name in _LOGARITHMIC:
        return float(np.log(value)) if value > 0 else None
    return float(value)


@dataclass(frozen=True)
class Prior:
    """Rows of scores expected from facts alone.

    ``explained``: share of the variance of models' means that it explains for models left out
    (leave-one-out R^2, 0..1); 0 means that it is switched off and every guess is 0.
    """

    encoder: Encoder | None
    coefficients: Array  # (features, T)
    intercept: Array  # (T,)
    explained: float
    reason: str

    def __call__(self, facts: Sequence[Mapping[str, Fact]]) -> Array:
        """``(n, T)``: expected normal scores."""
        if self.encoder is None or self.explained <= 0.0:
            return np.zeros((len(facts), len(self.intercept)))
        guess: Array = self.intercept + self.encoder(facts) @ self.coefficients
        return guess


def learn_prior(facts: Sequence[Mapping[str, Fact]], rows: Array, weights: Array) -> Prior:
    """Ridge regression of complete ``rows`` ``(N, T)`` on facts; ridge by exact leave-one-out.

    ``weights``: ``(N,)``, how many results stand behind each row. The regression is kept only if,
    leaving out one model at a time, it beats the overall mean by more than chance would (R^2 above
    2 / sqrt(N) of its features' worth).
    """
    tasks = rows.shape[1]
    off = Prior(None, np.zeros((0, tasks)), np.zeros(tasks), 0.0, "")

    def switched_off(reason: str) -> Prior:
        return Prior(off.encoder, off.coefficients, off.intercept, 0.0, reason)

    known = weights > 0
    encoder = make_encoder(facts) if any(facts) else None
    if encoder is None:
        return switched_off("no facts that differ between models")
    if known.sum() < 8:
        return switched_off(f"only {int(known.sum())} models with both facts and results")
    features = encoder(facts)[known]
    target = rows[known]
    share = weights[known] / weights[known].mean()
    root = np.sqrt(share)[:, None]
    middle = (share[:, None] * features).sum(axis=0) / share.sum()
    level = (share[:, None] * target).sum(axis=0) / share.sum()
    scaled = root * (features - middle)
    left, values, right = np.linalg.svd(scaled, full_matrices=False)
    goal = root * (target - level)
    means = goal.mean(axis=1)
    projected = left.T @ means
    best, best_error = 0.0, np.inf
    for ridge in _RIDGE:
        shrink = values**2 / (values**2 + ridge)
        leverage = (left**2 * shrink).sum(axis=1) + 1.0 / len(means)
        residual = (means - left @ (shrink * projected)) / np.maximum(1.0 - leverage, 0.05)
        error = float((residual**2).mean())
        if error < best_error:
            best, best_error = float(ridge), error
    plain = float(((means / (1.0 - 1.0 / len(means))) ** 2).mean())
    explained = 1.0 - best_error / max(plain, 1e-12)
    if explained <= 2.0 / len(means):
        return switched_off(
            f"facts do not predict models left out (R^2 {explained:.2f} by leave-one-model-out)"
        )
    coefficients = right.T @ ((values / (values**2 + best))[:, None] * (left.T @ goal))
    intercept = level - middle @ coefficients
    reason = f"explains {explained:.0%} of the differences between models left out"
    return Prior(encoder, coefficients, intercept, min(explained, 0.95), reason)
