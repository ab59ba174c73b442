"""Shapes of an average: a weight for every checkpoint, the oldest first; they add up to 1.

WSM (arXiv 2507.17634): a run of constant learning rate adds one change of the weights after the
other, ``theta_j = theta_{j-1} + u_j``. A decay of the learning rate would have scaled them by
``1 = w_0 >= w_1 >= ... >= w_{K-1} >= 0``, and

    theta_0 + sum_{j=1}^{K-1} w_j u_j  =  sum_{j=0}^{K-1} (w_j - w_{j+1}) theta_j,   w_K = 0,

so the weight of a checkpoint is the difference of the decay at it and at the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from stockpot.errors import InputError

DECAYS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda x: (1.0 + math.cos(math.pi * x)) / 2.0,
    "linear": lambda x: 1.0 - x,
    "sqrt": lambda x: 1.0 - math.sqrt(x),
}
"""Decays from 1 to 0 over the window, as functions of the part of it that has passed."""

SHAPES = "uniform, ema:DECAY such as ema:0.9, wsm:cosine, wsm:linear or wsm:sqrt"


def coefficients(shape: str, count: int) -> list[float]:
    """Weights (``count``,) of a shape by name.

    ``uniform``: all alike (SWA, LAWA). ``ema:D``: :func:`ema_coefficients`. ``wsm:cosine``,
    ``wsm:linear``, ``wsm:sqrt``: :func:`decay_coefficients` of a decay that reaches 0 one
    checkpoint after the last; the linear one is ``uniform``. Raises ``InputError``.
    """
    if count < 1:
        raise InputError(f"an average takes one checkpoint or more, got {count}")
    kind, _, value = shape.partition(":")
    if shape in ("uniform", "wsm:linear"):
        return [1.0 / count] * count
    if kind == "wsm" and value in DECAYS:
        return decay_coefficients([DECAYS[value](j / count) for j in range(count)])
    if kind == "ema":
        try:
            return ema_coefficients(float(value), count)
        except ValueError:
            pass
    raise InputError(f"shape: got '{shape}'", hint=f"expected {SHAPES}")


def ema_coefficients(decay: float, count: int) -> list[float]:
    """An exponential moving average: a checkpoint weighs ``decay`` times as much as the next one.

    As Adam's moments it is divided by the sum of its weights, so that the first checkpoint has no
    share of what came before the window. Raises ``InputError`` unless 0 <= decay < 1.
    """
    if not 0.0 <= decay < 1.0:
        raise InputError(f"ema: got the decay {decay}", hint="expected 0 <= decay < 1")
    weights = [decay ** (count - 1 - j) for j in range(count)]
    return [weight / sum(weights) for weight in weights]


def decay_coefficients(decay: Sequence[float]) -> list[float]:
    """Weights of K checkpoints that give the effect of a decay (WSM, arXiv 2507.17634).

    ``decay``: factors of the learning rate, (K,): 1 at the first checkpoint, then that of the steps
    up to each further one. Raises ``InputError`` unless they start at 1 and never grow, to 0 or
    above.
    """
    ends = [*decay, 0.0]
    if ends[0] != 1.0 or any(not a >= b for a, b in pairwise(ends)):
        hint = "expected factors that start at 1 and do not grow, 0 or above"
        raise InputError(f"decay: got {list(decay)}", hint=hint)
    return [a - b for a, b in pairwise(ends)]


def valley_coefficients(
    losses: Sequence[float], converge: int = 3, tolerance: int = 6, ratio: float = 0.3
) -> list[float]:
    """SWAD's window (Cha et al. 2021, Algorithm 1): equal weights inside the valley, 0 outside.

    ``losses``: validation loss of every checkpoint, (K,). The arguments are those of
    ``LossValley``. Needs torch.
    """
    import torch

    from stockpot.training.averaging import LossValley, RunningMean

    if not losses:
        raise InputError("SWAD's window needs the validation losses of the checkpoints")
    valley = LossValley(converge, tolerance, ratio)
    for row, loss in zip(torch.eye(len(losses)), losses, strict=True):
        segment = RunningMean()
        segment.add({"inside": row})
        valley.add(segment, loss)
    inside = [value > 0 for value in valley.mean()["inside"].tolist()]
    return [value / sum(inside) for value in inside]
