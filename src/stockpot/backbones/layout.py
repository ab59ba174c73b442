"""Where a folder's weights file keeps backbone and head; importing this needs no torch.

A head of stockpot is linear on the features. A library's class often has a layer and an activation
in between, so the head takes one of three forms. In each of them the file's tensors are a linear
function of the head, so that averaging files averages heads, and the head is read back bit by bit.

====== ===========================================================================================
linear the class has one linear layer after the features: weight and bias as they are
pair   dense, activation with ``a(z) - a(-z) = z`` (ReLU, GELU, SiLU), linear: the dense layer holds
       the weight and its negative, the linear layer takes the difference
small  dense, tanh, linear: the dense layer is ``SCALE`` times the identity, where tanh is linear to
       the last bit of a float32, and the linear layer undoes the factor, a power of two
====== ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import BackboneError
from stockpot.schema import fields

WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"
ABOUT = "head.json"

Array = npt.NDArray[Any]
Form = Literal["linear", "pair", "small"]
FORMS: tuple[Form, ...] = ("linear", "pair", "small")
SCALE = 2.0**-16
"""tanh(x) = x - x^3/3 ...: below |x| = 5e-4 the rest is lost in rounding, so |feature| < 32."""


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the head's tensors in a weights file.

    ``prefix``: what stands before the backbone's own names. ``linear``: name of the last layer, of
    ``inputs`` columns; ``kernel``: its weight is that of a convolution of size 1. ``dense``: name
    of the layer before it, with ``hidden`` outputs; empty in the form "linear".
    """

    form: Form
    linear: str
    inputs: int
    prefix: str = ""
    kernel: bool = False
    dense: str = ""
    hidden: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The head's tensors."""
        layers = (self.dense, self.linear) if self.dense else (self.linear,)
        return tuple(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))

    def place(self, weight: Array, bias: Array) -> dict[str, Array]:
        """The tensors of a head with weight (outputs, features) and bias (outputs,).

        Raises ``BackboneError`` where it does not fit.
        """
        outputs, features = weight.shape
        tensors: dict[str, Array] = {}
        if self.form == "linear":
            last = _fitted(weight, (outputs, self.inputs))
        elif self.form == "pair":
            dense = np.concatenate([weight, -weight])
            tensors[f"{self.dense}.weight"] = _fitted(dense, (self.hidden, features))
            signs = np.concatenate([np.eye(outputs), -np.eye(outputs)], axis=1)
            last = _fitted(signs.astype(weight.dtype), (outputs, self.inputs))
        else:
            dense = SCALE * np.eye(features, dtype=weight.dtype)
            tensors[f"{self.dense}.weight"] = _fitted(dense, (self.hidden, features))
            last = _fitted(weight / weight.dtype.type(SCALE), (outputs, self.inputs))
        if self.dense:
            tensors[f"{self.dense}.bias"] = np.zeros(self.hidden, weight.dtype)
        tensors[f"{self.linear}.weight"] = last[:, :, None, None] if self.kernel else last
        tensors[f"{self.linear}.bias"] = bias
        return tensors

    def read(self, tensors: Mapping[str, Array], features: int) -> tuple[Array, Array]:
        """Weight (outputs, features) and bias (outputs,), as :meth:`place` took them.

        Raises ``BackboneError`` where a tensor is missing or something else changed the head.
        """
        missing = [name for name in self.names if name not in tensors]
        if missing:
            raise BackboneError(f"the weights file lacks the head's tensor '{missing[0]}'")
        bias = tensors[f"{self.linear}.bias"]
        last = tensors[f"{self.linear}.weight"].reshape(len(bias), -1)
        if self.form == "linear":
            weight = last[:, :features]
        elif self.form == "pair":
            weight = tensors[f"{self.dense}.weight"][: len(bias)]
        else:
            weight = last[:, :features] * last.dtype.type(SCALE)
        for name, value in self.place(weight, bias).items():
            if not np.array_equal(value, tensors[name]):
                raise BackboneError(
                    f"tensor '{name}' is no longer the head that stockpot wrote",
                    hint="something else trained it; load it with the library that did",
                )
        return weight, bias

    def back(self, weight: Array, bias: Array) -> dict[str, Array]:
        """Gradients of the file's tensors from those of the head: the adjoint of :meth:`read`."""
        outputs, features = weight.shape
        tensors = {f"{self.linear}.bias": bias}
        if self.form == "pair":
            tensors[f"{self.dense}.weight"] = _fitted(weight, (self.hidden, features))
            return tensors
        factor = weight.dtype.type(SCALE if self.form == "small" else 1.0)
        last = _fitted(weight * factor, (outputs, self.inputs))
        tensors[f"{self.linear}.weight"] = last[:, :, None, None] if self.kernel else last
        return tensors

    def check(self) -> None:
        """Raise ``ValueError`` for fields that no layout has: they may come from any file."""
        if self.form not in FORMS:
            raise ValueError(f"'layout: form' is {self.form!r:.40}, expected {', '.join(FORMS)}")
        for name in ("linear", "prefix", "dense"):
            fields.text(getattr(self, name), f"layout: {name}")
        for name in ("inputs", "hidden"):
            fields.count(getattr(self, name), f"layout: {name}")

    def to_json(self) -> dict[str, Any]:
        """For ``head.json``."""
        return asdict(self)


def parse_layout(about: Mapping[str, Any]) -> Layout | None:
    """The layout that a folder's ``head.json`` gives; None for a head in a file of its own."""
    value = about.get("layout")
    return None if value is None else Layout(**value)


def _fitted(values: Array, shape: tuple[int, int]) -> Array:
    """``values`` in the upper left corner of zeros."""
    if values.shape[0] > shape[0] or values.shape[1] > shape[1]:
        raise BackboneError(f"a head of shape {values.shape} does not fit into {shape}")
    whole = np.zeros(shape, values.dtype)
    whole[: values.shape[0], : values.shape[1]] = values
    return whole
