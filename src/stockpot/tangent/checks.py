"""Is the linearisation right? Forward mode against central differences, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stockpot.tangent.linear import Delta, TangentModel
from stockpot.tasks import named_generator

STEPS = (1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Linearisation:
    """Largest differences, relative to the largest value: ``error`` of J f . delta against central
    differences in float64 (the best of several steps), ``rounding`` of the model's own precision
    against float64, ``curvature`` of f(theta + delta) against the linearised model: what
    linearising leaves out."""

    error: float
    rounding: float
    curvature: float


@torch.no_grad()
def check_linearisation(
    model: TangentModel, inputs: Any, delta: Delta | None = None
) -> Linearisation:
    """Compare forward mode with differences of the module itself, on a batch.

    ``delta``: the direction; by default a random one of a hundredth of each weight's size. A wrong
    derivative formula in a module of one's own, or an operation that has none, shows as a large
    ``error``; so does a point on a kink, such as a ReLU of exactly zero.
    """
    exact = model.widened()
    direction = {n: t.double() for n, t in (delta or _random(model)).items()}
    native, change = exact.terms(inputs, direction)
    base = exact.weights

    def moved(step: float) -> Tensor:
        shifted = {name: base[name] + step * t for name, t in direction.items()}
        return exact.functional(shifted, inputs)

    errors = [_gap((moved(s) - moved(-s)) / (2 * s), change) for s in STEPS]
    own = model.terms(inputs, direction)[1].double()
    return Linearisation(
        error=min(errors),
        rounding=_gap(own.to(change.device), change),
        curvature=_gap(moved(1.0) - native, change),
    )


def _random(model: TangentModel) -> dict[str, Tensor]:
    made = {}
    for name, weights in model.weights.items():
        drawn = named_generator(0, "check", name).standard_normal(tuple(weights.shape))
        size = float(weights.double().square().mean().sqrt()) or 1.0
        made[name] = 0.01 * size * torch.from_numpy(drawn).to(weights.device)
    return made


def _gap(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max().clamp(min=1e-300))
