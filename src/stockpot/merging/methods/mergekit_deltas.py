"""mergekit's methods on task vectors, with mergekit's meaning and defaults.

They are named ``mergekit:NAME``; a name that only mergekit has (``dare_ties``) needs no prefix. A
mergekit file is read with these, so that nothing of it has to be translated: their parameters are
mergekit's own. stockpot's methods of the same names have other defaults (see ``docs/methods.md``).

``arithmetic`` is the type in which mergekit would calculate: where that decides, votes and ranks
are taken of numbers rounded to it. The rest is calculated in float32 or wider, and rounded once.

Random choices are drawn from ``seed``, tensor, model and position; mergekit's from a global state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import narrow, widen
from stockpot.errors import MethodError
from stockpot.merging.method import (
    Array,
    Block,
    Choice,
    Flag,
    Parameter,
    Parameters,
    Pass,
    PerModel,
    Real,
    Statistics,
    Total,
    merge_method,
)
from stockpot.merging.methods._deltas import Vote, add_consensus, sum_of
from stockpot.merging.selection import kept, threshold_passes

ARITHMETIC = Choice(
    "arithmetic",
    "float64",
    ("float64", "float32", "float16", "bfloat16"),
    help="type whose rounding decides votes and ranks that are next to each other",
)
WEIGHT = PerModel(Real("weight", None), help="weight of each task vector")
_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_TINY_NORM = 1e-7
_TINY_DIVISOR = 1e-8

_ROOM = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""How near to zero, in shares of its terms, rounding may change the sign of a sum."""


def rounded(xp: Any, x: Array, arithmetic: str) -> Array:
    """``x`` rounded to a narrower type, in the type it has."""
    code = _CODES[arithmetic]
    if code == "F64":
        return x
    if not isinstance(x, np.ndarray):
        return xp.astype(xp.astype(x, getattr(xp, arithmetic)), x.dtype)
    return widen(narrow(x, code), code).astype(x.dtype, copy=False).reshape(x.shape)


# --------------------------------------------------------------------------------- sparse vectors
@dataclass(frozen=True)
class Sparsity:
    """A kind of sparse task vectors.

    ``mask``: which entries of task vector ``number`` stay. ``ranks``: the ranks, by magnitude, that
    the mask needs to know. ``whole``: it needs the tensor in one piece.
    """

    mask: Callable[[Block, int, Array, Parameters], Array]
    ranks: Callable[..., list[int]] | None = None
    random: bool = False
    whole: bool = False


def _is_sparse(values: Parameters) -> bool:
    return any(density < 1 for density in values["density"])


def _counts(size: int, density: float, gamma: float | None) -> list[int]:
    """How many of the largest entries come before those that are kept, and how many with them."""
    if gamma is None:
        return [max(1, int(density * size)) if density > 0 else 0]
    count = max(int(density * size), 0)
    before = size - count - max(size - count - int(gamma * size), 0)
    return [before, before + count]


def _ranks(size: int, *, density: list[float], **values: Any) -> list[int]:
    gammas = values.get("gamma", [None] * len(density))
    pairs = zip(density, gammas, strict=True)
    return [rank for d, gamma in pairs for rank in _counts(size, min(d, 1.0), gamma)]


def _vectors(block: Block, **_: Any) -> list[Array]:
    return block.deltas


def _largest(block: Block, number: int, delta: Array, values: Parameters) -> Array:
    return _among_largest(block, number, delta, number)


def _between(block: Block, number: int, delta: Array, values: Parameters) -> Array:
    outliers = _among_largest(block, number, delta, 2 * number)
    return _among_largest(block, number, delta, 2 * number + 1) & ~outliers


def _among_largest(block: Block, number: int, delta: Array, column: int) -> Array:
    threshold = float(block.statistics["threshold"][number][column])
    cut = float(block.statistics["threshold.cut"][number][column])
    return kept(block.xp, block.xp.abs(delta), block.start, threshold, cut)


def _random(block: Block, number: int, delta: Array, values: Parameters) -> Array:
    return block.uniform(number) < values["density"][number]


