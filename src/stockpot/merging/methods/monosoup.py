"""MonoSoup: one fine-tuned checkpoint, with the strong and the weak directions of its update
weighed anew.

The update of a matrix is split by its singular values: the first k are strong, k the effective
rank ``exp(entropy)`` of the values rounded up. What the weak ones keep follows from how slowly the
spectrum falls (``decay``) and how much of the energy lies in them (``1 - p``). No data, nothing to
tune.

``monosoup+NAME`` does the same to the result of another method, as to one checkpoint. Tensors with
more than two axes are matrices (out, rest); vectors and scalars stay as they are.
"""

from __future__ import annotations

import math
from typing import Any

from stockpot.merging.method import Array, Block, merge_method
from stockpot.merging.methods._matrices import add_matrix, is_matrix, svd, wide
from stockpot.merging.methods._on_top import updates_changed_by


def coefficients(xp: Any, values: Array) -> tuple[int, float, float]:
    """k and the factors of the strong and of the weak directions, from singular values (r,) that
    fall.

    A spectrum with nothing beyond the first k keeps its strong directions whole.
    """
    shares = values / xp.sum(values)
    shares = shares[shares > 0]
    entropy = -float(xp.sum(shares * xp.log(shares)))
    rank = min(_ceiling(entropy), int(values.shape[0]))
    energies = values * values
    weak = float(xp.sum(energies[rank:])) / float(xp.sum(energies))
    decay = float(energies[rank] / energies[0]) if rank < int(values.shape[0]) else 0.0
    low = decay + (1.0 - decay) * weak**0.5
    return rank, 1.0 - low, low


def _ceiling(entropy: float) -> int:
    """``ceil(exp(entropy))``, where a sum's last digits may not make one more of a whole number."""
    return math.ceil(math.exp(entropy) - 1e-9)


def reweighed(xp: Any, update: Array) -> Array:
    """The update of a matrix (rows, columns), float64, with its two parts weighed anew."""
    if not bool(xp.any(update != 0)):
        return update
    u, s, vh = svd(xp, update)
    rank, high, low = coefficients(xp, s)
    strong = (u[:, :rank] * s[:rank]) @ vh[:rank, :]
    return low * update + (high - low) * strong


def _changed(block: Block, update: Array) -> Array:
    if not is_matrix(block):
        return update
    xp = block.xp
    matrix = reweighed(xp, wide(xp, xp.reshape(update, block.tensor.rows)))
    return xp.astype(xp.reshape(matrix, block.tensor.shape), update.dtype)


FORMULA = (
    "theta_0 + (1 - l) high(tau) + l low(tau), l = d + (1 - d) sqrt(1 - p), d = (s_{k+1} / s_1)^2, "
    "p = sum_{i <= k} s_i^2 / sum_i s_i^2, k = ceil(exp(H(s / sum s)))"
)
SOURCE = (
    "Abdollahpoorrostam et al. 2026, Model soups need only one ingredient, arXiv 2602.09689, "
    "section 4"
)


@merge_method(
    "monosoup",
    title="MonoSoup",
    formula=FORMULA,
    source=SOURCE,
    base="required",
    granularity="tensor",
    models=(1, 1),
    on_top=updates_changed_by(
        "monosoup",
        _changed,
        title="weighed anew by MonoSoup",
        formula="theta_0 + (1 - l) high(update) + l low(update)",
        source=SOURCE,
        whole=True,
    ),
)
def monosoup(block: Block) -> Array:
    (update,) = block.deltas
    if not is_matrix(block):
        update += block.base
        return update
    xp = block.xp
    return add_matrix(block, reweighed(xp, wide(xp, xp.reshape(update, block.tensor.rows))), 1.0)
