"""From the sums of a tensor to its row in the inspection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from stockpot.inspection.measure import Matrix, TensorSums
from stockpot.inspection.result import Deltas, Layer

# Rows this alike say nothing about which row belongs to which.
_CONSTANT = 1.0 - 1e-9


@dataclass(frozen=True)
class Measured:
    """A tensor and its sums; ``floating`` and ``counted`` as the comparison decided."""

    name: str
    shape: tuple[int, ...]
    floating: bool
    counted: bool
    sums: TensorSums


def build_layer(measured: Measured, has_base: bool) -> Layer:
    """Turn sums into cosines, norms and angles; undefined numbers are None."""
    sums = measured.sums
    norms = np.sqrt(np.diag(sums.gram))
    pairs = list(combinations(range(len(norms)), 2))
    triples = [_pair_numbers(sums, norms, i, j) for i, j in pairs]
    delta_cosine = sign_conflict = ratio = change = None
    if has_base:
        change = tuple(
            _finite(np.sqrt(sums.deltas[i, i]) / norms[0] if norms[0] > 0 else np.nan)
            for i in range(len(norms))
        )
        deltas = _delta_numbers(sums.deltas, sums.opposite, sums.both)
        delta_cosine, sign_conflict, ratio = deltas.cosine, deltas.sign_conflict, deltas.ratio
    return Layer(
        name=measured.name,
        shape=measured.shape,
        elements=sums.elements,
        counted=measured.counted and not sums.nonfinite,
        cosine=tuple(each[0] for each in triples),
        adjusted=tuple(each[1] for each in triples),
        distance=tuple(each[2] for each in triples),
        norm=tuple(_finite(norm) for norm in norms),
        change=change,
        delta_cosine=delta_cosine,
        sign_conflict=sign_conflict,
        ratio=ratio,
    )


def total_deltas(measured: Sequence[Measured]) -> Deltas:
    """The changes from the base (the first model) over all matrices, as one vector."""
    sound = matrices(measured)
    if not sound:
        return Deltas((), None, None)
    deltas = np.sum([sums.deltas for sums in sound], axis=0)
    return _delta_numbers(
        deltas, sum(sums.opposite for sums in sound), sum(sums.both for sums in sound)
    )


def matrices(measured: Sequence[Measured]) -> list[TensorSums]:
    """Sums of what stands for the whole model: sound matrices, or all sound tensors without any.

    Statistics of BatchNorm are no weights and may be a thousand times as large.
    """
    sound = [each for each in measured if each.floating and not each.sums.nonfinite]
    return [each.sums for each in sound if each.counted] or [each.sums for each in sound]


def stock_ratio(models: int, cosine: float) -> float:
    """t of Model Stock for N models whose deltas have this mean cosine (arXiv 2403.19522).

    0 where the cosine is not positive: there the models agree on no direction.
    """
    return models * cosine / (1.0 + (models - 1) * cosine) if cosine > 0.0 else 0.0


def _delta_numbers(deltas: Matrix, opposite: float, both: float) -> Deltas:
    norms = np.sqrt(np.diag(deltas))
    cosines = tuple(
        _cosine(deltas[i, j], norms[i], norms[j]) for i, j in combinations(range(1, len(norms)), 2)
    )
    known = [cosine for cosine in cosines if cosine is not None]
    ratio = stock_ratio(len(norms) - 1, float(np.mean(known))) if known else None
    return Deltas(cosines, opposite / both if both else None, ratio)


def _pair_numbers(
    sums: TensorSums, norms: Matrix, i: int, j: int
) -> tuple[float | None, float | None, float | None]:
    cosine = _cosine(sums.gram[i, j], norms[i], norms[j])
    if cosine is None:
        return None, None, None
    squared = sums.deltas[i, i] + sums.deltas[j, j] - 2.0 * sums.deltas[i, j]
    distance = float(np.sqrt(max(0.0, squared) / (norms[i] * norms[j])))
    chance = _cosine((sums.shifted[i, j] + sums.shifted[j, i]) / 2.0, norms[i], norms[j])
    if chance is None or chance > _CONSTANT:
        return cosine, None, distance
    return cosine, (cosine - chance) / (1.0 - chance), distance


def _cosine(dot: float, a: float, b: float) -> float | None:
    if not (a > 0.0 and b > 0.0) or not np.isfinite(dot):
        return None
    return float(np.clip(dot / (a * b), -1.0, 1.0))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