def _by_rank(block: Block, number: int, delta: Array, values: Parameters) -> Array:
    """Entries are kept with probability ``density -+ epsilon``, smallest to largest along axis 1
    (vectors: the whole vector)."""
    density, epsilon = values["density"][number], values["epsilon"][number]
    if density <= 0:
        return block.xp.zeros(delta.shape, dtype=block.xp.bool)
    xp = block.xp
    table = delta if delta.ndim >= 2 else xp.reshape(delta, (1, -1))
    order = xp.argsort(xp.abs(table), axis=1, stable=True)
    rank = xp.astype(xp.argsort(order, axis=1, stable=True), xp.float64)
    share = rank / max(table.shape[1] - 1, 1)
    probability = xp.reshape(density - epsilon + share * (2 * epsilon), delta.shape)
    return block.uniform(number) < probability


_LARGEST = Sparsity(_largest, _ranks)
_BETWEEN = Sparsity(_between, _ranks)
_RANDOM = Sparsity(_random, random=True)
_BY_RANK = Sparsity(_by_rank, random=True, whole=True)


def _norms(sparsity: Sparsity) -> Pass:
    """A pass for the factors that give masked task vectors the L1 norm they had."""

    def reduce(block: Block, **values: Any) -> dict[str, Total]:
        found = {}
        for number, delta in enumerate(block.deltas):
            if values["density"][number] < 1:
                size = block.xp.abs(delta)
                found[f"before {number}"] = block.total(size)
                size *= sparsity.mask(block, number, delta, values)
                found[f"after {number}"] = block.total(size)
        return found

    def finish(
        statistics: Statistics, tensor: Any, *, density: list[float], **_: Any
    ) -> Statistics:
        statistics["factors"] = [
            _factor(statistics.pop(f"before {i}", 0.0), statistics.pop(f"after {i}", 0.0))
            for i in range(len(density))
        ]
        return statistics

    return Pass(reduce, finish)


def _factor(before: float, after: float) -> float:
    return before / after if before >= _TINY_NORM and after >= _TINY_NORM else 1.0


def _passes(sparsity: Sparsity | None) -> Callable[[Parameters], tuple[Pass, ...]]:
    def passes(values: Parameters) -> tuple[Pass, ...]:
        if sparsity is None or sparsity.whole or not _is_sparse(values):
            return ()
        steps: tuple[Pass, ...] = ()
        if sparsity.ranks is not None:
            steps += threshold_passes(_vectors, sparsity.ranks, first_ties=True)
        return (*steps, _norms(sparsity)) if values["rescale"] else steps

    return passes


def _masked(block: Block, sparsity: Sparsity, values: Parameters) -> list[Array]:
    """The task vectors, made sparse in place."""
    deltas = block.deltas
    for number, delta in enumerate(deltas):
        if values["density"][number] >= 1:
            continue
        mask = sparsity.mask(block, number, delta, values)
        factor = block.statistics.get("factors", [1.0] * len(deltas))[number]
        if sparsity.whole and values["rescale"]:
            before = _l1(block, delta)
            delta *= mask
            factor = _factor(before, _l1(block, delta))
        else:
            delta *= mask
        if factor != 1.0:
            delta *= factor
    return deltas


def _l1(block: Block, x: Array) -> float:
    return float(block.xp.sum(block.xp.abs(block.xp.astype(x, block.xp.float64))))


# ------------------------------------------------------------------------------- task arithmetic
def _task_arithmetic(
    block: Block, sparsity: Sparsity | None, *, votes: bool, values: Parameters
) -> Array:
    weights, scale = values["weight"], values["lambda"]
    sparse = sparsity is not None and _is_sparse(values)
    deltas = _masked(block, sparsity, values) if sparse and sparsity else block.each_delta()
    if not votes:
        total = sum(weights)
        scale /= total if values["normalize"] and abs(total) >= _TINY_DIVISOR else 1.0
        return add_consensus(block, deltas, weights=weights, scale=scale, consensus="sum")
    mean = values["normalize"]
    unweighted = mean and len(set(weights)) == 1 and weights[0] > 0
    return add_consensus(
        block,
        deltas,
        weights=weights,
        scale=scale,
        consensus="agreeing_mean" if mean else "agreeing_sum",
        vote=_vote(block.xp, values["arithmetic"], weights if unweighted else [1.0] * len(weights)),
    )


