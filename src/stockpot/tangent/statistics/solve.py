"""From statistics to a classifier: ridge regression, or class means."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stockpot.errors import InputError
from stockpot.tangent.statistics.sums import Sums, unpack

PENALTIES = tuple(10.0**power for power in range(-8, 5))
"""Candidates for lambda in units of trace(gram) / D, from which generalised cross-validation goes
downhill, starting in the middle."""
_START = PENALTIES.index(1e-2)
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Solution:
    """A linear classifier: scores = phi @ weight, (D, C) float64, on the CPU.

    ``penalty`` is lambda in units of trace(gram) / D, ``criterion`` the values that chose it by
    candidate; None and empty for class means.
    """

    weight: Tensor
    penalty: float | None = None
    criterion: dict[float, float] = field(default_factory=dict)


def ridge(sums: Sums, penalty: float | None = None, *, device: torch.device = _CPU) -> Solution:
    """W = (gram + lambda I)^-1 cross, the minimiser of sum |y - W^T phi|^2 + lambda |W|^2.

    lambda is relative to trace(gram) / D, so that no scale of the features has to be fixed on
    data. Without ``penalty`` it is the candidate with the smallest generalised cross-validation
    (Golub, Heath and Wahba 1979),

        GCV = n |Y - Phi W|^2 / (n - tr H)^2,    tr H = D - lambda tr (gram + lambda I)^-1,

    which needs nothing but the statistics: what is chosen depends on the examples that are in them
    and on no others. One candidate costs about D^3 multiplications.

    Raises ``InputError`` for no examples, statistics without a gram, a penalty that is not
    positive, or a gram that is no sum of squares (negative weights, changed numbers).
    """
    if sums.gram is None:
        raise InputError("these statistics hold class means only, ridge needs their gram")
    if not sums.examples > 0:
        raise InputError("there are no examples to fit")
    if penalty is not None and not 0 < penalty < float("inf"):
        raise InputError(f"the penalty must be positive, got {penalty}")
    problem = _Problem(unpack(sums.gram, device), sums.cross.to(device), sums.examples)
    if penalty is not None:
        return Solution(problem.solve(penalty)[0].cpu(), penalty)
    found: dict[int, float] = {}
    weights: dict[int, Tensor] = {}

    def value(index: int) -> float:
        if not 0 <= index < len(PENALTIES):
            return float("inf")
        if index not in found:
            weights[index], found[index] = problem.judge(PENALTIES[index])
        return found[index]

    here = _START
    step = 1 if value(here + 1) < value(here) else -1
    while value(here + step) < value(here):
        here += step
    criterion = {PENALTIES[index]: found[index] for index in sorted(found)}
    return Solution(weights[here].cpu(), PENALTIES[here], criterion)


class _Problem:
    def __init__(self, gram: Tensor, cross: Tensor, examples: float) -> None:
        self.gram, self.cross, self.examples = gram, cross, examples
        self.unit = float(gram.diagonal().mean()) or 1.0

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """W and the Cholesky factor of gram + lambda I."""
        shifted = self.gram.clone()
        shifted.diagonal().add_(penalty * self.unit)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if int(failed):
            raise InputError(
                "the gram of these statistics is no sum of squares",
                hint="give components positive weights, and look for changed files",
            )
        return torch.cholesky_solve(self.cross, factor), factor

    def judge(self, penalty: float) -> tuple[Tensor, float]:
        """W and its generalised cross-validation."""
        weight, factor = self.solve(penalty)
        amount = penalty * self.unit
        # |Y - Phi W|^2 = |Y|^2 - <cross, W> - lambda |W|^2, because gram W = cross - lambda W.
        explained = float((self.cross * weight).sum()) + amount * float(weight.square().sum())
        residual = max(self.examples - explained, 0.0)
        trace = float(torch.cholesky_inverse(factor).diagonal().sum())
        freedom = len(factor) - amount * trace
        # Where features outnumber examples and lambda vanishes, both go to zero together.
        left = max(self.examples - freedom, 1e-9 * self.examples)
        return weight, self.examples * residual / left**2


def class_means(sums: Sums) -> Solution:
    """Directions of the class means, unit length: scores are cosines up to the example's own norm.

    SimpleCIL (Zhou et al. 2023), the nearest class mean by cosine. A class without examples scores
    0. Needs no gram.
    """
    if not sums.examples > 0:
        raise InputError("there are no examples to fit")
    means = sums.cross / sums.counts.clamp(min=1e-300)
    return Solution(means / means.norm(dim=0).clamp(min=1e-300))
