"""Weights of a composition, learnt on a validation set.

The output is linear in the weights, f(x) + sum_k w_k J f . delta_k, so under the square loss the
best ones solve a small ridge problem. It pulls towards the uniform mean, and how strongly is chosen
by cross-validation on the validation rows: few rows cannot take the weights far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.component import Component
from stockpot.tangent.composer import AverageComposer
from stockpot.tangent.linear import TangentModel
from stockpot.tasks import named_generator
from stockpot.training.feed import Feed
from stockpot.training.predict import map_rows

PULLS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 5


@dataclass(frozen=True)
class LearnedWeights:
    """Weights in the components' order, the pull that was chosen, and the cross-validated square
    loss of each pull (infinity is the uniform mean)."""

    weights: tuple[float, ...]
    pull: float
    losses: dict[float, float]


def learn_weights(
    model: TangentModel,
    components: Sequence[Component],
    feed: Feed,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    kappa: float = 5.0,
) -> LearnedWeights:
    """One weight for each component, from the ``rows`` of a feed that none was trained on.

    Minimises the mean of (f + sum_k w_k J f . delta_k - kappa onehot(y))^2 plus
    ``pull`` * scale * |w - 1/K|^2, where scale is the mean square of the terms. Note that learnt
    weights know something of every component: after removing one, learn them again.
    Raises ``InputError`` for fewer than 10 rows.
    """
    if len(rows) < 10:
        raise InputError(
            f"{len(rows)} validation rows are too few to learn weights from",
            hint="raise validation_fraction, or use --weights uniform",
        )
    native, terms = component_terms(model, components, feed, rows)
    targets = kappa * np.eye(native.shape[1])[labels[rows]]
    return fit_weights(terms, targets - native)


def component_terms(
    model: TangentModel, components: Sequence[Component], feed: Feed, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """f (N, C) and J f . delta_k (K, N, C) on ``rows``, float64."""
    composer = AverageComposer(model)
    native = map_rows(model.native, feed, rows, model.device).astype(np.float64)
    terms = []
    for component in components:
        delta = composer.compose([component], [1.0]).state()

        def term(batch: object, delta: object = delta) -> object:
            return model.terms(batch, delta)[1].detach()  # type: ignore[arg-type]

        terms.append(map_rows(term, feed, rows, model.device))  # type: ignore[arg-type]
    return native, np.stack(terms).astype(np.float64)


def fit_weights(terms: np.ndarray, targets: np.ndarray) -> LearnedWeights:
    """Ridge towards the uniform mean; ``terms`` (K, N, C), ``targets`` (N, C), float64."""
    folds = np.arange(terms.shape[1]) % FOLDS
    folds = named_generator(0, "folds").permutation(folds)
    losses: dict[float, float] = {}
    for pull in (*PULLS, np.inf):
        total = 0.0
        for fold in range(FOLDS):
            inside, outside = folds != fold, folds == fold
            weights = _solve(terms[:, inside], targets[inside], pull)
            rest = targets[outside] - np.tensordot(weights, terms[:, outside], 1)
            total += float((rest**2).sum())
        losses[float(pull)] = total / targets.size
    # The strongest pull among equals: nothing is gained by leaving the mean.
    best = min(losses, key=lambda pull: (losses[pull], -pull))
    weights = _solve(terms, targets, best)
    return LearnedWeights(tuple(float(weight) for weight in weights), best, losses)


def _solve(terms: np.ndarray, targets: np.ndarray, pull: float) -> np.ndarray:
    count = len(terms)
    uniform = np.full(count, 1 / count)
    if not np.isfinite(pull):
        return uniform
    flat = terms.reshape(count, -1)
    gram = flat @ flat.T
    scale = np.trace(gram) / count
    # A pull of zero still needs a solution where components are equal.
    matrix = gram + max(pull, 1e-12) * scale * np.eye(count)
    rest = targets.ravel() - uniform @ flat
    found: np.ndarray = uniform + np.linalg.solve(matrix, flat @ rest)
    return found
