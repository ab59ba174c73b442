"""Can one tell from a model's outputs who was in its training data?

The population attack: examples are ordered by the margin of their true class, and the area under
the ROC curve says how well that order separates training examples (members) from others. 0.5 is
chance. It is a lower bound on what an attacker can do: attacks with reference models find more.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.forgetting.schema import Auc


def auc(members: np.ndarray, others: np.ndarray) -> Auc:
    """P(score of a member > score of another), ties counting half, from scores (M,) and (N,).

    The interval is DeLong's (DeLong, DeLong and Clarke-Pearson 1988): the variance of the area from
    the placements of each example among those of the other kind; normal, cut at 0 and 1.
    Raises ``InputError`` for fewer than two scores of a kind, or one that is not a number.
    """
    members, others = (np.asarray(each, dtype=np.float64) for each in (members, others))
    if len(members) < 2 or len(others) < 2:
        raise InputError(
            f"membership needs two examples of each kind, got {len(members)} and {len(others)}"
        )
    if np.isnan(members).any() or np.isnan(others).any():
        raise InputError("a membership score is not a number")
    of_members = _placements(members, np.sort(others))
    of_others = 1 - _placements(others, np.sort(members))
    value = float(of_members.mean())
    variance = of_members.var(ddof=1) / len(members) + of_others.var(ddof=1) / len(others)
    width = NormalDist().inv_cdf(0.975) * float(np.sqrt(variance))
    return Auc(
        value=value,
        low=max(0.0, value - width),
        high=min(1.0, value + width),
        members=len(members),
        others=len(others),
    )


def margins(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Output of the true class minus the largest other one: (N, C) and (N,) -> (N,)."""
    outputs = np.array(outputs, dtype=np.float64)
    rows = np.arange(len(labels))
    own: np.ndarray = outputs[rows, labels].copy()
    if outputs.shape[1] == 1:
        return own
    outputs[rows, labels] = -np.inf
    found: np.ndarray = own - outputs.max(1)
    return found


def _placements(scores: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Share of ``ordered`` (ascending) below each score, ties counting half."""
    below = np.searchsorted(ordered, scores, side="left")
    upto = np.searchsorted(ordered, scores, side="right")
    found: np.ndarray = (below + upto) / (2 * len(ordered))
    return found
