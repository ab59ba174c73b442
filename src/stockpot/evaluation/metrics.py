"""How good predictions are: per-example scores and their mean, for classes and for numbers.

Shapes: ``outputs`` is ``(N, C)`` logits or probabilities for classification, ``(N,)`` or ``(N, 1)``
values for regression; ``labels`` is ``(N,)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Kind = Literal["classification", "regression"]
Scores = npt.NDArray[np.float64]


def correct(outputs: npt.ArrayLike, labels: npt.ArrayLike, kind: Kind) -> Scores:
    """Score of each example, shape ``(N,)``, float64.

    Classification: 1 where the largest output is the label, else 0 (the first class wins a tie).
    Regression: ``1 - (prediction - label)^2 / variance(labels)``, at most 1 and without lower
    bound, so that its mean over the examples is exactly R2.

    Raises ``InputError`` on shapes that do not fit, no example, a value that is not finite, or
    regression labels that are all the same.
    """
    values, truth = _checked(outputs, labels, kind)
    if kind == "classification":
        right: Scores = (values.argmax(axis=1) == truth).astype(np.float64)
        return right
    variance = truth.var()
    if variance == 0:
        raise InputError(
            f"R2 is undefined: all {len(truth)} labels are {truth[0]:g}",
            hint="evaluate on examples whose labels vary",
        )
    scores: Scores = 1.0 - (values - truth) ** 2 / variance
    return scores


def accuracy(outputs: npt.ArrayLike, labels: npt.ArrayLike, kind: Kind) -> float:
    """Mean of :func:`correct`: the accuracy (0 to 1) of classes, R2 (at most 1) of numbers."""
    return float(correct(outputs, labels, kind).mean())


def mean_squared_error(outputs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean squared error of regression values, in squared units of the label."""
    values, truth = _checked(outputs, labels, "regression")
    return float(((values - truth) ** 2).mean())


def ensemble(outputs: Sequence[npt.ArrayLike], kind: Kind) -> Scores:
    """Prediction of an ensemble: the mean over members of class probabilities, or of values.

    ``outputs`` are logits ``(N, C)`` per member for classification; the result holds probabilities.
    """
    if len(outputs) == 0:
        raise InputError("an ensemble needs at least one member, got none")
    total: Scores | None = None
    for member in outputs:
        values = np.asarray(member, dtype=np.float64)
        if kind == "classification":
            values = softmax(values)
        if total is not None and values.shape != total.shape:
            raise InputError(f"members predict shapes {total.shape} and {values.shape}")
        total = values if total is None else total + values
    assert total is not None
    return total / len(outputs)


def softmax(logits: npt.ArrayLike) -> Scores:
    """Probabilities of logits along the last axis, float64, safe for large values."""
    values = np.asarray(logits, dtype=np.float64)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    probabilities: Scores = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _checked(
    outputs: npt.ArrayLike, labels: npt.ArrayLike, kind: Kind
) -> tuple[Scores, npt.NDArray[Any]]:
    values = np.asarray(outputs, dtype=np.float64)
    truth = np.asarray(labels)
    if kind == "regression":
        truth = truth.astype(np.float64)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
    expected = 2 if kind == "classification" else 1
    if values.ndim != expected or truth.ndim != 1 or len(values) != len(truth):
        raise InputError(
            f"{kind} outputs of shape {values.shape} do not fit labels of shape {truth.shape}"
        )
    if len(truth) == 0:
        raise InputError("no example to evaluate")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise InputError(
            f"the output for example {row} is not finite",
            hint="the model diverged; lower the learning rate",
        )
    return values, truth
