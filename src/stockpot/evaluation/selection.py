"""Which members go into an average: greedy selection on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Pooling = Literal["pooled", "mean"]
LEVEL = 0.95
"""Confidence with which one candidate is told from another."""


@dataclass(frozen=True)
class Shortfall:
    """A validation score minus another on the same rows.

    ``margin``: half width of its 95 % interval, for these very weights on other rows.
    """

    mean: float
    margin: float


@dataclass(frozen=True)
class Step:
    """One candidate's turn: the score of the average with it, and whether it stayed."""

    candidate: str
    score: float
    accepted: bool


@dataclass(frozen=True)
class Selection:
    """Chosen members in the order of acceptance, the score of their average, and every step."""

    members: tuple[str, ...]
    score: float
    trace: tuple[Step, ...]


def validation_score(scores: Mapping[str, npt.ArrayLike], pooling: Pooling) -> float:
    """One number from per-example scores per domain.

    ``pooled``: mean over all examples, so that large domains count more (greedy soups in the
    public code of DiWA and Model Ratatouille). ``mean``: mean over domains of each domain's mean
    (run selection in DomainBed).
    """
    arrays = [np.asarray(each, dtype=np.float64) for each in scores.values()]
    if not arrays or any(each.size == 0 for each in arrays):
        raise InputError("a validation score needs at least one example in every domain")
    if pooling == "pooled":
        return float(np.concatenate(arrays).mean())
    return float(np.mean([each.mean() for each in arrays]))


def best(id_accuracy: Mapping[str, float]) -> str:
    """Name of the run with the highest ID accuracy; the first one wins a tie."""
    if not id_accuracy:
        raise InputError("no run to select from")
    return max(id_accuracy, key=lambda name: id_accuracy[name])


def greedy_soup(
    id_accuracy: Mapping[str, float], evaluate: Callable[[tuple[str, ...]], float]
) -> Selection:
    """Greedy soup: add runs from best to worst, keep each that does not make the average worse.

    ``id_accuracy``: run -> accuracy on the training domains' validation rows, which orders the
    candidates (ties keep the given order). ``evaluate``: members -> score of the average of their
    weights on the same rows (see :func:`validation_score` for the two ways to pool domains).
    The first candidate is always in. Source: Wortsman et al. (2022, arXiv:2203.05482, recipe 1).
    """
    if not id_accuracy:
        raise InputError("no run to select from")
    order = sorted(id_accuracy, key=lambda name: -id_accuracy[name])
    members: tuple[str, ...] = ()
    score = -np.inf
    trace = []
    for candidate in order:
        tried = evaluate((*members, candidate))
        accepted = tried >= score
        if accepted:
            members, score = (*members, candidate), tried
        trace.append(Step(candidate, float(tried), bool(accepted)))
    return Selection(members, float(score), tuple(trace))
