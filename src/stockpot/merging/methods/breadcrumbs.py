"""Model Breadcrumbs: leave out the largest entries (outliers) and the small ones.

``scope="row"`` ranks within each row (output channel) as the authors' code does, ``"tensor"``
within the tensor as mergekit does. The largest ``gamma`` go first, then the next ``density`` are
kept. Entries equal to the smallest or the largest one kept are kept too.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Choice, PerModel, Real, merge_method
from stockpot.merging.methods._deltas import (
    CONSENSUS,
    SCALE,
    WEIGHTS,
    add_consensus,
    density,
    kept,
)
from stockpot.merging.selection import threshold_passes


def _ranks_of(size: int, density: float, gamma: float) -> tuple[int, int]:
    """Ranks (1: the largest) of the largest and the smallest entry that stay."""
    outliers = min(int(gamma * size + 0.5), size - 1)
    return outliers + 1, min(outliers + kept(size, density), size)


def _ranks(size: int, *, density: list[float], gamma: list[float], **_: Any) -> list[int]:
    pairs = dict.fromkeys(zip(density, gamma, strict=True))
    return [rank for pair in pairs for rank in _ranks_of(size, *pair)]


def _vectors(block: Block, **_: Any) -> list[Array]:
    return block.deltas


def row_bounds(xp: Any, magnitudes: Array, ranks: tuple[int, int]) -> tuple[Array, Array]:
    """The ``ranks``-th largest of each row of ``magnitudes`` (rows, n), each of shape (rows, 1)."""
    columns = [int(magnitudes.shape[1]) - rank for rank in ranks]
    ordered = xp.sort(magnitudes, axis=1)
    first, second = (ordered[:, column : column + 1] for column in columns)
    return first, second


@merge_method(
    "breadcrumbs",
    title="Model Breadcrumbs",
    formula="theta_0 + scale sum_i w_i m_i tau_i, m_i: not the largest gamma, the next density",
    source="Davari and Belilovsky 2024, Model Breadcrumbs, arXiv 2312.06795",
    base="required",
    granularity=lambda parameters: "row" if parameters["scope"] == "row" else "block",
    passes=lambda parameters: (
        () if parameters["scope"] == "row" else threshold_passes(_vectors, _ranks)
    ),
    parameters=(
        density(0.14),
        PerModel(
            Real("gamma", 0.01, 0.0, 1.0, closed="left"), help="share of the largest, left out"
        ),
        WEIGHTS,
        SCALE,
        Choice("scope", "row", ("row", "tensor"), help="what is ranked together"),
        CONSENSUS,
    ),
)
def breadcrumbs(
    block: Block,
    *,
    density: list[float],
    gamma: list[float],
    weights: list[float],
    scale: float,
    scope: str,
    consensus: str,
) -> Array:
    xp, deltas = block.xp, block.deltas
    pairs = list(zip(density, gamma, strict=True))
    place = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    for number, (delta, pair) in enumerate(zip(deltas, pairs, strict=True)):
        magnitudes = xp.abs(delta)
        high: Any
        low: Any
        if scope == "row":
            high, low = row_bounds(xp, magnitudes, _ranks_of(int(delta.shape[1]), *pair))
        else:
            row = block.statistics["threshold"][number]
            high, low = (float(row[2 * place[pair] + which]) for which in (0, 1))
        delta *= (magnitudes >= low) & (magnitudes <= high)
    return add_consensus(block, deltas, weights=weights, scale=scale, consensus=consensus)
