"""Second moments of features, added up batch by batch: the one matrix that most scores share.

``Moments.add(features, targets)`` takes rows as they come out of a model, so 100,000 x 2,048
features need 32 MiB, not 800. What is kept answers every score that depends on the features through
``X^T X``, ``X^T Y`` and a few sums alone.

Numbers. Features are shifted by the mean of the first batch and divided by a power of two near
their standard deviation there, both exact or harmless in float32; products are formed in float32
over chunks of ``CHUNK`` rows (half the time of float64), and chunks are added in float64. An entry
of the scaled Gram matrix is then wrong by about ``entry_error`` (standard deviation). A score whose
value would move by more than it may asks for ``precision=64`` instead; see ``workspace.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np

CHUNK = 2048
_PILOT = 512
_PART = 256
_LEAST_SCALE, _LARGEST_SCALE = -120, 120


class Moments:
    """Running sums over rows of features and their targets.

    Args:
        classes: number of classes; targets are then codes 0 .. classes - 1.
        columns: number of target columns; targets are then numbers, shape (rows, columns).
        precision: 32 or 64, the arithmetic of the products.

    Exactly one of ``classes`` and ``columns`` is given.
    """

    def __init__(
        self, *, classes: int | None = None, columns: int | None = None, precision: int = 32
    ) -> None:
        if (classes is None) == (columns is None):
            raise ValueError("give the number of classes, or the number of target columns")
        self.classes = classes
        self.columns = columns
        self.precision = precision
        self.rows = 0
        outputs = classes if classes is not None else columns
        assert outputs is not None
        self.target_sums = np.zeros(outputs)
        self.target_squares = np.zeros(outputs)

    def add(self, features: np.ndarray, targets: np.ndarray) -> Moments:
        """Add rows: features (rows, D), finite; targets (rows,) codes or (rows, columns)."""
        if not self.rows:
            self._start(features)
        room = _Room(self, min(CHUNK, len(features)))
        for start in range(0, len(features), CHUNK):
            self._chunk(features[start : start + CHUNK], targets[start : start + CHUNK], room)
        # Sums of squares are all positive, so their float32 errors add up; these are in float64.
        np.fill_diagonal(self.products, self.lengths / self.scale**2)
        return self

    def _start(self, features: np.ndarray) -> None:
        # Rows from all over the batch: one that is sorted by class starts with a class or two.
        pilot = features[:: max(1, len(features) // _PILOT)]
        first = np.asarray(pilot, dtype=np.float64)
        kind = np.float32 if self.precision == 32 else np.float64
        self.dimensions = first.shape[1]
        self.shift = first.mean(axis=0).astype(kind)
        spread = first.std(axis=0)
        exponent = np.zeros(self.dimensions)
        np.log2(spread, out=exponent, where=spread > 0)
        exponent = np.clip(np.round(exponent), _LEAST_SCALE, _LARGEST_SCALE)
        self.scale = np.exp2(exponent)
        self._inverse_scale = np.exp2(-exponent).astype(kind)
        self.products = np.zeros((self.dimensions, self.dimensions), order="F")
        self.sums = np.zeros(self.dimensions)
        self.cross = np.zeros((len(self.target_sums), self.dimensions))
        self.fourths = 0.0
        self.cubes = np.zeros(self.dimensions)
        self.lengths = np.zeros(self.dimensions)

    def _chunk(self, features: np.ndarray, targets: np.ndarray, room: _Room) -> None:
        from scipy.linalg import blas

        centred = features - self.shift
        scaled = room.scaled[: len(features)]
        np.multiply(centred, self._inverse_scale, out=scaled, casting="same_kind")
        product = blas.ssyrk if self.precision == 32 else blas.dsyrk
        # The transpose of a row-major chunk is the column-major D x rows that BLAS wants: no copy.
        self.products += product(1.0, scaled.T, c=room.products, lower=1, overwrite_c=1)
        for start in range(0, len(features), _PART):
            self._sums(centred[start : start + _PART], targets[start : start + _PART])
        self.rows += len(features)

    def _sums(self, centred: np.ndarray, targets: np.ndarray) -> None:
        """Everything but the products, in float64, on rows that fit in a processor's cache."""
        wide = centred.astype(np.float64, copy=False)
        norms = np.einsum("ij,ij->i", wide, wide)
        self.fourths += float(norms @ norms)
        self.cubes += norms @ wide
        self.lengths += np.einsum("ij,ij->j", wide, wide)
        if self.classes is None:
            values = np.asarray(targets, dtype=np.float64)
            self.sums += wide.sum(axis=0)
            self.cross += values.T @ wide
            self.target_sums += values.sum(axis=0)
            self.target_squares += np.einsum("ij,ij->j", values, values)
            return
        order = np.argsort(targets, kind="stable")
        present, starts = np.unique(targets[order], return_index=True)
        if np.any(order[1:] < order[:-1]):
            wide = wide[order]
        # One sum a class: ``np.add.reduceat`` takes ten times as long along this axis.
        stops = np.append(starts[1:], len(wide))
        for code, start, stop in zip(present, starts, stops, strict=True):
            total = wide[start:stop].sum(axis=0)
            self.cross[code] += total
            self.sums += total
        counts = np.bincount(targets, minlength=self.classes)
        self.target_sums += counts
        self.target_squares += counts

    # ------------------------------------------------------------------------------- what is known
    def of_present_classes(self) -> Moments:
        """These moments less the classes that no row has; they share their arrays."""
        there = self.target_sums > 0
        if self.classes is None or there.all():
            return self
        made = copy(self)
        made.classes = int(there.sum())
        for name in ("cross", "target_sums", "target_squares"):
            setattr(made, name, getattr(self, name)[there])
        return made

    @property
    def entry_error(self) -> float:
        """Standard deviation of the rounding error of an entry of the scaled Gram matrix; about
        twice what is measured.
        """
        unit = 2.0**-24 if self.precision == 32 else 2.0**-53
        # Should later batches vary more than the first, the scale says too little of them.
        spread = max(1.0, float(np.diagonal(self.products).max()) / self.rows)
        return unit * spread * float(np.sqrt(self.rows * min(self.rows, CHUNK) / 2.0))

    @property
    def mean(self) -> np.ndarray:
        """Mean of the features, shape (D,)."""
        return np.asarray(self.shift + self.sums / self.rows, dtype=np.float64)

    def scaled_scatter(self) -> np.ndarray:
        """``sum_i z_i z_i^T`` of ``z = (x - mean) / scale``; lower triangle of (D, D), by columns.

        The strict upper triangle of the array is zero.
        """
        from scipy.linalg import blas

        offset = self.sums / self.scale
        return np.asarray(blas.dsyr(-1.0 / self.rows, offset, a=self.products, lower=1))

    def within_scatter(self) -> np.ndarray:
        """As ``scaled_scatter``, of rows less the mean of their class, which all have rows."""
        from scipy.linalg import blas

        means = np.asfortranarray((self.cross / self.scale / np.sqrt(self.target_sums)[:, None]).T)
        return np.asarray(blas.dsyrk(-1.0, means, beta=1.0, c=self.products, lower=1))

    def gram(self) -> np.ndarray:
        """``X^T X`` of the features as they came; lower triangle of (D, D), by columns."""
        from scipy.linalg import blas

        scatter = self.products * self.scale
        scatter *= self.scale[:, None]
        shift = self.shift.astype(np.float64)
        return np.asarray(
            blas.dsyr2(
                1.0, shift, self.sums + 0.5 * self.rows * shift, a=scatter, lower=1, overwrite_a=1
            )
        )

    def feature_targets(self) -> np.ndarray:
        """``Y^T X``, shape (outputs, D): for classes the sums of their features."""
        return np.asarray(
            self.cross + np.outer(self.target_sums, self.shift.astype(np.float64)),
            dtype=np.float64,
        )

    def centred_class_means(self) -> np.ndarray:
        """``(mu_c - mu) / scale``, shape (classes, D); every class must have rows."""
        means = self.cross / self.target_sums[:, None] - self.sums / self.rows
        return np.asarray(means / self.scale, dtype=np.float64)

    def fourth_moment(self) -> float:
        """``sum_i |x_i - mean|^4`` in the features' own units."""
        from scipy.linalg import blas

        offset = self.sums / self.rows
        length = float(offset @ offset)
        scaled = offset * self.scale
        quadratic = float(scaled @ blas.dsymv(1.0, self.products, scaled, lower=1))
        return float(
            self.fourths
            + 4.0 * quadratic
            + self.rows * length**2
            - 4.0 * offset @ self.cubes
            + 2.0 * length * self.lengths.sum()
            - 4.0 * length * (offset @ self.sums)
        )

    # -------------------------------------------------------------------------------- to and fro
    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for ``numpy.savez``; ``Moments.from_state`` reads it back."""
        names = ("shift", "scale", "products", "sums", "cross", "cubes", "lengths")
        kept: dict[str, np.ndarray] = {name: getattr(self, name) for name in names}
        kept["targets"] = np.stack([self.target_sums, self.target_squares])
        kept["fourths"] = np.array(self.fourths)
        kept["shape"] = np.array([self.rows, self.precision, int(self.classes is not None)])
        return kept

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Moments:
        """The moments that ``state()`` described; more rows may be added."""
        rows, precision, classes = (int(each) for each in state["shape"])
        outputs = state["targets"].shape[1]
        kind = {"classes": outputs} if classes else {"columns": outputs}
        made = cls(precision=precision, **kind)
        for name in ("shift", "scale", "sums", "cross", "cubes", "lengths"):
            setattr(made, name, np.array(state[name]))
        made.products = np.asfortranarray(state["products"])
        made.target_sums, made.target_squares = (np.array(each) for each in state["targets"])
        made.fourths = float(state["fourths"])
        made.rows, made.dimensions = rows, len(made.sums)
        made._inverse_scale = (1.0 / made.scale).astype(made.shift.dtype)
        return made


class _Room:
    """Arrays that every chunk of a batch uses again."""

    def __init__(self, moments: Moments, rows: int) -> None:
        size, kind = moments.dimensions, moments.shift.dtype
        self.scaled = np.empty((rows, size), dtype=kind)
        self.products = np.zeros((size, size), dtype=kind, order="F")
