"""From statistics to a classifier: ridge regression, or class means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from stockpot.errors import InputError
from stockpot.tangent.statistics.sums import Sums, unpack

PENALTIES = tuple(10.0**power for power in range(-8, 5))
"""Candidates for lambda in units of trace(gram) / D, all of which are tried."""
_CPU = torch.device("cpu")
_LEFT = 1e-4  # part of the degrees of freedom below which rounding decides the criterion


@dataclass(frozen=True, eq=False)
class Solution:
    """A linear classifier: scores = phi @ weight, (D, C) float64, on the CPU.

    ``penalty`` is lambda in units of trace(gram) / D of the blocks' first; ``blocks``: positions of
    the parts of phi that have weights, the others' are zero; ``criterion``: the values that chose
    both, by blocks and candidate. None and empty for class means.
    """

    weight: Tensor
    penalty: float | None = None
    blocks: tuple[int, ...] = (0,)
    criterion: dict[tuple[int, ...], dict[float, float]] = field(default_factory=dict)


def ridge(
    sums: Sums,
    penalty: float | None = None,
    *,
    blocks: Sequence[int] | None = None,
    most: int | None = None,
    device: torch.device = _CPU,
) -> Solution:
    """W = (gram + lambda I)^-1 cross, the minimiser of sum |y - W^T phi|^2 + lambda |W|^2.

    lambda is relative to trace(gram) / D, so that no scale of the features has to be fixed on
    data. Without ``penalty`` it is the candidate with the smallest generalised cross-validation
    (Golub, Heath and Wahba 1979),

        GCV = n |Y - Phi W|^2 / (n - tr H)^2,    tr H = D - lambda tr (gram + lambda I)^-1,

    which needs nothing but the statistics: what is chosen depends on the examples that are in them
    and on no others. All candidates are tried; one costs about D^3 multiplications.

    ``blocks``: lengths of parts of phi that have scales of their own, such as
    ``FeatureMap.blocks``. The same criterion chooses which of them are used: one alone, or the
    first ones together, each scaled to the trace of the first. So several blocks never have a worse
    criterion than any of them. The first ones together share a factorisation, because the factor of
    a leading block is the leading block of the factor. ``most``: only so many blocks, from the
    first on.

    Raises ``InputError`` for no examples, statistics without a gram, a penalty that is not
    positive, or a gram that is no sum of squares (negative weights, changed numbers).
    """
    if sums.gram is None:
        raise InputError("these statistics hold class means only, ridge needs their gram")
    if not sums.examples > 0:
        raise InputError("there are no examples to fit")
    if penalty is not None and not 0 < penalty < float("inf"):
        raise InputError(f"the penalty must be positive, got {penalty}")
    lengths = tuple(blocks or (sums.dimension,))
    if sum(lengths) != sums.dimension:
        raise InputError(f"blocks of {lengths} features, the statistics have {sums.dimension}")
    gram, cross = unpack(sums.gram, device), sums.cross.to(device)

    def problem(part: slice, sizes: Sequence[int]) -> _Problem:
        return _Problem(gram[part, part], cross[part], sums.examples, sizes)

    return _choose(problem, lengths[:most], sums.cross, penalty)


def ridge_of_rows(
    phi: Tensor, labels: Tensor, classes: int, *, blocks: Sequence[int] | None = None
) -> Solution:
    """What :func:`ridge` finds for the sums of ``phi`` (N, D), from the examples themselves.

    Through their N x N kernel: cheaper where features outnumber examples, and equal up to rounding.
    ``labels``: int64 (N,), below ``classes``.
    """
    targets = torch.nn.functional.one_hot(labels, classes).double()

    def problem(part: slice, sizes: Sequence[int]) -> _Kernel:
        return _Kernel(phi[:, part].double(), targets, sizes)

    return _choose(
        problem, tuple(blocks or (phi.shape[1],)), phi.new_zeros(phi.shape[1], classes).double()
    )


def _choose(
    problem: Callable[[slice, Sequence[int]], _Problem | _Kernel],
    lengths: Sequence[int],
    zero: Tensor,
    penalty: float | None = None,
) -> Solution:
    """The best of all candidates; ``zero`` has the weights' shape."""
    ends = list(accumulate(lengths))
    tried: list[tuple[tuple[int, ...], slice, Sequence[int]]] = [
        ((index,), slice(end - length, end), lengths[index : index + 1])
        for index, (end, length) in enumerate(zip(ends, lengths, strict=True))
    ]
    if len(lengths) > 1:
        tried.append(((), slice(ends[-1]), lengths))
    best, least = Solution(torch.zeros_like(zero)), float("inf")
    # Few blocks come before many, and large penalties before small: among equals they win.
    for alone, part, sizes in tried:
        one = problem(part, sizes)
        for candidate in PENALTIES[::-1] if penalty is None else (penalty,):
            for count, weight, value in one.judge(candidate):
                used = alone or tuple(range(count))
                best.criterion.setdefault(used, {})[candidate] = value
                if value < least or best.penalty is None:
                    full = torch.zeros_like(zero)
                    full[part][: len(weight)] = weight.cpu()
                    least, best = value, replace(best, weight=full, penalty=candidate, blocks=used)
    return best


