"""What a step minimises: mean squared error, or cross-entropy with weights and smoothed labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.errors import InputError
from stockpot.evaluation.metrics import Kind
from stockpot.yaml_lines import suggestion

ClassWeights = Literal["balanced"] | Mapping[str, float]


class Objective:
    """The loss of a step as a sum over its parts, so that any division gives the same gradient.

    Args:
        labels: of the training rows, (N,); they set the weights of ``balanced``.
        classes: names in the order of the labels.
        class_weights: ``balanced`` gives class k the weight N / (K n_k), K classes being there; a
            mapping names weights above 0, and 1 is the weight of every class that it leaves out.
        label_smoothing: mass in [0, 1) that goes from the label to all classes alike.

    Raises ``InputError`` for an option that the kind of task has no use for, and an unknown class.
    """

    def __init__(
        self,
        kind: Kind,
        labels: np.ndarray,
        *,
        n_outputs: int,
        classes: Sequence[str] = (),
        class_weights: ClassWeights | None = None,
        label_smoothing: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        check_objective(kind, classes, class_weights, label_smoothing)
        self.kind, self.label_smoothing = kind, label_smoothing
        self.weights: Tensor | None = None
        if class_weights is not None:
            values = _weights(class_weights, labels, classes, n_outputs)
            self.weights = torch.from_numpy(values.astype(np.float32)).to(device)

    def mean(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean over some rows, each counting as much as its class weighs."""
        if self.kind == "regression":
            return nn.functional.mse_loss(outputs.squeeze(1), target)
        return nn.functional.cross_entropy(
            outputs, target, weight=self.weights, label_smoothing=self.label_smoothing
        )

    def mass(self, target: Tensor) -> float:
        """How much some rows count: their number, or the sum of their classes' weights."""
        if self.weights is None:
            return float(len(target))
        return float(self.weights[target].double().sum())


def check_objective(
    kind: Kind,
    classes: Sequence[str],
    class_weights: ClassWeights | None,
    label_smoothing: float,
    where: str = "",
) -> None:
    """Raise ``InputError`` naming the option that this kind of task, or its classes, do not fit.

    ``where`` the options stand, for the message.
    """
    for name, given in (
        ("class_weights", class_weights is not None),
        ("label_smoothing", label_smoothing > 0),
    ):
        if given and kind == "regression":
            raise InputError(f"{where}{name}: the task is regression and has no classes")
    for name in class_weights if isinstance(class_weights, Mapping) else ():
        if name not in classes:
            raise InputError(
                f"{where}class_weights: unknown class '{name}'{suggestion(name, list(classes))}",
                hint=f"the task has {', '.join(classes)}",
            )


def _weights(
    given: ClassWeights, labels: np.ndarray, classes: Sequence[str], n_outputs: int
) -> np.ndarray:
    if isinstance(given, Mapping):
        return np.array([given.get(name, 1.0) for name in classes])
    counts = np.bincount(labels.astype(np.int64), minlength=n_outputs)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 1.0)
