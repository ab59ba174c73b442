"""From numbers to a verdict. Pure functions; the thresholds and where they come from.

The statistic is the median over matrices and convolutions of the cosine adjusted for chance. On
real weights (the table in docs/inspection.md) it is 0.98 to 1 for models with a common ancestor and
within 0.01 of zero for strangers; two published fine-tunings that went far from a common ancestor
have a plain cosine of 0.4. The thresholds lie in the empty ranges between these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stockpot.inspection.result import VERDICTS, Pair, Verdict

# Median adjusted cosine from which on models descend from one ancestor.
SAME = 0.5
# From here on something is shared, but the loss between the two has to be measured before a merge.
RELATED = 0.1
# A layer points to a common ancestor from here on.
SHARED_LAYER = 0.3
# With at least this share of layers in common, a low median means new upper layers, not strangers.
SHARED_PART = 0.1
# Tensors in common, as a share of the smaller model's, below which there is nothing to compare.
COVERAGE = 0.5
# How many standard errors the median of strangers may stray from zero.
_SIGMAS = 6.0


def noise(elements: Sequence[int]) -> float:
    """How large the median adjusted cosine of strangers can be by chance, given the layers' sizes.

    Cosines of independent n-vectors have a standard deviation of 1/sqrt(n); the median of L of them
    1.25/sqrt(L) of that.
    """
    if not elements:
        return float("inf")
    spread = median(1.0 / np.sqrt(np.asarray(elements, dtype=np.float64)))
    return _SIGMAS * 1.25 * spread / float(np.sqrt(len(elements)))


def median(values: NDArray[np.float64]) -> float:
    """Median of one or more finite numbers. numpy's imports all its masked arrays, for 10 ms."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2.0


def judge_pair(adjusted: NDArray[np.float64], elements: Sequence[int]) -> Verdict:
    """The verdict on two models from the adjusted cosines of their counted layers.

    Where there are too few weights to tell, the answer is "probably related".
    """
    floor = noise(elements)
    if not adjusted.size or floor >= 1.0:
        return "probably related"
    middle = median(adjusted)
    if middle >= max(SAME, floor):
        return "same ancestor"
    shared = float(np.mean(adjusted >= max(SHARED_LAYER, floor)))
    if middle >= max(RELATED, floor) or shared >= SHARED_PART:
        return "probably related"
    return "unrelated"


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def fixed(value: float, digits: int = 3) -> str:
    """A number with fixed digits and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a group: that of its worst pair."""
    return max(verdicts, key=VERDICTS.index) if verdicts else "identical"


def explain(verdict: Verdict, pairs: Sequence[Pair], parts: dict[str, str]) -> str:
    """The reason for the verdict on a group, in one sentence.

    ``parts`` holds the reason per model whose tensors are too different, by name.
    """
    if verdict == "different architecture":
        return "; ".join(parts.values())
    of_kind = [pair for pair in pairs if pair.verdict == verdict]
    if not of_kind:
        return "one model, nothing to compare it with"
    if verdict == "identical":
        roundings = sorted({pair.rounding for pair in pairs if pair.rounding})
        if roundings:
            return f"equal up to rounding to {' and '.join(roundings)}"
        return "every tensor is equal"
    weakest = min(of_kind, key=lambda pair: -2.0 if pair.adjusted is None else pair.adjusted)
    names = f"{weakest.first} and {weakest.second}"
    if weakest.adjusted is None:
        return f"{names} have too few weights in matrices to tell where they come from"
    numbers = (
        f"median adjusted cosine {fixed(weakest.adjusted, 4)} over {weakest.layers} layers "
        "(0 strangers, 1 equal)"
    )
    if verdict == "same ancestor":
        pair = f" (the farthest pair, {names})" if len(pairs) > 1 else ""
        return f"the weights agree far beyond chance: {numbers}{pair}"
    if weakest.permuted:
        return (
            f"{names} are the same weights in another order, channels are permuted in "
            f"{some(weakest.permuted)}: {numbers}; their average would be noise"
        )
    if verdict == "unrelated":
        return (
            f"{_outsider(of_kind, pairs) or names} share no ancestor: {numbers}; "
            "their average would be noise"
        )
    if weakest.adjusted < SAME and weakest.shared < weakest.layers / 2:
        return (
            f"{names} share only {weakest.shared} of {weakest.layers} layers: {numbers}; "
            "measure the loss between them before averaging"
        )
    return f"{names} lie far apart: {numbers}; measure the loss between them before averaging"


def _outsider(unrelated: Sequence[Pair], pairs: Sequence[Pair]) -> str | None:
    """The one model that is a stranger to all others, where the others know each other."""
    if len(pairs) < 3:
        return None
    common = set.intersection(*({pair.first, pair.second} for pair in unrelated))
    if len(common) != 1:
        return None
    (name,) = common
    members = {pair.first for pair in pairs} | {pair.second for pair in pairs}
    if len(unrelated) < len(members) - 1:
        return None
    return f"{name} and the others"
