"""How good predictions are: metrics, each with a score for every example whose mean it is.

Shapes: ``outputs`` is ``(N, C)`` logits for classification, ``(N,)`` or ``(N, 1)`` values for
regression; ``labels`` is ``(N,)``.

Scores are higher-is-better everywhere: the score of a metric of which lower is better (log-loss,
errors) is its value with a minus sign, in arrays, in ``metrics.json`` and in ``results.json``.
Only ``wording`` turns scores back into plain numbers for readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation import row_values, unseen
from stockpot.evaluation.unseen import Stratum

Kind = Literal["classification", "regression"]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One way to say how good predictions are.

    Attributes:
        label: as it stands inside a sentence.
        kind: of task.
        rows: checked arrays -> value of every row, whose mean is the metric (see ``row_values``).
        low, high: range of possible values. Of a metric of which lower is better, 0 is best.
        percent: shown in points of 100; otherwise as it is.
        decimals: shown after the point; None: three significant digits, for label units.
        unit: what stands after a difference.
        formula, source: for the reference.
        check: raises where labels leave the metric undefined.
        at_stake: rows of each class -> what all rows of a class, gone bad, take off the metric,
            in parts of its range (see ``unseen``); None where that is not known.
    """

    name: str
    label: str
    kind: Kind
    rows: Callable[[Scores, npt.NDArray[Any]], Scores]
    formula: str
    source: str
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    percent: bool = True
    decimals: int | None = 1
    unit: str = "points"
    check: Callable[[npt.NDArray[Any]], None] | None = None
    at_stake: Callable[[npt.NDArray[np.int64]], Scores] | None = None

    def __post_init__(self) -> None:
        # So the sign of a score says nothing that its size does not: wording relies on it.
        assert self.higher_is_better or self.low == 0

    @property
    def sign(self) -> int:
        """Score = sign x value."""
        return 1 if self.higher_is_better else -1

    @property
    def scores_within(self) -> tuple[float, float]:
        """The lowest and the highest possible score, infinite where there is none."""
        low, high = sorted(0.0 + self.sign * end for end in (self.low, self.high))
        return low, high

    def row_values(self, outputs: npt.ArrayLike, labels: npt.ArrayLike) -> Scores:
        """Values of the examples, float64 ``(N,)``; their mean is the metric.

        Raises ``InputError`` on shapes that do not fit, no example, a value that is not finite, or
        labels for which the metric is undefined.
        """
        return self.rows(*_checked(outputs, labels, self.kind))

    def row_scores(self, outputs: npt.ArrayLike, labels: npt.ArrayLike) -> Scores:
        """As :meth:`row_values`, higher is better."""
        values = self.row_values(outputs, labels)
        return values if self.higher_is_better else 0.0 - values

    def value(self, outputs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
        """The metric on these examples, in its own unit and sign."""
        return float(self.row_values(outputs, labels).mean())

    def score(self, outputs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
        """The metric on these examples, higher is better."""
        return float(self.row_scores(outputs, labels).mean())

    def strata(self, labels: npt.NDArray[Any]) -> tuple[Stratum, ...]:
        """The rows with these labels by class, with what each class can take off the metric; none
        where that is not known.
        """
        if self.at_stake is None:
            return ()
        counts = np.unique(labels, return_counts=True)[1]
        pairs = zip(counts.tolist(), self.at_stake(counts).tolist(), strict=True)
        return tuple(Stratum(rows, weight) for rows, weight in pairs)

    def check_labels(self, labels: npt.NDArray[Any]) -> None:
        """Raise ``InputError`` where examples with these labels leave the metric undefined."""
        if self.check is not None:
            self.check(labels.astype(np.float64) if self.kind == "regression" else labels)


_C: Kind = "classification"
_R: Kind = "regression"
_DECLARED = [
    Metric(
        "accuracy",
        "accuracy",
        _C,
        row_values.accuracy,
        "share of rows that are right",
        "",
        at_stake=unseen.all_alike,
    ),
    Metric(
        "balanced_accuracy",
        "balanced accuracy",
        _C,
        row_values.balanced_accuracy,
        "mean recall over the classes that have rows",
        "Brodersen et al. 2010",
        at_stake=unseen.by_class,
    ),
    Metric(
        "macro_f1",
        "macro-F1",
        _C,
        row_values.macro_f1,
        "mean over classes of 2 TP / (predicted + true); classes neither predicted nor true are "
        "left out",
        "van Rijsbergen 1979; [1911.03347](https://arxiv.org/abs/1911.03347)",
        at_stake=unseen.by_f1,
    ),
    Metric(
        "auroc",
        "AUROC",
        _C,
        row_values.auroc,
        "chance that a row of a class ranks above another row, ties half; each class against the "
        "rest, mean over the classes that have rows; refused where there is one class only",
        "DeLong et al. 1988; Provost and Domingos 2000",
        percent=False,
        decimals=3,
        unit="of AUROC",
        check=row_values.check_classes,
        at_stake=unseen.by_rank,
    ),
    Metric(
        "log_loss",
        "log-loss",
        _C,
        row_values.log_loss,
        "mean of -log p(label)",
        "Good 1952",
        high=float("inf"),
        higher_is_better=False,
        percent=False,
        decimals=3,
        unit="nats",
    ),
    Metric(
        "calibration_error",
        "calibration error",
        _C,
        row_values.calibration_error,
        "sum over 15 bins of confidence of n_b / N times the absolute accuracy_b - confidence_b",
        "[1706.04599](https://arxiv.org/abs/1706.04599)",
        higher_is_better=False,
        at_stake=unseen.all_alike,
    ),
    Metric(
        "r2",
        "R2",
        _R,
        row_values.r2,
        "1 - mean squared error / variance of the labels",
        "",
        low=float("-inf"),
        percent=False,
        decimals=3,
        unit="of R2",
        check=row_values.check_variance,
    ),
    Metric(
        "rmse",
        "RMSE",
        _R,
        row_values.rmse,
        "root of the mean squared error, in units of the label",
        "",
        high=float("inf"),
        higher_is_better=False,
        percent=False,
        decimals=None,
        unit="of RMSE",
    ),
    Metric(
        "mae",
        "MAE",
        _R,
        row_values.mae,
        "mean absolute error, in units of the label",
        "",
        high=float("inf"),
        higher_is_better=False,
        percent=False,
        decimals=None,
        unit="of MAE",
    ),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}

GIVEN: dict[str, Metric] = {
    name: Metric(
        name,
        name,
        _R,
        lambda outputs, labels: outputs,
        "what an evaluator gave",
        "",
        low=float("-inf") if higher else 0.0,
        high=float("inf"),
        higher_is_better=higher,
        percent=False,
        decimals=None,
        unit=f"of {name}",
    )
    for name, higher in (("score", True), ("loss", False))
}
"""Numbers that somebody else's evaluator gives, in units of its own."""

_BESIDE: dict[Kind, tuple[str, ...]] = {
    "classification": (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "log_loss",
        "calibration_error",
    ),
    "regression": ("rmse", "mae"),
}


def default_metric(kind: Kind) -> Metric:
    """Accuracy of classes, R2 of numbers."""
    return METRICS["accuracy" if kind == "classification" else "r2"]


def metrics_beside(metric: Metric) -> tuple[str, ...]:
    """Names of the metrics that are reported beside ``metric`` by default, defined everywhere."""
    return tuple(name for name in _BESIDE[metric.kind] if name != metric.name)


def fitting_metric(name: str | None, kind: Kind) -> Metric:
    """The metric of that name for that kind of task; the default without a name.

    Raises ``InputError`` on an unknown name or one for the other kind, with the list of those that
    fit.
    """
    if name is None:
        return default_metric(kind)
    fitting = [each.name for each in METRICS.values() if each.kind == kind]
    if name in fitting:
        return METRICS[name]
    known = name in METRICS
    problem = f"is for {METRICS[name].kind}, the task is {kind}" if known else "is unknown"
    raise InputError(
        f"metric '{name}' {problem}", hint=f"for {kind} there are: {', '.join(fitting)}"
    )


def correct(outputs: npt.ArrayLike, labels: npt.ArrayLike, kind: Kind) -> Scores:
    """Score of each example by the default metric of ``kind``, shape ``(N,)``, float64.

    Classification: 1 where the largest output is the label, else 0 (the first class wins a tie).
    Regression: values of which R2 is the mean, at most about 1 (``row_values.r2``).

    Raises ``InputError`` on shapes that do not fit, no example, a value that is not finite, or
    regression labels that are all the same.
    """
    return default_metric(kind).row_scores(outputs, labels)


def accuracy(outputs: npt.ArrayLike, labels: npt.ArrayLike, kind: Kind) -> float:
    """Mean of :func:`correct`: the accuracy (0 to 1) of classes, R2 (at most 1) of numbers."""
    return float(correct(outputs, labels, kind).mean())


def constant_answer(labels: npt.NDArray[Any], kind: Kind) -> Scores:
    """Outputs for examples with these labels: always their most frequent class, or their mean."""
    if kind == "regression":
        return np.full(len(labels), labels.mean())
    counts = np.bincount(labels)
    return np.tile(np.eye(len(counts))[counts.argmax()], (len(labels), 1))


def ensemble(outputs: Sequence[npt.ArrayLike], kind: Kind) -> Scores:
    """Prediction of an ensemble: the mean over members of class probabilities, or of values.

    ``outputs`` are logits ``(N, C)`` per member for classification; so is the result: the
    logarithm of the mean probability, which every metric takes as it takes one model's logits.
    """
    if len(outputs) == 0:
        raise InputError("an ensemble needs at least one member, got none")
    total: Scores | None = None
    for member in outputs:
        values = np.asarray(member, dtype=np.float64)
        if kind == "classification":
            values = log_softmax(values)
        if total is not None and values.shape != total.shape:
            raise InputError(f"members predict shapes {total.shape} and {values.shape}")
        if total is None:
            total = values
        else:
            total = np.logaddexp(total, values) if kind == "classification" else total + values
    assert total is not None
    return total - np.log(len(outputs)) if kind == "classification" else total / len(outputs)


def log_softmax(logits: npt.ArrayLike) -> Scores:
    """Logarithms of the probabilities of logits along the last axis, float64, all finite."""
    values = np.asarray(logits, dtype=np.float64)
    values = values - values.max(axis=-1, keepdims=True)
    logarithms: Scores = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return logarithms


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
