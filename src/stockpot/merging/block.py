"""What a merge method receives and gives back: blocks of weights, and sums over them.

The rules are in ``method.py``; authors of methods import everything from there.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

CHUNK = 65_536
"""Elements over which a float sum is taken in one fixed order; reduce sees multiples of it."""

Array = Any
Statistics = dict[str, Any]


# --------------------------------------------------------------------------- additive statistics
class Statistic(ABC):
    """What ``reduce`` takes of one block, joined with what it takes of others, in any order.

    Threads join statistics in memory. Workers in other processes and on other machines send their
    ``arrays``, from which the class makes the statistic again: they are the arguments of its
    constructor. Every executor uses these three methods alone, so that a kind which one of them
    can sum, all of them can.
    """

    kinds: ClassVar[dict[str, Callable[..., Statistic]]] = {}
    """Every kind by its full name, entered as its class is made."""

    def __init_subclass__(cls) -> None:
        cls.kinds[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """Full name of the class."""
        return f"{cls.__module__}.{cls.__qualname__}"

    @abstractmethod
    def join(self, other: Any) -> None:
        """Take in a statistic of the same kind, which is not used afterwards."""

    @abstractmethod
    def value(self) -> Any:
        """What ``finish`` gets."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of numbers with which the class makes an equal statistic."""

    def finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return all(bool(np.isfinite(array).all()) for array in self.arrays().values())


class Joined(Statistic):
    """Arrays that are laid end to end, along their first axis, in the order in which they come."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self._pieces = {name: [array] for name, array in arrays.items()}

    def join(self, other: Joined) -> None:
        for name, pieces in self._pieces.items():
            pieces += other._pieces[name]

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}


class Total(Joined):
    """Float64 sums, one for each chunk: shape (chunks, ...). Added exactly, so in any order."""

    def __init__(self, chunks: np.ndarray) -> None:
        super().__init__(chunks=chunks)

    def value(self) -> np.ndarray | float:
        chunks = self.arrays()["chunks"]
        if not np.isfinite(chunks).all():  # which fsum refuses
            with np.errstate(invalid="ignore"):
                total: np.ndarray | float = np.sum(chunks, axis=0)
                return total
        if chunks.ndim == 1:
            return math.fsum(chunks.tolist())
        columns = chunks.reshape(len(chunks), -1).T.tolist()
        return np.array([math.fsum(column) for column in columns]).reshape(chunks.shape[1:])


class Count(Statistic):
    """Integers that are added."""

    def __init__(self, counts: np.ndarray) -> None:
        self._counts = counts

    def join(self, other: Count) -> None:
        self._counts += other._counts

    def value(self) -> np.ndarray:
        return self._counts

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self._counts}


class Largest(Statistic):
    """Numbers of which the elementwise largest is kept."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def join(self, other: Largest) -> None:
        self._values = np.maximum(self._values, other._values)

    def value(self) -> np.ndarray:
        return self._values

    def arrays(self) -> dict[str, np.ndarray]:
        return {"values": self._values}


class BlockSums:
    """Named statistics of many blocks, joined as they come, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statistics: dict[str, Statistic] = {}

    def add(self, statistics: Mapping[str, Statistic]) -> None:
        with self._lock:
            for name, statistic in statistics.items():
                if name in self._statistics:
                    self._statistics[name].join(statistic)
                else:
                    self._statistics[name] = statistic

    def arrays(self) -> dict[str, np.ndarray]:
        """What another machine joins with ``add_arrays``: by kind, argument and name."""
        return {
            f"{statistic.kind()} {argument} {name}": array
            for name, statistic in self._statistics.items()
            for argument, array in statistic.arrays().items()
        }

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Join what another machine has summed over other tensors."""
        arguments: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for key, array in arrays.items():
            kind, argument, name = key.split(" ", 2)
            arguments.setdefault((kind, name), {})[argument] = array
        for (kind, name), own in arguments.items():
            self.add({name: Statistic.kinds[kind](**own)})

    def values(self) -> Statistics:
        return {name: statistic.value() for name, statistic in self._statistics.items()}


