"""What scores of one model share: rows sorted by class, Gram matrix, spectrum, projections.

Everything is computed when first asked for, once. ``compute`` makes one workspace a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.gram import CHUNK, Moments
from stockpot.ranking.scores.discriminant import Confidences, Discriminant, discriminant, softmax
from stockpot.ranking.scores.score import Evidence, join_pair
from stockpot.ranking.scores.spectrum import Spectrum

_SMALL = 2e9
# Eigenvalues of float32 moments below this share of the largest may be rounding errors.
_LEAST_SHARE = 1e-5


class Workspace:
    """Lazily shared computations over one ``Evidence``, which must have been checked."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.seed = evidence.seed
        self.kind = evidence.kind
        self.rows = len(evidence.targets)
        self._moments: dict[int, Moments] = {}
        self._spectra: dict[int, Spectrum] = {}
        self._discriminants: dict[int, tuple[Discriminant, Confidences]] = {}
        self._principal: dict[int, np.ndarray] = {}
        self._singular: tuple[np.ndarray, np.ndarray] | None = None

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
            return np.asarray(np.eye(len(self.classes))[self.codes])
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
        softmax(values)
        return values

    # ------------------------------------------------------------------------------ second moments
    @cached_property
    def given(self) -> Moments | None:
        """The moments that came with the evidence, of the classes that rows have."""
        given = self.evidence.moments
        return None if given is None else given.of_present_classes()

    def moments(self, precision: int) -> Moments:
        """Sums over all rows, with products in float32 or float64."""
        given = self.given
        if given is not None and (self.evidence.features is None or given.precision >= precision):
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
    def precisions(self) -> tuple[int, ...]:
        """Precisions of moments worth trying, in this order: each is what may be had.

        Products in float32 save half the time of large matrices and none of small ones.
        """
        given = self.given
        if self.evidence.features is None and given is not None:
            return (given.precision,)
        small = self.rows * self.features.shape[1] ** 2 < _SMALL
        return (64,) if small or 64 in self._moments else (32, 64)

    def covariance(self, precision: int) -> np.ndarray:
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
        return self.moments(self.precisions[0]).mean

    def centred(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of the features minus their mean, float64."""
        return np.asarray(self.features[start:stop] - self.mean, dtype=np.float64)

    def blocks(self, size: int = 1024) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows in blocks: where they lie, and their centred features."""
        for start in range(0, self.rows, size):
            yield slice(start, start + size), self.centred(start, start + size)

    def discriminant(self, precision: int) -> tuple[Discriminant, Confidences]:
        """Discriminant of the classes, and what it says of all rows."""
        if precision not in self._discriminants:
            moments = self.moments(precision)
            fitted = discriminant(moments)
            kind = moments.shift.dtype
            mean = moments.mean.astype(kind)
            parts = []
            for start in range(0, self.rows, CHUNK):
                rows = (self.features[start : start + CHUNK] - mean).astype(kind, copy=False)
                codes = self.codes[start : start + CHUNK]
                parts.append(fitted.told(rows, codes, moments.mean - mean))
            told = Confidences(
                *(
                    np.concatenate([getattr(part, name) for part in parts])
                    for name in ("right", "top", "share")
                )
            )
            self._discriminants[precision] = fitted, told
        return self._discriminants[precision]

    # ------------------------------------------------------------------------------------ spectra
    @property
    def kernel(self) -> np.ndarray:
        """``X X^T`` in float64, shape (N, N), column-major."""
        features = self.features.astype(np.float64, copy=False)
        return np.asfortranarray(features @ features.T)

    @property
    def centred_kernel(self) -> np.ndarray:
        """``X X^T`` of the centred features in float64, shape (N, N), column-major."""
        features = self.centred()
        return np.asfortranarray(features @ features.T)

    def spectrum(self, precision: int) -> Spectrum:
        """Of the centred features' scatter, (D, D); or of their kernel, (N, N), where ``wide``."""
        if self.wide:
            precision = 64
        if precision not in self._spectra:
            if self.wide:
                matrix = self.centred_kernel
            else:
                matrix = self.covariance(precision)
                matrix *= self.rows
            self._spectra[precision] = Spectrum(matrix)
        return self._spectra[precision]

    def has_spectrum(self, precision: int) -> bool:
        """Whether ``spectrum`` costs nothing, because it was asked for before."""
        return precision in self._spectra

    def singular(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Largest squared singular values of the centred features, and the vectors.

        The vectors are right ones, shape (D, k), or left ones, shape (N, k), where ``wide``.
        """
        if self._singular is None or len(self._singular[0]) < count:
            for precision in self.precisions:
                found = self.spectrum(precision).leading(count)
                if len(found[0]) == count and found[0][-1] > _LEAST_SHARE * found[0][0]:
                    break
            self._singular = found
        values, vectors = self._singular
        return values[:count], vectors[:, :count]

    def principal(self, components: int) -> np.ndarray:
        """Scores of the first principal components, float64, shape (N, k).

        k is ``components`` or the rank, whichever is less. Exact, where the usual code takes a
        randomised decomposition. The largest loading of a component is positive.
        """
        if components in self._principal:
            return self._principal[components]
        vectors = self._loadings(components)
        if not vectors.shape[1]:
            raise ScoreError("not defined here: the features are constant")
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
        scores = np.empty((self.rows, vectors.shape[1]))
        for place, block in self.blocks():
            scores[place] = block @ vectors
        self._principal[components] = scores
        return scores

    def _loadings(self, components: int) -> np.ndarray:
        """The first principal directions, orthonormal, shape (D, k)."""
        values, vectors = self.singular(components)
        return self.centred().T @ (vectors / np.sqrt(values)) if self.wide else vectors

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
