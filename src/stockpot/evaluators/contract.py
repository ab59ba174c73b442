"""The contract of an evaluator: a model and a set of rows in, a score for every row out.

Scores are higher-is-better everywhere in here: an evaluator of which lower is better gives its
numbers with a minus sign, and ``wording`` turns them back for readers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Checkpoint
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluation.metrics import GIVEN, METRICS, Metric
from stockpot.yaml_lines import suggestion

Scores = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_LARGEST = 1e100  # beyond it squares of differences are no numbers
_EXPECTED = "give a list of numbers, one a row, or one number for the model"
SCORE, LOSS = "score", "loss"
"""What a number is called that nobody named: of which higher, and of which lower, is better."""


class Evaluator(ABC):
    """One way to score a model.

    Attributes:
        label: what it is called in reports.
        identity: hash of everything that its scores depend on, the model aside.
        metric: of its scores: "score", "loss", or a metric of stockpot.
        size: number of rows; None where that is not known before the first evaluation.
        takes_rows: whether it can score some of the rows and leave out the others.
        is_mean: whether a row's score is its own, whatever other rows are scored with it.
        differentiable: whether it gives a ``gradient``.
        unknown: why ``identity`` cannot speak for the scores, "" where it does: a later run may not
            use them then.
    """

    label: str
    identity: str
    metric: str = SCORE
    size: int | None = None
    takes_rows: bool = False
    is_mean: bool = True
    differentiable: bool = False
    unknown: str = ""

    def prepare(self, model: Checkpoint) -> None:  # noqa: B027 (most need nothing)
        """Load what needs one of the models; called once, before ``identity`` is asked for.

        Raises ``InputError`` for a model that it cannot score.
        """

    @abstractmethod
    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Scores (N,) of the rows with these numbers, of all rows by default; or one number.

        Raises ``EvaluationError`` in one line where there is no such score.
        """

    def gradient(self, model: Checkpoint, rows: Rows | None = None) -> Mapping[str, Any]:
        """How the mean score of these rows changes with tensors of the model, arrays of their
        shapes; or, where that has no gradient, what stands for it, as likelihood for accuracy.

        Raises ``EvaluationError`` as ``evaluate`` does.
        """
        raise EvaluationError(f"{self.label} has no gradient")

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Release what is held: modules, scratch folders."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def named_metric(metric: str | None, *, lower_is_better: bool) -> Metric:
    """The metric of scores that are given. Raises ``InputError`` for an unknown one."""
    if metric is None:
        return GIVEN[LOSS if lower_is_better else SCORE]
    known = {**METRICS, **GIVEN}
    if metric not in known:
        raise InputError(
            f"unknown metric '{metric}'{suggestion(metric, list(known))}",
            hint=f"leave it out, or choose among {', '.join(known)}",
        )
    if lower_is_better and known[metric].higher_is_better:
        raise InputError(f"of metric '{metric}' higher is better, not lower")
    return known[metric]


def checked(values: Any, metric: str, count: int | None) -> Scores | float:
    """What an evaluator gave, higher-is-better: float64 (N,), or a number.

    ``count``: how many rows were asked for, None where that is unknown. Raises ``EvaluationError``
    for what is no number, not finite, beyond 1e100, of another length, or a loss below 0.
    """
    if values is None:
        raise EvaluationError("there is no score: got None", hint=_EXPECTED)
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        shown = " ".join(str(values).split())[:80]
        raise EvaluationError(f"the scores are no numbers: {shown}", hint=_EXPECTED) from None
    if scores.ndim > 1 or scores.size == 0:
        raise EvaluationError(
            f"expected one score a row or one number, got shape {list(scores.shape)}",
            hint=_EXPECTED,
        )
    if scores.ndim == 1 and count is not None and len(scores) != count:
        raise EvaluationError(f"expected {count} scores, one a row, got {len(scores)}")
    usable = np.abs(scores) <= _LARGEST
    if not usable.all():
        where = "" if scores.ndim == 0 else f" of row {int(np.argmin(usable))}"
        raise EvaluationError(f"the score{where} is {scores[~usable].flat[0]:g}")
    if metric == LOSS:
        if scores.min() < 0:
            raise EvaluationError(
                f"a score of which lower is better is below 0: {scores.min():g}",
                hint="give its negative, and leave out lower_is_better",
            )
        scores = 0.0 - scores
    return float(scores) if scores.ndim == 0 else scores


def changing(model: Checkpoint, before: object) -> Iterable[str]:
    """The tensors of ``model`` to write where a model of the series ``before`` stands already.

    Models of one ``series`` differ in those tensors only that they name in ``changes``.
    """
    series = getattr(model, "series", None)
    if series is None or series is not before:
        return model.names
    changes: Iterable[str] = model.changes  # type: ignore[attr-defined]
    return changes
