"""mergekit's methods on the weights themselves, with mergekit's meaning and defaults.

See ``mergekit_deltas.py`` for their names. Those on spheres need the inner products of the vectors
alone, so they are streamed: one pass for the products, then a linear combination.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stockpot.errors import MethodError
from stockpot.extras import require
from stockpot.merging.method import (
    Array,
    Block,
    Flag,
    Integer,
    Pass,
    PerModel,
    Real,
    Statistics,
    Total,
    merge_method,
    sum_arrays,
)
from stockpot.merging.methods.linear import average, shares
from stockpot.merging.methods.mergekit_deltas import ARITHMETIC, WEIGHT

_PARALLEL = 0.9995  # beyond this cosine mergekit's slerp is a straight line
_SMALLEST_LENGTH = 1e-6


@merge_method(
    "mergekit:linear",
    title="Linear",
    formula="sum_i w_i theta_i / sum_i w_i",
    source="Wortsman et al. 2022, arXiv 2203.05482",
    base="none",
    parameters=(
        PerModel(Real("weight", None), help="weight of each model"),
        Flag("normalize", True, help="divide by the sum of the weights"),
    ),
    spreads_nonfinite=True,
)
def linear(block: Block, *, weight: list[float], normalize: bool) -> Array:
    return average(block.each_model(), shares(weight) if normalize else weight)


@merge_method(
    "mergekit:passthrough",
    title="Passthrough",
    formula="scale theta",
    source="mergekit",
    base="none",
    models=(1, 1),
    parameters=(PerModel(Real("scale", 1.0), help="factor of the weights"),),
)
def passthrough(block: Block, *, scale: list[float]) -> Array:
    (model,) = block.models
    return model if scale[0] == 1.0 else model * scale[0]


@merge_method(
    "mergekit:nearswap",
    title="NearSwap",
    formula="theta_0 + min(t / |tau|, 1) tau",
    source="alchemonaut, QuartetAnemoi-70B-t0.0001 (model card)",
    base="required",
    models=(1, 1),
    parameters=(Real("t", None, help="size of a difference that is taken over whole"),),
)
def nearswap(block: Block, *, t: float) -> Array:
    xp = block.xp
    (delta,) = block.deltas
    size = xp.abs(delta)
    share = t / xp.where(size < 1e-6, 1e-6, size)
    share = xp.where(share > 1.0, 1.0, xp.where(share < 0.0, 0.0, share))
    return block.base + share * delta


# --------------------------------------------------------------------------------------- spheres
def _gram(block: Block, **_: Any) -> dict[str, Total]:
    """Inner products of the vectors that are interpolated: models, or task vectors."""
    return {"gram": block.gram(block.models if block.base is None else block.deltas)}


def _combined(block: Block) -> Array:
    """The sum of models or task vectors with the coefficients that the pass has found."""
    vectors = block.models if block.base is None else block.deltas
    factors = block.statistics["coefficients"]
    if block.base is None:
        return average(vectors, factors)
    return sum_arrays(v * c for v, c in zip(vectors, factors, strict=True)) + block.base


def _slerp_shares(theta: Any, t: float, straight: Any) -> tuple[Any, Any]:
    """Coefficients of the two ends at ``t``; where ``straight``, ``1 - t`` and ``t``."""
    theta = np.where(straight, np.pi / 2, theta)
    sine = np.sin(theta)
    first = np.where(straight, 1 - t, np.sin((1 - t) * theta) / sine)
    return first, np.where(straight, t, np.sin(t * theta) / sine)


def _from_base(block: Block, **_: Any) -> dict[str, Total]:
    return {"gram": block.gram([block.base, block.models[0]])}


def _slerp(statistics: Statistics, tensor: Any, *, t: float) -> Statistics:
    gram = statistics["gram"]
    lengths = np.sqrt(np.diagonal(gram))
    lengths = np.where(lengths > 1e-8, lengths, 1.0)
    cosine = float(np.clip(gram[0, 1] / lengths[0] / lengths[1], -1.0, 1.0))
    first, second = _slerp_shares(np.arccos(cosine), t, abs(cosine) > _PARALLEL)
    return {"coefficients": (float(first), float(second)), "radians": math.acos(cosine)}


@merge_method(
    "mergekit:slerp",
    title="SLERP",
    formula="from theta_0 (t = 0) to theta_1 (t = 1) on the sphere; straight where cos > 0.9995",
    source="Shoemake 1985, Animating rotation with quaternion curves",
    base="required",
    models=(1, 1),
    passes=(Pass(_from_base, _slerp),),
    parameters=(Real("t", None, help="0 gives the base, 1 the other model"),),
    report=("radians", "coefficients"),
)
def slerp(block: Block, *, t: float) -> Array:
    return average([block.base, *block.models], list(block.statistics["coefficients"]))


def _nuslerp_position(weight: list[float]) -> float:
    total = sum(weight)
    return 0.5 if abs(total) < 1e-6 else weight[1] / total


def _nuslerp_coefficients(aa: Any, ab: Any, bb: Any, t: float) -> tuple[Any, Any]:
    """From squared lengths and inner product; a zero vector is at a right angle to every other."""
    first, second = (np.maximum(np.sqrt(square), 1e-7) for square in (aa, bb))
    cosine = np.clip(ab / first / second, -1.0, 1.0)
    return _slerp_shares(np.arccos(cosine), t, 1.0 - cosine**2 <= 1e-16)


def _nuslerp(statistics: Statistics, tensor: Any, *, weight: list[float], **_: Any) -> Statistics:
    gram, t = statistics["gram"], _nuslerp_position(weight)
    first, second = _nuslerp_coefficients(gram[0, 0], gram[0, 1], gram[1, 1], t)
    return {"coefficients": (float(first), float(second))}


@merge_method(
    "mergekit:nuslerp",
    title="NuSLERP",
    formula="theta_0 + slerp(tau_1, tau_2; w_2 / (w_1 + w_2)); theta instead of tau without a base",
    source="Shoemake 1985, as for slerp",
    base="optional",
    models=(2, 2),
    granularity=lambda values: "block" if values["nuslerp_flatten"] else "tensor",
    passes=lambda values: (Pass(_gram, _nuslerp),) if values["nuslerp_flatten"] else (),
    parameters=(
        PerModel(Real("weight", None), help="weight of each model"),
        Flag("nuslerp_row_wise", False, help="vectors run along the first axis, not the last"),
        Flag("nuslerp_flatten", True, help="the whole tensor is one vector"),
    ),
    report=("coefficients",),
)
def nuslerp(
    block: Block, *, weight: list[float], nuslerp_row_wise: bool, nuslerp_flatten: bool
) -> Array:
    if nuslerp_flatten:
        return _combined(block)
    vectors = block.models if block.base is None else block.deltas
    axis = 0 if nuslerp_row_wise else -1
    wide = [_host(vector) for vector in vectors]
    aa, ab, bb = (
        np.sum(wide[i] * wide[j], axis=axis, keepdims=True) for i, j in ((0, 0), (0, 1), (1, 1))
    )
    factors = _nuslerp_coefficients(aa, ab, bb, _nuslerp_position(weight))
    merged = block.like(wide[0] * factors[0] + wide[1] * factors[1])
    merged = block.xp.reshape(merged, block.tensor.shape)
    return merged if block.base is None else merged + block.base


def _host(x: Array) -> np.ndarray:
    """``x`` as float64 numpy."""
    return np.asarray(x if isinstance(x, np.ndarray) else x.cpu(), dtype=np.float64)


def _multislerp(
    statistics: Statistics,
    tensor: Any,
    *,
    weight: list[float],
    normalize_weights: bool,
    eps: float,
) -> Statistics:
    gram = statistics["gram"]
    weights = np.array(shares(weight) if normalize_weights else weight)
    lengths = np.sqrt(np.diagonal(gram))
    toward = weights / (lengths + eps)
    length = math.sqrt(max(float(toward @ gram @ toward), 0.0))
    if len(weights) == 1:
        return {"coefficients": [1.0]}
    if not lengths.any():  # a frozen tensor: there is nothing to turn
        return {"coefficients": [0.0] * len(weights)}
    if length < eps:
        if len(weights) > 2:
            raise MethodError(
                f"'{tensor.name if tensor else ''}': the weighted directions add up to zero",
                hint="choose other weights",
            )
        return {"coefficients": weights.tolist()}
    # The step along the sphere is zero, but its length counts as eps.
    size = float(lengths @ weights) / length * math.cos(eps)
    return {"coefficients": (toward * size).tolist()}


@merge_method(
    "mergekit:multislerp",
    title="Multi-SLERP",
    formula="theta_0 + (sum_i w_i |tau_i|) m / |m|, m = sum_i w_i tau_i / |tau_i|; theta instead "
    "of tau without a base",
    source="Goddard 2025, Multi-SLERP (goddard.blog): the step in the tangent space is zero",
    base="optional",
    passes=(Pass(_gram, _multislerp),),
    parameters=(
        WEIGHT,
        Flag("normalize_weights", True, help="divide the weights by their sum"),
        Real("eps", 1e-8, help="added to lengths before dividing by them"),
    ),
    report=("coefficients",),
)
def multislerp(block: Block, *, weight: list[float], normalize_weights: bool, eps: float) -> Array:
    return _combined(block)


def _karcher(statistics: Statistics, tensor: Any, *, max_iter: int, tol: float) -> Statistics:
    gram = statistics["gram"]
    count = len(gram)
    lengths = np.sqrt(np.diagonal(gram))
    valid = lengths > tol
    if count == 1 or not valid.any():
        return {"coefficients": [1.0 if count == 1 else 0.0] * count}
    unit = gram[np.ix_(valid, valid)] / np.outer(lengths[valid], lengths[valid])
    mean = _karcher_mean(unit, max_iter, tol)
    factors = np.zeros(count)
    factors[valid] = mean * float(np.mean(lengths)) / lengths[valid]
    return {"coefficients": factors.tolist()}


def _karcher_mean(unit: np.ndarray, steps: int, tolerance: float) -> np.ndarray:
    """Coefficients of unit vectors, equally weighted, of their Karcher mean after some steps."""
    share = np.full(len(unit), 1.0 / len(unit))

    def length(x: np.ndarray) -> float:
        return math.sqrt(max(float(x @ unit @ x), 0.0))

    start = length(share)
    mean = share / start if start >= tolerance else np.eye(len(unit))[0]
    for _ in range(steps):
        cosine = np.clip(unit @ mean, -1.0, 1.0)
        theta = np.arccos(cosine)
        far = theta >= tolerance
        stretch = share * np.divide(theta, np.sin(theta), out=np.zeros_like(theta), where=far)
        tangent = stretch - float(stretch @ cosine) * mean
        step = length(tangent)
        if step < tolerance:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        size = length(mean)
        mean = mean / size if size > tolerance else mean
    return np.asarray(mean)


@merge_method(
    "mergekit:karcher",
    title="Karcher mean",
    formula="mean_i |theta_i| argmin_{|m|=1} sum_i angle(m, theta_i)^2",
    source="Karcher 1977, Riemannian center of mass",
    base="none",
    passes=(Pass(_gram, _karcher),),
    parameters=(
        Integer("max_iter", 10, 0, 1_000_000, help="at most so many steps"),
        Real("tol", 1e-5, help="length of a step, an angle or a norm that counts as zero"),
    ),
    report=("coefficients",),
)
def karcher(block: Block, *, max_iter: int, tol: float) -> Array:
    return _combined(block)


# ---------------------------------------------------------------------------- Model Stock, Fusion
def _stock_ratio(gram: np.ndarray) -> np.ndarray:
    """t from inner products of the task vectors (..., k, k), products of norms at least 1e-6."""
    count = gram.shape[-1]
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 0.0))
    i, j = np.triu_indices(count, 1)
    lengths = np.maximum(norms[..., i] * norms[..., j], _SMALLEST_LENGTH)
    cosine = np.mean(np.clip(gram[..., i, j] / lengths, -1.0, 1.0), axis=-1)
    divisor = 1.0 + (count - 1) * cosine
    usable = np.abs(divisor) >= 1e-6
    ratio = np.divide(count * cosine, divisor, out=np.zeros_like(cosine), where=usable)
    return np.asarray(ratio)


def _stock_gram(block: Block, **_: Any) -> dict[str, Total]:
    return {"gram": block.gram(block.deltas, quick=True)}


def _stock(statistics: Statistics, tensor: Any, **_: Any) -> Statistics:
    return {"ratio": float(_stock_ratio(statistics["gram"]))}


@merge_method(
    "mergekit:model_stock",
    title="Model Stock",
    formula="theta_0 + t mean_i(tau_i), t = k c / (1 + (k - 1) c)",
    source="Jang et al. 2024, Model Stock, arXiv 2403.19522, eq. 7",
    base="required",
    models=(2, None),
    granularity=lambda values: "tensor" if values["filter_wise"] else "block",
    passes=lambda values: (
        () if values["filter_wise"] else (Pass(_stock_gram, _stock, shows_nonfinite=True),)
    ),
    parameters=(Flag("filter_wise", False, help="one t for each vector along the last axis"),),
    report=("ratio",),
)
def model_stock(block: Block, *, filter_wise: bool) -> Array:
    if not filter_wise:
        total = sum_arrays(block.each_delta())
        total *= block.statistics["ratio"] / block.count
    else:
        deltas = block.deltas
        wide = np.stack([_host(delta) for delta in deltas], axis=-2)
        ratio = _stock_ratio(wide @ np.swapaxes(wide, -1, -2))
        total = sum_arrays(deltas)
        total *= block.like(np.asarray(ratio / block.count)[..., None])
    total += block.base
    return total


@merge_method(
    "mergekit:arcee_fusion",
    title="Arcee Fusion",
    formula="theta_0 + m tau; m: |tau| KL(softmax theta, softmax theta_0) of a row at or above "
    "median + 1.5 (q3 - q1)",
    source="Arcee AI 2025, MergeKit v0.1",
    base="required",
    models=(1, 1),
    granularity="tensor",
    torch=True,
    parameters=(ARITHMETIC,),
)
def arcee_fusion(block: Block, *, arithmetic: str) -> Array:
    # The divergence is a small difference of large numbers: most of its digits are rounding, so
    # the operations must be mergekit's, in the type that mergekit would calculate in.
    require("torch", "method 'arcee_fusion'")
    import torch

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(x).to(getattr(torch, arithmetic))

    base, model = tensor(block.base), tensor(block.models[0])
    p, q = (torch.softmax(x, dim=-1) + 1e-8 for x in (model, base))
    divergence = torch.sum(p * torch.log(p / q), dim=-1, keepdim=True)
    importance = (model - base).abs() * divergence
    ordered = torch.sort(importance.reshape(-1)).values
    places = (torch.tensor([0.25, 0.5, 0.75]) * (len(ordered) - 1)).long()
    low, middle, high = ordered[places.to(ordered.device)]
    mask = importance >= middle + 1.5 * (high - low)
    kept = block.like(mask.cpu().numpy())
    return block.base + (block.models[0] - block.base) * kept
