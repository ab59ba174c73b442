"""Whether evidence is sound, and whether a score is defined for it; every refusal is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.score import KINDS, Evidence, Score

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 1e30
_WORDS = {
    "features": "features of the target data",
    "features or moments": "features of the target data, or their running sums",
    "logits": "logits of the source model's own head",
}


def check_evidence(evidence: Evidence) -> None:
    """Raise ``ScoreError`` that names array and row, if no score can use the evidence."""
    if evidence.kind not in KINDS:
        raise ScoreError(
            f"kind of task: got '{evidence.kind}', expected one of {', '.join(KINDS)}",
            hint="token-level and sentence-pair tasks are classifications or regressions of rows",
        )
    rows = len(np.asarray(evidence.targets))
    if rows < 2:
        raise ScoreError(f"a score needs two rows or more, got {rows}")
    _check_targets(evidence)
    for name in ("features", "pair", "logits"):
        array = getattr(evidence, name)
        if array is not None:
            _check_array(array, name, rows)
    if evidence.pair is not None and (
        evidence.features is None or evidence.pair.shape != evidence.features.shape
    ):
        raise ScoreError("pair: both sentences need features of one shape")
    if evidence.groups is not None and np.shape(evidence.groups) != (rows,):
        raise ScoreError(f"groups: got shape {np.shape(evidence.groups)}, expected ({rows},)")
    if evidence.moments is not None and evidence.moments.rows != rows:
        raise ScoreError(
            f"moments: made from {evidence.moments.rows} rows, but there are {rows} targets"
        )
    if evidence.moments is not None:
        _check_moments(evidence)


def _check_array(array: np.ndarray, name: str, rows: int) -> None:
    if array.ndim != 2 or 0 in array.shape:
        raise ScoreError(f"{name}: got shape {array.shape}, expected 2 dimensions, none empty")
    if len(array) != rows:
        raise ScoreError(f"{name}: got {len(array)} rows, expected {rows}, one a target")
    if not np.issubdtype(array.dtype, np.floating):
        raise ScoreError(
            f"{name}: got numbers of type {array.dtype}, expected floats", hint="convert them first"
        )
    flat = array.reshape(len(array), -1)
    # NaN spreads to the largest and the least, infinity is one of them.
    largest = max(float(flat.max()), -float(flat.min()))
    if not np.isfinite(largest):
        bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
        raise ScoreError(
            f"{name}: NaN or infinity in {len(bad)} of {len(flat)} rows, first in row {bad[0]}",
            hint="half precision overflows beyond 65504: extract the features in float32",
        )
    if largest > _LARGEST:
        raise ScoreError(
            f"{name}: numbers up to {largest:.1g}, whose squares lose all precision",
            hint="scale them down, or look for a fault in the model",
        )


def _check_moments(evidence: Evidence) -> None:
    assert evidence.moments is not None
    targets = np.asarray(evidence.targets)
    if evidence.kind == "classification":
        expected, word = len(np.unique(targets)), "classes"
        got = evidence.moments.of_present_classes().classes
    else:
        expected, got, word = targets[0].size, evidence.moments.columns, "columns of targets"
    if got != expected:
        raise ScoreError(f"moments: made for {got} {word}, the targets have {expected}")


def _check_targets(evidence: Evidence) -> None:
    targets = np.asarray(evidence.targets)
    if evidence.kind == "classification":
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            raise ScoreError(
                f"targets of a classification: got {targets.dtype} of shape {targets.shape}, "
                "expected one integer a row",
                hint="0/1 labels of shape (N, L) are a 'multilabel' task, numbers a 'regression'",
            )
        if targets.min() == targets.max():
            raise ScoreError(f"targets: all {len(targets)} rows are of class {targets[0]}")
    elif evidence.kind == "multilabel":
        if targets.ndim != 2 or not np.isin(targets, (0, 1)).all():
            raise ScoreError(
                f"targets of a multi-label task: got {targets.dtype} of shape {targets.shape}, "
                "expected 0/1 of shape (N, L)"
            )
    elif targets.ndim not in (1, 2) or not np.isfinite(targets.astype(np.float64)).all():
        raise ScoreError(
            f"targets of a regression: got shape {targets.shape}, expected finite numbers of "
            "shape (N,) or (N, T)"
        )


def refusal(score: Score, evidence: Evidence, scores: Mapping[str, Score]) -> ScoreError | None:
    """Why the score is not defined for the evidence, and what to use instead; None if it is."""
    instead = [
        name
        for name in (*score.instead, "logme", "nleep", "leep")
        if name != score.name and name in scores and not _lacks(scores[name], evidence)
    ]
    hint = f"use {' or '.join(dict.fromkeys(instead))} instead" if instead else None
    lack = _lacks(score, evidence)
    return ScoreError(f"{score.name} is not defined here: {lack}", hint=hint) if lack else None


def _lacks(score: Score, evidence: Evidence) -> str | None:
    if evidence.kind not in score.kinds:
        return f"the task is a {evidence.kind}, the score is for {' and '.join(score.kinds)}"
    for need in score.needs:
        if need == "features or moments":
            there = evidence.features is not None or evidence.moments is not None
        else:
            there = getattr(evidence, need) is not None
        if not there:
            return f"it needs {_WORDS[need]}"
    return None