# --------------------------------------------------------------------------------------- blocks
@dataclass(frozen=True)
class TensorShape:
    """Name and shape of the tensor a block belongs to."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> tuple[int, int]:
        """Shape (rows, columns) of the tensor at row granularity."""
        if len(self.shape) < 2:
            return 1, self.size
        return self.shape[0], math.prod(self.shape[1:])


@dataclass(frozen=True)
class Unread:
    """Models that are read when a method asks for them.

    ``read(number, place)`` gives model ``number`` in the scratch memory ``place``.
    """

    count: int
    read: Callable[[int, int], Array]


class Block:
    """A piece of one tensor of every parent; see the module's text for the rules.

    Attributes:
        tensor: name and shape of the whole tensor.
        start: position of the first element of the piece in the flattened tensor.
        xp: array API namespace of the arrays.
        base: the base's piece, or None.
        count: number of models.
        statistics: what the passes have gathered.
        seed: seed of a random method, else 0.
    """

    def __init__(
        self,
        tensor: TensorShape,
        models: list[Array] | Unread,
        base: Array | None,
        *,
        xp: Any,
        start: int = 0,
        statistics: Statistics | None = None,
        seed: int = 0,
        extra: Callable[[str, int], Array | None] | None = None,
    ) -> None:
        self.tensor = tensor
        self.start = start
        self.xp = xp
        self.base = base
        self.count = models.count if isinstance(models, Unread) else len(models)
        self.statistics: Statistics = {} if statistics is None else statistics
        self.seed = seed
        self._models: list[Array] | Unread | None = models
        self._extra = extra

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def models(self) -> list[Array]:
        """One array for each model. Gone once ``deltas`` has been read."""
        if self._models is None:
            raise RuntimeError("block.models was overwritten")
        if isinstance(self._models, Unread):
            read = self._models.read
            self._models = [read(number, number) for number in range(self.count)]
        return self._models

    def each_model(self) -> Iterator[Array]:
        """The models one after another, for sums: instead of ``models``, and once only.

        The first two keep their memory, every other is overwritten by the next: however many there
        are, they stay in the cache.
        """
        models = self._models
        if not isinstance(models, Unread):
            models = self.models
        self._models = None
        for number in range(self.count):
            if isinstance(models, Unread):
                yield models.read(number, min(number, 2))
            else:
                yield models[number]

    def each_delta(self) -> Iterator[Array]:
        """``model - base`` one after another, with the rules of ``each_model``."""
        if "deltas" in self.__dict__:
            yield from self.deltas
            return
        if self.base is None:
            raise RuntimeError("block.each_delta needs a base")
        for delta in self.each_model():
            delta -= self.base
            yield delta

    @cached_property
    def deltas(self) -> list[Array]:
        """``model - base`` for each model, in place of the models."""
        if self.base is None:
            raise RuntimeError("block.deltas needs a base")
        deltas = self.models
        for delta in deltas:
            delta -= self.base
        self._models = None
        return deltas

    def reshaped(self, shape: tuple[int, ...]) -> Block:
        """The same piece with arrays of another shape; this block is not used afterwards."""
        old = tuple(self._sample.shape)

        def extra(kind: str, model: int) -> Array | None:
            value = self.extra(kind, model)
            if value is None or tuple(value.shape) != old:
                return value
            return self.xp.reshape(value, shape)

        return Block(
            self.tensor,
            [self.xp.reshape(model, shape) for model in self.models],
            None if self.base is None else self.xp.reshape(self.base, shape),
            xp=self.xp,
            start=self.start,
            statistics=self.statistics,
            seed=self.seed,
            extra=extra,
        )

    @property
    def _sample(self) -> Array:
        return self.base if self.base is not None else self.models[0]

    def extra(self, kind: str, model: int) -> Array | None:
        """The tensor of this name in the ``kind`` file (Fisher, Gram, ...) of model number
        ``model`` (0 ... count - 1): the matching piece where its shape is the tensor's, else
        whole; None if absent.
        """
        return None if self._extra is None else self._extra(kind, model)

    # ---- sums: float64, per fixed chunk, in a fixed order
    def total(self, x: Array) -> Total:
        """Sum of all elements of the flat array ``x`` (n,). For use in ``reduce``."""
        return Total(chunk_sums(_float64(self.xp, x), self.xp))

    def gram(self, vectors: Sequence[Array], *, quick: bool = False) -> Total:
        """Inner products of all pairs of flat arrays, shape (k, k). For use in ``reduce``.

        ``quick`` takes products in float32 and adds 1,024 of them before float64 goes on: three
        times as fast, with an error around 1e-9 of the product of the norms.
        """
        k, size = len(vectors), int(vectors[0].shape[0])
        out = np.empty((max(-(-size // CHUNK), 1), k, k))
        left: Iterable[int] = range(len(out))
        narrow = isinstance(vectors[0], np.ndarray) and vectors[0].dtype == np.float32
        if quick and narrow and size >= CHUNK:
            whole = size // CHUNK
            left = [*_quick_gram(vectors, out[:whole]), *range(whole, len(out))]
        for number in left:
            start = number * CHUNK
            wide = [_float64(self.xp, vector[start : start + CHUNK]) for vector in vectors]
            for i in range(k):
                for j in range(i, k):
                    out[number, i, j] = out[number, j, i] = _inner(self.xp, wide[i], wide[j])
        return Total(out)

    def row_sum(self, x: Array, y: Array | None = None) -> np.ndarray:
        """Sums of the rows of ``x`` or ``x * y`` (rows, columns): float64 numpy, shape (rows,)."""
        wide = _float64(self.xp, x)
        if y is not None:
            wide = wide * _float64(self.xp, y)
        return _host(self.xp.sum(wide, axis=1))

    def like(self, x: np.ndarray) -> Array:
        """A numpy array as an array of the block's kind, dtype and device."""
        model = self._sample
        if isinstance(model, np.ndarray):
            return x.astype(model.dtype)
        return self.xp.asarray(x, dtype=model.dtype, device=model.device)

    # ---- randomness
    def uniform(self, model: int) -> Array:
        """Float32 numbers in [0, 1), of the block's shape, for model number ``model`` (0 ...
        count - 1).

        They depend on seed, tensor name, model number and position alone.
        """
        from stockpot.merging.random import uniform

        like = self._sample
        shape = tuple(like.shape)
        numbers = uniform(self.seed, self.name, model, self.start, math.prod(shape)).reshape(shape)
        if self.xp is np or isinstance(like, np.ndarray):
            return numbers
        return self.xp.asarray(numbers, device=like.device)


