"""What scores of one model share: rows sorted by class, Gram matrix, spectrum, projections.

Everything is computed when first asked for, once. ``compute`` makes one workspace a call.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        return np.asarray(self.sorted(features))

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

    def covariance(self, precision: int = 32) -> np.ndarray:
        """Covariance of the features (divided by N); lower triangle of (D, D), by columns."""
        moments = self.moments(precision)
        covariance = moments.scaled_scatter()
        covariance *= moments.scale / moments.rows
        covariance *= moments.scale[:, None]
        return covariance

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of the features, float64, shape (D,)."""
        if self.wide:
            return np.asarray(self.features.mean(axis=0, dtype=np.float64))
        return self.moments().mean

    def centred(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of the features minus their mean, float64."""
        return np.asarray(self.features[start:stop] - self.mean, dtype=np.float64)

    def blocks(self, size: int = 1024) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows in blocks: where they lie, and their centred features."""
        for start in range(0, self.rows, size):
            yield slice(start, start + size), self.centred(start, start + size)

    # ------------------------------------------------------------------------------------ spectra
    @cached_property
    def kernel(self) -> np.ndarray:
        """``X X^T`` in float64, shape (N, N), column-major."""
        features = self.features.astype(np.float64, copy=False)
        return np.asfortranarray(features @ features.T)

    @cached_property
    def centred_kernel(self) -> np.ndarray:
        """``X X^T`` of the centred features in float64, shape (N, N)."""
        features = self.centred()
        return np.asarray(features @ features.T)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared singular values of the centred features, ascending, and the vectors.

        The vectors are those of the smaller matrix: right, shape (D, D), or left, shape (N, N),
        where ``wide``.
        """
        from scipy.linalg import eigh

        if self.wide:
            values, vectors = eigh(self.centred_kernel, check_finite=False)
        else:
            values, vectors = eigh(
                self.covariance(64), lower=True, check_finite=False, overwrite_a=True
            )
            values = values * self.rows
        return np.maximum(values, 0.0), vectors

    def principal(self, components: int) -> np.ndarray:
        """Scores of the first principal components, float64, shape (N, k).

        k is ``components`` or the rank, whichever is less. Exact, where the usual code takes a
        randomised decomposition; the sign of a component is arbitrary.
        """
        from scipy.sparse.linalg import LinearOperator, eigsh

        if "spectrum" in self.__dict__ or self.wide or 3 * components > self.features.shape[1]:
            values, vectors = self.spectrum
            keep = values > len(values) * np.finfo(np.float64).eps * values[-1]
            keep[:-components] = False
            vectors = vectors[:, keep]
            if self.wide:
                return np.asarray(vectors[:, ::-1] * np.sqrt(values[keep])[::-1])
        else:
            from scipy.linalg import blas

            covariance = self.covariance()
            size = len(covariance)
            operator = LinearOperator(
                (size, size), matvec=lambda x: blas.dsymv(1.0, covariance, x, lower=1), dtype="d"
            )
            start = np.random.default_rng(0).standard_normal(size)
            values, vectors = eigsh(operator, k=components, v0=start, tol=1e-9)
            vectors = vectors[:, values > size * np.finfo(np.float64).eps * values[-1]]
        scores = np.empty((self.rows, vectors.shape[1]))
        for place, block in self.blocks():
            scores[place] = block @ vectors[:, ::-1]
        return scores

    # -------------------------------------------------------------------------------------- rows
    def subsample(self, most: int) -> np.ndarray:
        """Up to ``most`` rows, ascending: all, or a share of each class drawn from the seed."""
        if self.rows <= most:
            return np.arange(self.rows)
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(self.rows)
        if self.kind == "classification":
            # Rows at even steps of the class-wise shuffled order: each class keeps its share.
            order = order[np.argsort(self.codes[order], kind="stable")]
        steps = np.linspace(0, self.rows, most, endpoint=False).astype(np.int64)
        return np.sort(order[steps])

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Group of each row, in the order of the features."""
        groups = self.evidence.groups
        return None if groups is None else self.sorted(np.asarray(groups))