def _vote(xp: Any, arithmetic: str, weights: Sequence[float]) -> Vote | None:
    """The sum that elects signs; where it is next to zero, of terms rounded as mergekit's are."""
    room = _ROOM.get(arithmetic)
    if room is None:
        return None

    def vote(deltas: Sequence[Array]) -> Array:
        total = sum_of(deltas)
        if len(deltas) == 2:  # |a| + |b|, where a and b may cancel
            size = deltas[0] - deltas[1]
            size *= room
            size = xp.abs(size)
        else:
            size = sum_of([xp.abs(delta) for delta in deltas])
            size *= room
        close = xp.abs(total) < size
        places = np.nonzero(close) if isinstance(total, np.ndarray) else close
        terms = [delta[places] * weight for delta, weight in zip(deltas, weights, strict=True)]
        total[places] = sum_of([rounded(xp, term, arithmetic) for term in terms])
        return total

    return vote


def _register(
    name: str,
    title: str,
    source: str,
    sparsity: Sparsity | None,
    *,
    votes: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    own: tuple[Parameter, ...] = (),
) -> None:
    """Declare one of mergekit's methods that add up task vectors."""

    def combine(block: Block, **values: Any) -> Array:
        return _task_arithmetic(block, sparsity, votes=votes, values=values)

    merge_method(
        f"mergekit:{name}",
        title=title,
        formula="theta_0 + lambda sum_i w_i tau'_i"
        + (" over those that have the sign of the sum" if votes else "")
        + ("; tau': made sparse" if sparsity else ""),
        source=source,
        base="required",
        granularity="tensor" if sparsity is not None and sparsity.whole else "block",
        passes=_passes(sparsity),
        random=sparsity is not None and sparsity.random,
        parameters=(
            Flag("int8_mask", False, help="how mergekit stores a mask; changes nothing"),
            Flag("normalize", normalize, help="divide by the sum of the weights that take part"),
            Flag("rescale", rescale, help="keep the L1 norm of each task vector"),
            Real("lambda", 1.0, help="factor of the merged task vector"),
            WEIGHT,
            PerModel(Real("density", 1.0), help="share of the entries that are kept"),
            *own,
            ARITHMETIC,
        ),
    )(combine)


_GAMMA = PerModel(Real("gamma", 0.01), help="share of the largest entries, left out")
_EPSILON = PerModel(Real("epsilon", 0.15), help="how far the probability is from density")
_ILHARCO = "Ilharco et al. 2023, arXiv 2212.04089"
_TIES = "Yadav et al. 2023, arXiv 2306.01708"
_DARE = "Yu et al. 2024, arXiv 2311.03099"
_CRUMBS = "Davari and Belilovsky 2024, arXiv 2312.06795"
_DELLA = "Deep et al. 2024, arXiv 2406.11617"

_register("task_arithmetic", "Task arithmetic", _ILHARCO, None)
_register("ties", "TIES", _TIES, _LARGEST, votes=True, normalize=True)
_register("dare_ties", "DARE with TIES", _DARE, _RANDOM, votes=True, rescale=True)
_register("dare_linear", "DARE", _DARE, _RANDOM, rescale=True)
_register("breadcrumbs", "Model Breadcrumbs", _CRUMBS, _BETWEEN, own=(_GAMMA,))
_register("breadcrumbs_ties", "Breadcrumbs with TIES", _CRUMBS, _BETWEEN, votes=True, own=(_GAMMA,))
_register(
    "della", "DELLA", _DELLA, _BY_RANK, votes=True, normalize=True, rescale=True, own=(_EPSILON,)
)
_register("della_linear", "Linear DELLA", _DELLA, _BY_RANK, rescale=True, own=(_EPSILON,))


def check_della(values: dict[str, Any]) -> None:
    """Raise ``MethodError`` where a probability to be kept would leave (0, 1), as mergekit does."""
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise MethodError(
                f"parameter 'epsilon': density {density:g} -+ epsilon {epsilon:g} leaves (0, 1)",
                hint="choose a smaller epsilon",
            )
