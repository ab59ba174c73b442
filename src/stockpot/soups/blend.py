"""A soup as numbers: how much of each ingredient's change goes into each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Coefficients = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blend:
    """``theta = base + sum_i c_i (theta_i - base)``, tensor by tensor.

    ``coefficients``: (K, T) for K ingredients and T tensors that differ among them. Without a base
    each column adds up to 1. With a merge ``method`` the weights are what that makes of the
    ingredients with ``parameters``, and the coefficients say who takes part.
    """

    name: str
    label: str
    coefficients: Coefficients
    method: str = ""
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def totals(self) -> Coefficients:
        """The mean coefficient of each ingredient, (K,)."""
        means: Coefficients = self.coefficients.mean(axis=1)
        return means

    @property
    def members(self) -> tuple[int, ...]:
        """The ingredients that have a part in it."""
        return tuple(np.flatnonzero(self.coefficients.any(axis=1)).tolist())


class Blends:
    """Makes blends of ``count`` ingredients that differ in ``tensors`` tensors."""

    def __init__(self, names: Sequence[str], tensors: int, *, has_base: bool) -> None:
        self.names = tuple(names)
        self.count = len(names)
        self.tensors = tensors
        self.has_base = has_base

    def blend(
        self,
        name: str,
        label: str,
        coefficients: npt.ArrayLike,
        method: str = "",
        parameters: tuple[tuple[str, float], ...] = (),
    ) -> Blend:
        """From coefficients (K,) or (K, T); without a base each column is moved to the sum of 1."""
        values = np.array(coefficients, dtype=np.float64)
        if values.ndim == 1:
            values = np.repeat(values[:, None], self.tensors, axis=1)
        if not self.has_base:
            values = values + (1.0 - values.sum(axis=0)) / self.count
        return Blend(name, label, values, method, parameters)

    def single(self, index: int) -> Blend:
        """One ingredient as it is."""
        return self.blend(f"single:{index}", self.names[index], np.eye(self.count)[index])

    def uniform(self, members: Sequence[int] | None = None, name: str = "uniform") -> Blend:
        """The plain mean of some ingredients, of all by default."""
        chosen = list(range(self.count) if members is None else members)
        values = np.zeros(self.count)
        values[chosen] = 1.0 / len(chosen)
        label = "uniform soup" if members is None else f"mean of {len(chosen)}"
        return self.blend(name, label, values)