def _scales(traces: Sequence[float]) -> list[float]:
    """What gives every block the trace of the first."""
    first = traces[0]
    return [(first / trace) ** 0.5 if trace > 0 and first > 0 else 1.0 for trace in traces]


class _Kernel:
    """The same as :class:`_Problem` from the examples."""

    def __init__(self, phi: Tensor, targets: Tensor, lengths: Sequence[int]) -> None:
        parts = torch.split(phi, list(lengths), 1)
        traces = [float(part.square().sum()) for part in parts]
        self.unit = traces[0] / lengths[0] or 1.0
        self.targets, kernel = targets, torch.zeros(len(phi), len(phi), dtype=phi.dtype)
        self.solved: list[tuple[Tensor, Tensor]] = []
        self.scaled: list[Tensor] = []
        for part, scale in zip(parts, _scales(traces), strict=True):
            kernel = kernel + (part @ part.T) * scale**2
            self.scaled.append(part * scale**2)
            values, vectors = torch.linalg.eigh(kernel)
            self.solved.append((values.clamp(min=0), vectors))

    def judge(self, penalty: float) -> Iterator[tuple[int, Tensor, float]]:
        """For each number of leading blocks: it, W, its criterion."""
        amount = penalty * self.unit
        for count, (values, vectors) in enumerate(self.solved, 1):
            shrunk, turned = amount / (values + amount), vectors.T @ self.targets
            residual = float((shrunk[:, None] * turned).square().mean(0).sum())
            left = float(shrunk.mean())
            dual = vectors @ (turned / (values + amount)[:, None])
            weight = torch.cat([part.T @ dual for part in self.scaled[:count]])
            yield count, weight, residual / left**2 if left > _LEFT else float("inf")


class _Problem:
    """Ridge regressions on the first one, two, ... of some blocks, which get one trace."""

    def __init__(
        self, gram: Tensor, cross: Tensor, examples: float, lengths: Sequence[int]
    ) -> None:
        self.sizes, self.examples = tuple(accumulate(lengths)), examples
        traces = [float(part.sum()) for part in torch.split(gram.diagonal(), list(lengths))]
        self.unit = traces[0] / lengths[0] or 1.0
        scales = zip(lengths, _scales(traces), strict=True)
        self.scale = torch.cat([gram.new_full((length,), scale) for length, scale in scales])
        self.gram = gram * self.scale * self.scale[:, None]
        self.cross = cross * self.scale[:, None]

    def judge(self, penalty: float) -> Iterator[tuple[int, Tensor, float]]:
        """For each number of leading blocks: it, W (of the unscaled features), its criterion."""
        amount = penalty * self.unit
        shifted = self.gram.clone()
        shifted.diagonal().add_(amount)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if int(failed):
            raise InputError(
                "the gram of these statistics is no sum of squares",
                hint="give components positive weights, and look for changed files",
            )
        inverse = _inverse_of_lower(factor)
        squares = inverse.square().sum(1)  # a leading block's rows lie within it
        for count, size in enumerate(self.sizes, 1):
            leading, cross = inverse[:size, :size], self.cross[:size]
            weight = leading.T @ (leading @ cross)
            # |Y - Phi W|^2 = |Y|^2 - <cross, W> - lambda |W|^2, because gram W = cross - lambda W.
            explained = float((cross * weight).sum()) + amount * float(weight.square().sum())
            residual = max(self.examples - explained, 0.0)
            left = (self.examples - size + amount * float(squares[:size].sum())) / self.examples
            # Where features outnumber examples and lambda vanishes, both go to zero together.
            value = residual / self.examples / left**2 if left > _LEFT else float("inf")
            yield count, weight * self.scale[:size, None], value


def _inverse_of_lower(factor: Tensor) -> Tensor:
    """Of a lower triangular matrix, by halves: nearly all of it is matrix products."""
    size = len(factor)
    if size <= 256:
        eye = torch.eye(size, dtype=factor.dtype, device=factor.device)
        small: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
        return small
    half = size // 2
    upper, lower = _inverse_of_lower(factor[:half, :half]), _inverse_of_lower(factor[half:, half:])
    inverse = torch.zeros_like(factor)
    inverse[:half, :half], inverse[half:, half:] = upper, lower
    inverse[half:, :half] = -(lower @ factor[half:, :half] @ upper)
    return inverse


def class_means(sums: Sums) -> Solution:
    """Directions of the class means, unit length: scores are cosines up to the example's own norm.

    SimpleCIL (Zhou et al. 2023), the nearest class mean by cosine. A class without examples scores
    0. Needs no gram.
    """
    if not sums.examples > 0:
        raise InputError("there are no examples to fit")
    means = sums.cross / sums.counts.clamp(min=1e-300)
    return Solution(means / means.norm(dim=0).clamp(min=1e-300))
