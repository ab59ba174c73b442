"""Model Stock: how far to go from the base towards the average, from the angle between the models.

The unknown centre of all fine-tunings lies, seen from the plane of base and models, above the
point ``theta_0 + t mean_i(tau_i)`` with ``t = k c / (1 + (k - 1) c)``, c the cosine between two
task vectors.

What the paper leaves open is decided here:

- **More than two models**: c is the mean over pairs of their cosines (``average="cosine"``), or
  the cosine of the mean of their angles (``average="angle"``).
- **Granularity**: one angle a tensor (the paper's "layer"), a row (``"filter"``: output channel;
  vectors count as one row), or one for the whole model (``"global"``).
- **c <= 0** gives t = 0, the base: models that disagree tell nothing about the centre.
  ``bound=False`` keeps the formula's negative t as long as ``1 + (k - 1) c > 0``.
- **A zero task vector** has cosine 0 with every other; all zero gives the base itself.
- Tensors that the base lacks (a new head) and integer buffers never come here: see ``policies.py``.

No epsilon is added anywhere, so updates of size 1e-12 give the same t as updates of size 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stockpot.merging.method import (
    Array,
    Block,
    Choice,
    Flag,
    Pass,
    Statistics,
    TensorShape,
    Total,
    merge_method,
    sum_arrays,
)
from stockpot.merging.methods.linear import average as weighted_average


def mean_cosine(gram: np.ndarray, average: str) -> np.ndarray:
    """Mean cosine over all pairs of vectors, from inner products (..., k, k) in float64; shape
    (...).

    ``average`` is "cosine" (mean of the cosines) or "angle" (cosine of the mean angle). A pair
    with a zero vector has cosine 0.
    """
    norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    i, j = np.triu_indices(gram.shape[-1], 1)
    lengths = norms[..., i] * norms[..., j]
    inner = gram[..., i, j]
    cosines = np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths > 0)
    cosines = np.clip(cosines, -1.0, 1.0)
    if average == "angle":
        return np.asarray(np.cos(np.mean(np.arccos(cosines), axis=-1)))
    return np.asarray(np.mean(cosines, axis=-1))


def interpolation_ratio(cosine: np.ndarray, models: int, *, bound: bool) -> np.ndarray:
    """``t = k c / (1 + (k - 1) c)`` (arXiv 2403.19522, eq. 7); 0 where c <= 0 and ``bound``, or
    undefined.

    A t within 1e-12 of one is one, so that equal models give their own bytes.
    """
    denominator = 1.0 + (models - 1) * cosine
    usable = (cosine > 0) if bound else (denominator > 1e-9)
    ratio = np.divide(models * cosine, denominator, out=np.zeros_like(cosine), where=usable)
    return np.where(np.abs(ratio - 1.0) < 1e-12, 1.0, ratio)


def _gram(block: Block, **_: Any) -> dict[str, Total]:
    return {"gram": block.gram(block.deltas, quick=True)}


def _ratio(
    statistics: Statistics, tensor: TensorShape | None, *, average: str, bound: bool, **_: Any
) -> Statistics:
    gram = statistics["gram"]
    cosine = mean_cosine(gram, average)
    return {
        "cosine": float(cosine),
        "angle": math.degrees(math.acos(min(max(float(cosine), -1.0), 1.0))),
        "ratio": float(interpolation_ratio(cosine, len(gram), bound=bound)),
        "delta_norms": [math.sqrt(square) for square in np.diagonal(gram).tolist()],
    }


_PASSES: dict[str, tuple[Pass, ...]] = {
    "tensor": (Pass(_gram, _ratio, shows_nonfinite=True),),
    "global": (Pass(_gram, _ratio, scope="model", shows_nonfinite=True),),
    "filter": (),
}


@merge_method(
    "stock",
    title="Model Stock",
    formula="theta_0 + t mean_i(tau_i), t = k c / (1 + (k - 1) c)",
    source="Jang et al. 2024, Model Stock, arXiv 2403.19522, eq. 7",
    base="required",
    models=(2, None),
    granularity=lambda parameters: "row" if parameters["granularity"] == "filter" else "block",
    passes=lambda parameters: _PASSES[parameters["granularity"]],
    parameters=(
        Choice(
            "granularity",
            "tensor",
            ("tensor", "filter", "global"),
            help="what shares one angle: a tensor, an output channel, or the whole model",
        ),
        Choice(
            "average",
            "cosine",
            ("cosine", "angle"),
            help="how the pairs of more than two models make one angle",
        ),
        Flag("bound", True, help="keep the base where the mean cosine is not positive"),
    ),
    report=("ratio", "cosine", "angle", "delta_norms"),
)
def stock(block: Block, *, granularity: str, average: str, bound: bool) -> Array:
    if granularity == "filter":
        return _by_filter(block, average=average, bound=bound)
    ratio = block.statistics["ratio"]
    if ratio == 1.0:
        return weighted_average(block.each_model(), [1.0 / block.count] * block.count)
    total = sum_arrays(block.each_delta())
    total *= ratio / block.count
    total += block.base
    return total


def _by_filter(block: Block, *, average: str, bound: bool) -> Array:
    deltas = block.deltas
    k = block.count
    rows = deltas[0].shape[0]
    gram = np.empty((rows, k, k))
    for i in range(k):
        for j in range(i, k):
            sums = block.row_sum(deltas[i], deltas[j])
            gram[:, i, j] = gram[:, j, i] = sums
    ratio = interpolation_ratio(mean_cosine(gram, average), k, bound=bound)
    total = sum_arrays(deltas)
    total *= block.like(ratio / k)[:, None]
    total += block.base
    return total
