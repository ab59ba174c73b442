"""Linear mode connectivity: what happens on the straight line between two sets of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.errors import InputError

State = Mapping[str, Any]
Evaluate = Callable[[dict[str, Any]], Mapping[str, float]]


@dataclass(frozen=True)
class Connectivity:
    """Accuracy along ``(1 - coefficient) * first + coefficient * second``.

    ``values``: one list per split, as long as ``lambdas``. ``barrier``: per split, see
    :func:`barrier`. ``gain``: per split, the value midway minus the mean of the two ends (positive:
    the average of the two is better than they are).
    """

    lambdas: list[float]
    values: dict[str, list[float]]
    barrier: dict[str, float]
    gain: dict[str, float]


def interpolate(first: State, second: State, coefficient: float) -> dict[str, Any]:
    """``(1 - coefficient) * first + coefficient * second``, tensor by tensor.

    Arithmetic in float32 (float64 stays float64), rounded once to the tensor's own type; at 0 and 1
    the very tensors of an end are returned. Whole-number tensors (such as BatchNorm's step counter)
    cannot be mixed and are those of the nearer end. numpy arrays and torch tensors both work.

    Raises ``InputError`` naming the tensor when names or shapes differ.
    """
    if first.keys() != second.keys():
        name = min(first.keys() ^ second.keys())
        raise InputError(f"cannot interpolate: tensor '{name}' is in one model only")
    if coefficient in (0.0, 1.0):
        return dict(second if coefficient else first)
    mixed: dict[str, Any] = {}
    for name, start in first.items():
        end = second[name]
        if tuple(start.shape) != tuple(end.shape):
            raise InputError(
                f"cannot interpolate: tensor '{name}' has shapes {tuple(start.shape)} "
                f"and {tuple(end.shape)}"
            )
        mixed[name] = _mix(start, end, coefficient)
    return mixed


def curve(first: State, second: State, evaluate: Evaluate, points: int = 11) -> Connectivity:
    """Evaluate ``points`` evenly spaced models from ``first`` to ``second``, ends included.

    ``evaluate`` takes a state and returns a value per split, such as ``{"id": .9, "ood": .8}``,
    higher is better. Source: Frankle et al. (2020, arXiv:1912.05671); eleven points as in Rame et
    al. (2023, arXiv:2212.10445).
    """
    if points < 3:
        raise InputError(f"a connectivity curve needs at least 3 points, got {points}")
    lambdas = [index / (points - 1) for index in range(points)]
    measured = [dict(evaluate(interpolate(first, second, each))) for each in lambdas]
    values = {split: [float(point[split]) for point in measured] for split in measured[0]}
    return Connectivity(
        lambdas=lambdas,
        values=values,
        barrier={split: barrier(lambdas, line) for split, line in values.items()},
        gain={split: midpoint_gain(line) for split, line in values.items()},
    )


def barrier(lambdas: list[float], values: list[float]) -> float:
    """Largest fall of ``values`` below the straight line between its two ends, 0 or more.

    ``max over lambda of (1 - lambda) v(0) + lambda v(1) - v(lambda)``, in units of ``values``.
    Source: Frankle et al. (2020), Entezari et al. (2022, arXiv:2110.06296, eq. 1), for accuracy.
    """
    along = np.asarray(lambdas, dtype=np.float64)
    line = (1.0 - along) * values[0] + along * values[-1]
    return max(0.0, float((line - np.asarray(values, dtype=np.float64)).max()))


def midpoint_gain(values: list[float]) -> float:
    """Value in the middle of the curve minus the mean of its two ends; negative is a loss."""
    middle = float(np.interp(0.5, np.linspace(0.0, 1.0, len(values)), values))
    return middle - (values[0] + values[-1]) / 2.0


def _mix(start: Any, end: Any, coefficient: float) -> Any:
    if isinstance(start, np.ndarray):
        if not np.issubdtype(start.dtype, np.floating):
            return end if coefficient > 0.5 else start
        wide = start.dtype if start.dtype == np.float64 else np.dtype(np.float32)
        mixed = start.astype(wide) * (1.0 - coefficient) + end.astype(wide) * coefficient
        return mixed.astype(start.dtype)
    if not start.is_floating_point():
        return end if coefficient > 0.5 else start
    import torch

    kind = torch.float64 if start.dtype == torch.float64 else torch.float32
    return (start.to(kind) * (1.0 - coefficient) + end.to(kind) * coefficient).to(start.dtype)
