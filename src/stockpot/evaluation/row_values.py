"""A value for each row whose mean is the metric: the formulas.

Every function takes checked arrays, ``(N, C)`` logits and ``(N,)`` labels for classes, ``(N,)``
values and labels for numbers, and returns float64 ``(N,)``. Where a metric is no mean over rows, a
row's value is the metric plus the row's influence on it (first order in 1 / N; the influences sum
to zero). Redrawing such values redraws the metric, as far as it is linear in the rows: what the
paired bootstrap and the comparison of two models need. The values belong to these N rows together;
the mean over some of them is not the metric of some.
Source: Hampel (1974, "The influence curve and its role in robust estimation"); Efron and
Tibshirani (1993) ch. 22 on intervals from influences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Values = npt.NDArray[np.float64]
Labels = npt.NDArray[Any]

BINS = 15
"""Of the calibration error, as in Guo et al. (2017)."""


def accuracy(logits: Values, labels: Labels) -> Values:
    """1 where the largest output is the label, else 0; the first class wins a tie."""
    right: Values = (logits.argmax(axis=1) == labels).astype(np.float64)
    return right


def balanced_accuracy(logits: Values, labels: Labels) -> Values:
    """Mean recall ``r_c`` over the C classes that have rows here.

    Row: ``mean(r) + (right - r_y) N / (C n_y)`` with ``n_y`` rows of the row's class y.
    Source: Brodersen et al. (2010); classes without rows are left out, as scikit-learn does.
    """
    right = accuracy(logits, labels)
    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recall = np.bincount(own, weights=right) / counts
    values: Values = recall.mean() + (right - recall[own]) * (
        len(labels) / (len(classes) * counts[own])
    )
    return values


def macro_f1(logits: Values, labels: Labels) -> Values:
    """Mean of ``F_c = 2 TP / (predicted + true)`` over the C classes predicted or true here.

    Row: ``mean(F) + (2 right / w_y - F_p / w_p - F_y / w_y) N / C``, where y is the row's class, p
    the predicted one, and ``w_c`` the number of rows predicted plus the number true.
    Source: van Rijsbergen (1979); the mean of the F1 of classes as in Opitz and Burst (2019,
    arXiv:1911.03347, eq. 1), and scikit-learn's set of classes.
    """
    chosen, right = logits.argmax(axis=1), accuracy(logits, labels)
    size = int(max(chosen.max(), labels.max())) + 1
    whole = np.bincount(chosen, minlength=size) + np.bincount(labels, minlength=size)
    used = whole > 0
    whole = np.maximum(whole, 1)
    score = 2 * np.bincount(labels, weights=right, minlength=size) / whole
    share = score / whole
    influence = 2 * right / whole[labels] - share[chosen] - share[labels]
    values: Values = score[used].mean() + influence * (len(labels) / int(used.sum()))
    return values


def auroc(logits: Values, labels: Labels) -> Values:
    """Area under the ROC curve, each class against the rest, mean over the classes.

    Ranked by the odds of a class, which orders rows as its probability does, without rounding to
    0 or 1; ties count half. A class with ``n`` of the N rows: a row of it has the value
    ``A + (V - A) N / n`` with its placement V, the share of other rows that rank lower; every other
    row ``A + (V - A) N / (N - n)`` with the share of the class's rows that rank higher.
    A class without rows is left out; two classes give the usual binary AUROC.
    Sources: DeLong et al. (1988, eq. 4 to 8); one against the rest: Provost and Domingos (2000).

    Raises ``InputError`` where all rows have one class.
    """
    check_classes(labels)
    classes, counts = np.unique(labels, return_counts=True)
    total, odds = np.zeros(len(labels)), _log_odds(logits)
    for name, count in zip(classes, counts, strict=True):
        own = labels == name
        inside, outside = odds[own, name], odds[~own, name]
        placement = np.empty(len(labels))
        placement[own] = _share_below(inside, outside)
        placement[~own] = 1.0 - _share_below(outside, inside)
        area = placement[own].mean()
        weight = np.where(own, len(labels) / count, len(labels) / (len(labels) - count))
        total += area + (placement - area) * weight
    return total / len(classes)


def log_loss(logits: Values, labels: Labels) -> Values:
    """Minus the logarithm of the label's probability (cross-entropy), in nats.

    Taken from the logits, so that no probability has to be clipped.
    """
    own = logits[np.arange(len(labels)), labels]
    values: Values = _log_sum_exp(logits) - own
    return values


def calibration_error(logits: Values, labels: Labels) -> Values:
    """Expected calibration error: by how much confidence and accuracy differ, mean over rows.

    Confidence is the probability of the predicted class, in ``BINS`` bins of equal width.
    ``sum_b n_b / N |accuracy_b - confidence_b|``; row: ``s_b (right - confidence)`` with the sign
    ``s_b`` of its bin's difference. Few rows make it too high.
    Source: Guo et al. (2017, arXiv:1706.04599, eq. 3); Naeini et al. (2015).
    """
    confidence = np.exp(logits.max(axis=1) - _log_sum_exp(logits))
    # Guo's bins are open below and closed above: ((m - 1) / M, m / M].
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64), 1, BINS)
    gap = accuracy(logits, labels) - confidence
    values: Values = np.sign(np.bincount(bins, weights=gap, minlength=BINS + 1))[bins] * gap
    return values


def r2(values: Values, labels: Values) -> Values:
    """``1 - E / V``: mean squared error E over the variance V of the labels.

    Row: ``1 - E / V - error^2 / V + (E / V) (label - mean)^2 / V``: labels are redrawn with their
    rows, so their variance is not taken as known.
    Raises ``InputError`` where all labels are the same.
    """
    check_variance(labels)
    variance = labels.var()
    errors = (values - labels) ** 2 / variance
    share = errors.mean()
    scores: Values = 1.0 - share - errors + share * (labels - labels.mean()) ** 2 / variance
    return scores


def rmse(values: Values, labels: Values) -> Values:
    """Root of the mean squared error E; row: ``sqrt(E) + (error^2 - E) / (2 sqrt(E))``."""
    squares = (values - labels) ** 2
    mean = squares.mean()
    root = np.sqrt(mean)
    rows: Values = root + (squares - mean) / (2 * root) if root > 0 else np.zeros(len(labels))
    return rows


def mae(values: Values, labels: Values) -> Values:
    """Absolute error."""
    rows: Values = np.abs(values - labels)
    return rows


def check_classes(labels: Labels) -> None:
    """Raise ``InputError`` where AUROC is undefined."""
    if (labels == labels[0]).all():
        raise InputError(
            f"AUROC is undefined: all {len(labels)} rows have class {labels[0]}",
            hint="evaluate on rows of two classes or more, or choose another metric",
        )


def check_variance(labels: Labels) -> None:
    """Raise ``InputError`` where R2 is undefined."""
    if labels.var() == 0:
        raise InputError(
            f"R2 is undefined: all {len(labels)} labels are {labels[0]:g}",
            hint="evaluate on examples whose labels vary",
        )


def _log_sum_exp(logits: Values) -> Values:
    highest = logits.max(axis=1)
    total: Values = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return total


def _log_odds(logits: Values) -> Values:
    """``log(p / (1 - p))`` of every class, accurate for p near 0 and near 1."""
    rows, first = np.arange(len(logits)), logits.argmax(axis=1)
    shifted = logits - logits[rows, first][:, None]
    powers = np.exp(shifted)
    rest = powers.sum(axis=1, keepdims=True) - powers
    rest[rows, first] = 1.0  # what would cancel; replaced below
    odds: Values = shifted - np.log(rest)
    shifted[rows, first] = -np.inf
    odds[rows, first] = -_log_sum_exp(shifted)
    return odds


def _share_below(values: Values, others: Values) -> Values:
    """Share of ``others`` below each value, ties counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    shares: Values = below / (2 * len(others))
    return shares
