"""RKME: a data set as a few weighted points, and the search for the nearest one.

A specification is the reduced set (Z, b) whose kernel mean embedding ``sum_i b_i k(z_i, .)`` is
near that of the data, ``k(x, y) = exp(-g |x - y|^2)``: cluster centres, then three rounds of a
gradient step on Z and of the best weights on the simplex. It says nothing of labels and shows no
row of the data. Specifications are compared by the squared maximum mean discrepancy.

The gradient is that of the discrepancy; the Learnware package's step counts the pull of the data
twice.

All data must live in one input space: raw inputs, or features of one fixed model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.score import KINDS, Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

POINTS = 100
GAMMA = 0.1
ROUNDS = 3
STEP = 0.1


@dataclass(frozen=True)
class Rkme:
    """A reduced set: points (K, D) and weights (K,) on the simplex, float64, and the bandwidth."""

    points: np.ndarray
    weights: np.ndarray
    gamma: float

    def state(self) -> dict[str, Any]:
        """As arrays, for ``numpy.savez``; ``Rkme(**state)`` reads it back."""
        return {"points": self.points, "weights": self.weights, "gamma": self.gamma}


def kernel(first: np.ndarray, second: np.ndarray, gamma: float) -> np.ndarray:
    """``exp(-g |x - y|^2)`` of all pairs, float64, shape (n, m)."""
    squares = (
        np.einsum("ij,ij->i", first, first)[:, None]
        + np.einsum("ij,ij->i", second, second)
        - 2.0 * (first @ second.T)
    )
    return np.asarray(np.exp(-gamma * np.maximum(squares, 0.0)))


def simplex_weights(matrix: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """``argmin b^T K b / 2 - c^T b`` over weights that are at least 0 and sum to 1.

    On the simplex the objective is ``b^T M b / 2`` with ``M = K - c 1^T - 1 c^T + s 1 1^T`` for any
    s. With M positive definite its minimiser is, up to the sum, that of ``b^T M b / 2 - 1^T b``
    over b >= 0: a non-negative least squares problem, solved exactly.
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    size = len(linear)
    stable = matrix + 1e-10 * np.trace(matrix) / size * np.eye(size)
    shift = float(linear @ np.linalg.solve(stable, linear)) + 1.0
    shifted = stable - linear[:, None] - linear + shift
    factor = cholesky(shifted, lower=True)
    weights, _ = nnls(factor.T, solve_triangular(factor, np.ones(size), lower=True))
    return np.asarray(weights / weights.sum())


def specify(rows: np.ndarray, *, points: int = POINTS, gamma: float = GAMMA, seed: int = 0) -> Rkme:
    """The specification of rows, shape (n, D); with ``points`` rows or fewer, the rows themselves.

    Raises ``ScoreError`` where all kernel values vanish: gamma does not fit the data's scale.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    data = np.asarray(rows, dtype=np.float64)
    if len(data) <= points:
        return Rkme(data, np.full(len(data), 1.0 / len(data)), gamma)
    with warnings.catch_warnings():
        # Fewer distinct rows than points: some points coincide, and share their weight.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(points, n_init=1, random_state=seed).fit(data)
    centres = np.asarray(found.cluster_centers_, dtype=np.float64)
    for turn in range(ROUNDS + 1):
        inner = kernel(centres, centres, gamma)
        cross = kernel(centres, data, gamma)
        mean = cross.mean(axis=1)
        if not np.any(mean > 1e-12):
            raise ScoreError(
                f"rkme: with gamma {gamma} no point is near any row",
                hint="scale the inputs, or give gamma near 1 / (squared distance of neighbours)",
            )
        weights = simplex_weights(inner, mean)
        if turn == ROUNDS:
            break
        own = inner * weights
        share = cross / len(data)
        pull = own.sum(axis=1, keepdims=True) * centres - own @ centres
        pull -= share.sum(axis=1, keepdims=True) * centres - share @ data
        centres = centres + STEP * 4.0 * gamma * weights[:, None] * pull
    return Rkme(centres, weights, gamma)


def discrepancy(first: Rkme, second: Rkme) -> float:
    """Squared maximum mean discrepancy of two specifications of one bandwidth."""
    if first.gamma != second.gamma or first.points.shape[1] != second.points.shape[1]:
        raise ScoreError(
            f"rkme: specifications with gamma {first.gamma} and {second.gamma}, "
            f"{first.points.shape[1]} and {second.points.shape[1]} inputs cannot be compared"
        )
    a, b = first.weights, second.weights
    same = a @ kernel(first.points, first.points, first.gamma) @ a
    other = b @ kernel(second.points, second.points, first.gamma) @ b
    between = a @ kernel(first.points, second.points, first.gamma) @ b
    return max(float(same + other - 2.0 * between), 0.0)


def search(rows: np.ndarray, offers: Mapping[str, Rkme]) -> list[tuple[str, float]]:
    """Names of the offers with their discrepancy to a user's rows, the nearest first."""
    wanted: dict[tuple[int, float], Rkme] = {}
    found = []
    for name, offer in offers.items():
        form = len(offer.points), offer.gamma
        if form not in wanted:
            wanted[form] = specify(rows, points=form[0], gamma=form[1])
        found.append((name, discrepancy(wanted[form], offer)))
    return sorted(found, key=lambda pair: pair[1])


def _rkme(work: Workspace) -> Value:
    source = work.evidence.source
    assert source is not None
    spread = float(np.mean(np.var(source.features, axis=0, dtype=np.float64)))
    if spread == 0:
        raise ScoreError("rkme is not defined here: the source features are constant")
    # Inputs in units where a typical squared distance is 1 / GAMMA.
    scale = np.sqrt(2.0 * spread * source.features.shape[1] * GAMMA)
    offer = specify(source.features / scale, seed=work.seed)
    wanted = specify(work.features / scale, seed=work.seed)
    square = discrepancy(offer, wanted)
    return Value(-square, {"points": len(offer.points), "gamma": float(GAMMA / scale**2)})


SCORE = Score(
    name="rkme",
    title="RKME",
    needs=("features", "source"),
    kinds=KINDS,
    formula="-MMD^2(RKME(source), RKME(target)), RBF kernel, 100 points",
    source="Wu et al. 2021, IEEE TKDE, Model reuse with reduced kernel mean embedding",
    when="Recall before any model is run: inputs only, no labels, no features of the model.",
    instead=("logme",),
    function=_rkme,
    cheap=False,
)