class Models(Protocol):
    """All tensors of a merge at once, for ``granularity="model"``."""

    xp: Any
    count: int
    seed: int
    tensors: Sequence[TensorShape]

    def read(self, name: str) -> Block:
        """The whole tensor of every model and the base, in its shape."""


def chunk_sums(x: Array, xp: Any) -> np.ndarray:
    """Sums of the fixed chunks of a flat float64 array, shape (chunks,), as numpy."""
    size = int(x.shape[0])
    whole = size // CHUNK
    parts = []
    if whole:
        parts.append(_host(xp.sum(xp.reshape(x[: whole * CHUNK], (whole, CHUNK)), axis=1)))
    if size % CHUNK or not size:
        parts.append(_host(xp.reshape(xp.sum(x[whole * CHUNK :]), (1,))))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def sum_arrays(arrays: Iterable[Array]) -> Array:
    """Sum of arrays, in their order, written into the first of them."""
    iterator = iter(arrays)
    total = next(iterator)
    for array in iterator:
        total += array
    return total


def _inner(xp: Any, x: Array, y: Array) -> float:
    """Inner product of flat float64 arrays, added in one fixed order."""
    if not isinstance(x, np.ndarray):
        return float(xp.sum(x * y))
    run = 8192  # BLAS shares longer products out over its own threads, in an order of its own
    whole = x.size - x.size % run
    return float(_run_products(x[:whole], y[:whole], run).sum() + x[whole:] @ y[whole:])


def _quick_gram(vectors: Sequence[np.ndarray], out: np.ndarray) -> list[int]:
    """Fill ``out`` (chunks, k, k); gives the chunks where float32 is not enough."""
    chunks, k, _ = out.shape
    flat = [vector[: chunks * CHUNK] for vector in vectors]
    poor = np.zeros(chunks, dtype=bool)
    for i in range(k):
        for j in range(i, k):
            runs = _run_products(flat[i], flat[j], 1024).reshape(chunks, -1)
            if i == j:  # squares beyond float32, or next to its smallest numbers; NaN is neither
                poor |= ~((runs.min(axis=1) > 1e-20) & (runs.max(axis=1) < 1e30))
            out[:, i, j] = out[:, j, i] = runs.astype(np.float64).sum(axis=1)
    return [int(chunk) for chunk in np.flatnonzero(poor)]


def _run_products(x: np.ndarray, y: np.ndarray, run: int) -> np.ndarray:
    """Inner products of each ``run`` elements."""
    products: np.ndarray = x.reshape(-1, 1, run) @ y.reshape(-1, run, 1)
    return products.reshape(-1)


def _float64(xp: Any, x: Array) -> Array:
    if isinstance(x, np.ndarray):
        return x if x.dtype == np.float64 else x.astype(np.float64)
    return xp.astype(x, xp.float64)


def _host(x: Array) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu())
