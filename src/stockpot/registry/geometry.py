"""Who descends from whom, from the geometry of differences. Pure functions on vectors.

A fine-tuning of p goes its own way from p: its step is about orthogonal to the step by which p left
its own parent a. A sibling of p, fine-tuned from a as well, lies back from p in the direction of a.
So the cosine g between (y - p) and (p - a) is about 0 for a child of p and

    -|p - a| / sqrt(|p - a|^2 + |y - a|^2)

for a sibling whose step has nothing in common with p's. How far the two cases lie apart says how
sure one can be. A merge lies in the plane of its parents: what a non-negative combination of their
steps leaves unexplained is rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

# From here on two models have an ancestor in common (strangers: 0 with a spread of about 0.03).
RELATED = 0.3
# Spread of g for children: fine-tunings keep some of their parent's direction.
_SPREAD = 0.12
# Share of siblings whose steps look alike, and prior odds for a child: most models were fine-tuned
# from what everybody starts from, not from each other. Set on real trainings (docs/registry.md).
_ALIKE = 0.4
_PRIOR = 0.12
# A part of the combination below this share is noise.
_LEAST_WEIGHT = 0.03
_MOST_MEMBERS = 12


def agreement(y: Vectors, others: Vectors, rows: int) -> Vectors:
    """Correlation of sketches (n, rows * values) with that of ``y``, the mean over ``rows``."""
    ours = _standard(y[None], rows)[0]
    theirs = _standard(others, rows)
    return np.asarray(np.einsum("rv,nrv->n", ours, theirs) / rows)


def _standard(vectors: Vectors, rows: int) -> Vectors:
    grid = vectors.reshape(len(vectors), rows, -1)
    grid = grid - grid.mean(axis=2, keepdims=True)
    norm = np.sqrt(np.square(grid).sum(axis=2, keepdims=True))
    return np.asarray(np.divide(grid, norm, out=np.zeros_like(grid), where=norm > 0))


def scales(vectors: Vectors, rows: int) -> Vectors:
    """Per entry the size of its matrix's entries, so that every matrix counts the same."""
    grid = vectors.reshape(len(vectors), rows, -1)
    size = np.sqrt(np.square(grid).mean(axis=(0, 2)))
    return np.repeat(np.where(size > 0, size, 1.0), grid.shape[2])


def child_odds(y: Vectors, p: Vectors, a: Vectors) -> float:
    """Odds that ``y`` comes from ``p`` rather than from ``p``'s parent ``a`` directly."""
    step, own, rest = p - a, y - a, y - p
    length, far, left = (float(np.linalg.norm(each)) for each in (step, own, rest))
    if length == 0 or left == 0:
        return 1.0
    g = float(step @ rest) / (length * left)
    noise = 1.0 / math.sqrt(y.size)
    power = length / math.hypot(length, far)
    spread = _SPREAD + noise
    # A child may go on in its parent's direction, which a sibling of the same task does as well.
    as_child = _normal(min(g, 0.0), 0.0, spread)
    # Siblings share some of their way, so that they lie anywhere between 0.5 and 1 of the way back,
    # and some share so much of it that the angle does not tell.
    as_sibling = (1 - _ALIKE) * _normal(g, -0.75 * power, 0.2 * power + noise) + _ALIKE / 0.6
    return _PRIOR * as_child / as_sibling


def _normal(x: float, mean: float, spread: float) -> float:
    return math.exp(-0.5 * ((x - mean) / spread) ** 2) / spread


@dataclass(frozen=True)
class Descent:
    """The model that ``y`` most probably comes from, and the probability of it."""

    place: int
    confidence: float


def climb(
    y: Vectors, vectors: Vectors, parents: Mapping[int, Sequence[int]], related: Sequence[int]
) -> Descent:
    """From the model nearest to ``y`` up the tree, as long as that is rather a sibling.

    ``vectors`` (n, d) are the models, ``parents`` maps places to places of parents, ``related`` are
    the places to be considered.
    """
    known, seen = set(related), set[int]()
    distance = np.linalg.norm(vectors[list(related)] - y, axis=1)
    current = related[int(np.argmin(distance))]
    doubt = 1.0
    while True:
        seen.add(current)
        above = [each for each in parents.get(current, ()) if each in known and each not in seen]
        if not above:
            return Descent(current, doubt)
        odds = min(child_odds(y, vectors[current], vectors[each]) for each in above)
        if odds >= 1.0:
            return Descent(current, doubt * odds / (1.0 + odds))
        doubt = 1.0 / (1.0 + odds)
        current = above[0]


@dataclass(frozen=True)
class AffineMix:
    """``y`` as ``base + sum_i weights_i (member_i - base)``; ``rest`` is the relative residual."""

    members: tuple[int, ...]
    weights: tuple[float, ...]
    rest: float


def mixture(y: Vectors, vectors: Vectors, base: int, related: Sequence[int]) -> AffineMix | None:
    """The combination of few models' steps from ``base`` that comes nearest to ``y``'s.

    Greedy choice of the next member, non-negative least squares over those chosen.
    """
    own = y - vectors[base]
    length = float(np.linalg.norm(own))
    places = [each for each in related if each != base]
    steps = vectors[places] - vectors[base]
    norms = np.linalg.norm(steps, axis=1)
    usable = norms > 0
    if length == 0 or not usable.any():
        return None
    chosen: list[int] = []
    weights = np.zeros(0)
    rest = own
    while len(chosen) < min(_MOST_MEMBERS, len(places)):
        gain = np.where(usable, steps @ rest / np.where(usable, norms, 1.0), -np.inf)
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        if gain[best] <= 1e-3 * length:
            break
        chosen.append(best)
        weights = _nonnegative(steps[chosen], own)
        rest = own - weights @ steps[chosen]
        if float(np.linalg.norm(rest)) < 1e-5 * length:
            break
    kept = [place for place, weight in enumerate(weights) if weight >= _LEAST_WEIGHT]
    if not kept:
        return None
    members = [chosen[place] for place in kept]
    weights = _nonnegative(steps[members], own)
    left = float(np.linalg.norm(own - weights @ steps[members])) / length
    return AffineMix(
        tuple(places[each] for each in members), tuple(float(w) for w in weights), left
    )


def _nonnegative(steps: Vectors, target: Vectors) -> Vectors:
    """Non-negative least squares for a few vectors, by coordinate descent on the Gram matrix."""
    gram, inner = steps @ steps.T, steps @ target
    weights = np.maximum(np.linalg.lstsq(gram, inner, rcond=None)[0], 0.0)
    for _ in range(200):
        before = weights.copy()
        for place in range(len(weights)):
            if gram[place, place] > 0:
                pull = inner[place] - gram[place] @ weights + gram[place, place] * weights[place]
                weights[place] = max(0.0, pull / gram[place, place])
        if np.abs(weights - before).max() < 1e-9:
            break
    return np.asarray(weights)
