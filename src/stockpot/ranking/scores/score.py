"""What a transferability score is: what goes in, what comes out, and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from stockpot.ranking.gram import Moments
    from stockpot.ranking.scores.workspace import Workspace

Kind = Literal["classification", "multilabel", "regression"]
KINDS: tuple[Kind, ...] = ("classification", "multilabel", "regression")


@dataclass(frozen=True)
class Evidence:
    """What is known of one model on one task; lists and torch's tensors become arrays.

    features: shape (N, D), any float type; None where only ``logits`` or ``moments`` are known.
    targets: classes, shape (N,), any integers; 0/1 labels, shape (N, L), of a multi-label task;
        numbers, shape (N,) or (N, T), of a regression.
    kind: of the task. A token-level task is a classification with one row a token; a sentence-pair
        task gives both sentences' features, ``features`` and ``pair``.
    logits: of the source model's own head, shape (N, Z).
    pair: features of the second sentence, shape (N, D); both are joined by ``join_pair``.
    groups: rows that must not help to predict each other (tokens of one sentence), shape (N,).
    moments: sums over all rows (``stockpot.ranking.gram``), for scores that need no more.
    seed: of the scores that draw random numbers (mixture models, subsamples).
    """

    features: np.ndarray | None
    targets: np.ndarray
    kind: Kind = "classification"
    logits: np.ndarray | None = None
    pair: np.ndarray | None = None
    groups: np.ndarray | None = None
    moments: Moments | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("features", "targets", "logits", "pair", "groups"):
            object.__setattr__(self, name, _array(getattr(self, name)))


@dataclass(frozen=True)
class Value:
    """A score of one model on one task; larger is better, for every score.

    details: parts of the value and choices made, by name.
    warning: what makes the value doubtful, in one sentence.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A transferability score.

    name, title: short name, and the paper's name.
    needs: fields of ``Evidence`` besides the targets; "features or moments" is one need.
    kinds: of tasks for which it is defined.
    formula, source: in one line each; source is paper and equation.
    when: in one sentence, when to use it.
    instead: scores to use where this one is not defined.
    function: from shared computations to the value.
    pool: with a function, a model's value depends on the other models of the pool: ``function``
        gives a value that stands alone, ``pool`` the values from all models' details.
    cheap: costs little beyond the shared Gram matrix.
    """

    name: str
    title: str
    needs: tuple[str, ...] = ("features",)
    kinds: tuple[Kind, ...] = ("classification",)
    formula: str
    source: str
    when: str
    instead: tuple[str, ...]
    function: Callable[[Workspace], Value]
    pool: Callable[[list[Value]], list[Value]] | None = None
    cheap: bool = True


def _array(value: Any) -> Any:
    """A numpy array of a list or a tensor, on whatever device and of whatever float."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(value)


def join_pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Features of a sentence pair: ``[u, v, |u - v|, u * v]``, shape (N, 4 D).

    Source: Conneau et al. 2017, InferSent, arXiv 1705.02364, section 3.1.
    """
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)
