"""Additive sufficient statistics of a ridge regression on class indicators, in float64.

Over examples with features phi (D,) and one-hot targets y (C,):

    gram = sum phi phi^T,   cross = sum phi y^T,   counts = sum y    (sum y y^T = diag(counts))

Sums over shards are sums over all their examples, whatever the shards and their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stockpot.errors import InputError

BLOCK = 256  # rows added at a time; fixed, so that bytes do not depend on how the rows arrive
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Sums:
    """Statistics of some examples of the classes ``classes``.

    ``cross``: float64 (D, C); ``counts``: float64 (C,), whole numbers unless shards were weighted;
    ``gram``: float64 (D (D + 1) / 2,), the lower triangle by rows, or None where only class means
    are wanted.
    """

    classes: tuple[str, ...]
    cross: Tensor
    counts: Tensor
    gram: Tensor | None = None

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.cross)

    @property
    def examples(self) -> float:
        """How many examples were summed, each times its shard's weight."""
        return float(self.counts.sum())

    def tensors(self) -> dict[str, Tensor]:
        """One tensor for each class and sum, so that shards of different classes can be added."""
        found = {} if self.gram is None else {"gram": self.gram}
        for column, name in enumerate(self.classes):
            found[f"cross.{name}"] = self.cross[:, column].contiguous()
            found[f"count.{name}"] = self.counts[column].clone()
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], classes: Sequence[str]) -> Sums:
        """The reverse of :meth:`tensors`; a class that is not there has zeros.

        Raises ``InputError`` where no class is there at all.
        """
        known = [name for name in classes if f"cross.{name}" in tensors]
        if not known:
            raise InputError("these statistics hold none of the classes asked for")
        empty = torch.zeros_like(tensors[f"cross.{known[0]}"], dtype=torch.float64)
        columns = [tensors.get(f"cross.{name}", empty).double() for name in classes]
        zero = torch.zeros((), dtype=torch.float64)
        counts = [tensors.get(f"count.{name}", zero).double() for name in classes]
        gram = tensors["gram"].double() if "gram" in tensors else None
        return cls(tuple(classes), torch.stack(columns, 1), torch.stack(counts), gram)

    def folded(self, dimension: int) -> Sums:
        """The statistics of sketches of ``dimension`` numbers, which must divide D.

        Exact where both are powers of two: see ``TangentSketch``.
        """
        if self.dimension % dimension:
            raise InputError(f"{dimension} does not divide the sketch's {self.dimension} numbers")
        times = self.dimension // dimension
        gram = None
        if self.gram is not None:
            square = unpack(self.gram).view(times, dimension, times, dimension)
            gram = pack(square.sum((0, 2)))
        cross = self.cross.view(times, dimension, -1).sum(0)
        return Sums(self.classes, cross, self.counts, gram)


def collect(
    batches: Iterable[tuple[Tensor, np.ndarray]],
    classes: Sequence[str],
    dimension: int,
    *,
    gram: bool = True,
) -> Sums:
    """Sum features (N, D) and labels (positions in ``classes``) that come batch by batch.

    Memory: one D x D matrix and ``BLOCK`` rows, on the device of the features.
    Raises ``InputError`` for a label outside the classes, features of another length, or features
    that are not finite.
    """
    total = _Total(len(classes), dimension, gram)
    for features, labels in batches:
        total.add(features, np.asarray(labels))
    return total.finish(tuple(classes))


class _Total:
    def __init__(self, classes: int, dimension: int, gram: bool) -> None:
        self.classes, self.dimension, self.wants_gram = classes, dimension, gram
        self.gram: Tensor | None = None
        self.cross = torch.zeros(dimension, classes, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.size = 0

    def add(self, features: Tensor, labels: np.ndarray) -> None:
        if features.shape != (len(labels), self.dimension):
            raise InputError(
                f"features have shape {tuple(features.shape)}, "
                f"expected {(len(labels), self.dimension)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.classes):
            raise InputError(
                f"labels from {labels.min()} to {labels.max()}, expected 0 to {self.classes - 1}"
            )
        if not bool(features.isfinite().all()):
            raise InputError("a feature is not finite", hint="look at the inputs and the base")
        self.waiting.append((features.double(), torch.from_numpy(labels.astype(np.int64))))
        self.size += len(labels)
        while self.size >= BLOCK:
            self._sum(BLOCK)

    def _sum(self, rows: int) -> None:
        features = torch.cat([each for each, _ in self.waiting])
        labels = torch.cat([each for _, each in self.waiting])
        self.waiting = [(features[rows:], labels[rows:])]
        features, labels = features[:rows], labels[:rows]
        self.size -= len(labels)
        if self.wants_gram:
            if self.gram is None:
                shape = (self.dimension, self.dimension)
                self.gram = torch.zeros(shape, dtype=torch.float64, device=features.device)
            self.gram.addmm_(features.T, features)
        targets = torch.nn.functional.one_hot(labels, self.classes).double()
        self.cross += (features.T @ targets.to(features.device)).cpu()
        self.counts += targets.sum(0)

    def finish(self, classes: tuple[str, ...]) -> Sums:
        if self.size:
            self._sum(self.size)
        if self.wants_gram and self.gram is None:
            self.gram = torch.zeros(self.dimension, self.dimension, dtype=torch.float64)
        return Sums(
            classes, self.cross, self.counts, None if self.gram is None else pack(self.gram)
        )


def pack(matrix: Tensor) -> Tensor:
    """The lower triangle of a symmetric (D, D) matrix by rows, (D (D + 1) / 2,), on the CPU."""
    matrix = matrix.cpu()
    size = len(matrix)
    packed = torch.empty(size * (size + 1) // 2, dtype=matrix.dtype)
    for row in range(size):
        start = row * (row + 1) // 2
        packed[start : start + row + 1] = matrix[row, : row + 1]
    return packed


def unpack(packed: Tensor, device: torch.device = _CPU) -> Tensor:
    """The symmetric matrix that :func:`pack` took the lower triangle of."""
    size = int(((8 * packed.numel() + 1) ** 0.5 - 1) / 2)
    if size * (size + 1) // 2 != packed.numel():
        raise InputError(f"{packed.numel()} numbers are no lower triangle")
    matrix = torch.zeros(size, size, dtype=packed.dtype)
    for row in range(size):
        start = row * (row + 1) // 2
        matrix[row, : row + 1] = packed[start : start + row + 1]
    matrix = matrix.to(device)
    return matrix + matrix.tril(-1).T
