"""What scores of one model share: rows sorted by class, Gram matrix, spectrum, projections.

Everything is computed when first asked for, once. ``compute`` makes one workspace a call.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.gram import Moments
from stockpot.ranking.scores.score import Evidence, join_pair


class Workspace:
    """Lazily shared computations over one ``Evidence``, which must have been checked."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.seed = evidence.seed
        self.kind = evidence.kind
        self.rows = len(evidence.targets)
        self._moments: dict[int, Moments] = {}

    # ------------------------------------------------------------------------------------ targets
    @cached_property
    def _coded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes, codes = np.unique(np.asarray(self.evidence.targets), return_inverse=True)
        return classes, codes.astype(np.int64), np.bincount(codes)

    @cached_property
    def order(self) -> np.ndarray | None:
        """Stable order of the rows by class; None if they are sorted, or have no classes."""
        if self.kind != "classification":
            return None
        codes = self._coded[1]
        return None if np.all(codes[1:] >= codes[:-1]) else np.argsort(codes, kind="stable")

    def sorted(self, array: np.ndarray) -> np.ndarray:
        """Rows of an array in the order of the features."""
        return array if self.order is None else array[self.order]

    @property
    def classes(self) -> np.ndarray:
        """Class labels as they were given, ascending, shape (C,)."""
        return self._coded[0]

    @cached_property
    def codes(self) -> np.ndarray:
        """Class 0 .. C - 1 of each row, ascending, shape (N,)."""
        return self.sorted(self._coded[1])

    @property
    def counts(self) -> np.ndarray:
        """Rows of each class, shape (C,)."""
        return self._coded[2]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each class, shape (C,)."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    @cached_property
    def columns(self) -> np.ndarray:
        """Targets as columns, float64: 0/1 of each class or label, or numbers; shape (N, T)."""
        if self.kind == "classification":
            return np.eye(len(self.classes))[self.codes]
        targets = np.asarray(self.evidence.targets, dtype=np.float64)
        return targets[:, None] if targets.ndim == 1 else targets

    # ----------------------------------------------------------------------------------- features
    @cached_property
    def features(self) -> np.ndarray:
        """Features sorted by class, float32 or float64, shape (N, D)."""
        features = self.evidence.features
        if features is None:
            raise ScoreError(
                "the value needs the features themselves, only their running sums are known",
                hint="keep the features, or use float64 sums",
            )
        if features.dtype not in (np.float32, np.float64):
            features = features.astype(np.float32)
        if self.evidence.pair is not None:
            features = join_pair(features, self.evidence.pair.astype(features.dtype))
        return self.sorted(features)

    @cached_property
    def wide(self) -> bool:
        """Whether the N x N kernel is the smaller matrix, and features are known."""
        return self.evidence.features is not None and self.rows <= self.features.shape[1]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the source logits, float64, rows sorted as the features, shape (N, Z)."""
        logits = self.evidence.logits
        assert logits is not None
        values = self.sorted(logits).astype(np.float64)
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
        return values

    # ------------------------------------------------------------------------------ second moments
    def moments(self, precision: int = 32) -> Moments:
        """Sums over all rows, with products in float32 or float64."""
        given = self.evidence.moments
        if self.evidence.features is None and given is not None:
            return given
        if given is not None and given.precision >= precision:
            return given
        if precision not in self._moments:
            if self.kind == "classification":
                made = Moments(classes=len(self.classes), precision=precision)
                targets = self.codes
            else:
                targets = self.columns
                made = Moments(columns=targets.shape[1], precision=precision)
            self._moments[precision] = made.add(self.features, targets)
        return self._moments[precision]

    @property
    def exact(self) -> bool:
        """Whether float64 moments can be had if float32 ones are not good enough."""
        return self.evidence.features is not None

    @cached_property
    def kernel(self) -> np.ndarray:
        """``X X^T`` in float64, shape (N, N), column-major."""
        features = self.features.astype(np.float64, copy=False)
        return np.asfortranarray(features @ features.T)
