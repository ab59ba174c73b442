"""Differences of the ingredients, kept once; any blend of them as a checkpoint made when read.

Sums are taken in float32 (float64 where a checkpoint is), block by block in the order of the
ingredients: the same bytes for any number of threads. A blend that is one ingredient is that
ingredient to the bit.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo, open_checkpoint
from stockpot.checkpoints.dtypes import Array, is_float, narrow
from stockpot.checkpoints.layers import layer_of
from stockpot.errors import CheckpointError, NonFiniteError
from stockpot.files import digest
from stockpot.merging import merge
from stockpot.merging.alignment import align
from stockpot.merging.method import get_method
from stockpot.merging.methods.stock import interpolation_ratio, mean_cosine
from stockpot.soups.blend import Blend, Coefficients
from stockpot.system import available_memory, usable_cores

_BLOCK = 1 << 17  # elements: what is added up stays in the cache
_SHARE = 0.5  # of the free memory that differences may take; beyond it they lie in a file
ARITHMETIC = 1
"""Grows when the same coefficients give other bytes: results of earlier ones are not used then."""


@dataclass(frozen=True)
class _Changed:
    """A tensor that differs: the anchor (n,), the differences to it (K, n), and whether the anchor
    is the base's, or the mean of the ingredients."""

    info: TensorInfo
    anchor: Array
    deltas: Array
    anchored: bool


class SoupEngine:
    """Ingredients, opened and aligned; makes blends of them.

    Without a base the anchor is the first ingredient. Tensors that the base lacks (a new head) are
    averaged with coefficients that add up to 1. Whole numbers are the first ingredient's.

    Raises ``CheckpointError`` where the ingredients do not fit each other, ``NonFiniteError`` for
    NaN.
    """

    def __init__(
        self, ingredients: Sequence[Checkpoint], base: Checkpoint | None, folder: Path | None = None
    ) -> None:
        self.ingredients = tuple(ingredients)
        self.base = base
        self.count = len(ingredients)
        try:
            aligned, _ = align(ingredients, lambda name: base, heads="auto")
        except CheckpointError as error:
            hint = "a soup takes checkpoints of one architecture, with the same tensors"
            raise CheckpointError(error.message, hint=hint) from error
        self.tensors = {item.info.name: item.info for item in aligned}
        floats = [item for item in aligned if is_float(item.info.dtype)]
        total = sum(item.info.size for item in floats) * 4 * (self.count + 1)
        self._file = None
        if total > _SHARE * available_memory():
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (close ends it)
        self._changed: dict[str, _Changed] = {}
        for item in floats:
            changed = self._read(item.info, item.action == "merge" and base is not None)
            if changed is not None:
                self._changed[item.info.name] = changed
        self.changes = tuple(self._changed)
        self._pool = ThreadPoolExecutor(usable_cores())
        self._lock = Lock()
        self._merged: tuple[Blend, Checkpoint] | None = None
        self.shuffled = ""

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Content hashes of the ingredients."""
        return tuple(one.digest() for one in self.ingredients)

    @property
    def torch(self) -> bool:
        """Whether the ingredients were torch tensors in memory."""
        return any(hasattr(one, "holds_torch") and one.holds_torch for one in self.ingredients)

    @property
    def sizes(self) -> Coefficients:
        """Elements of each tensor that differs, (T,)."""
        return np.array([one.info.size for one in self._changed.values()], dtype=np.float64)

    def groups(self, count: int) -> list[list[int]]:
        """The differing tensors as at most ``count`` groups of consecutive layers, of about equal
        numbers of layers."""
        layers: dict[str, list[int]] = {}
        for position, name in enumerate(self.changes):
            layers.setdefault(layer_of(name), []).append(position)
        parts = np.array_split(np.arange(len(layers)), min(count, len(layers)))
        every = list(layers.values())
        return [[tensor for layer in part for tensor in every[layer]] for part in parts]

    def stock_ratios(self, members: Sequence[int]) -> Coefficients:
        """Model Stock's t of every differing tensor for some ingredients (arXiv 2403.19522, eq. 7),
        (T,)."""
        count = len(members)
        ratios = []
        for one in self._changed.values():
            gram = np.zeros((count, count))
            for start in range(0, one.info.size, _BLOCK):
                part = one.deltas[list(members), start : start + _BLOCK].astype(np.float64)
                gram += part @ part.T
            cosine = mean_cosine(gram, "cosine")
            ratios.append(float(interpolation_ratio(cosine, count, bound=True)))
        return np.array(ratios)

    def slope(self, blend: Blend, gradients: Mapping[str, Array]) -> Coefficients:
        """How a score changes with each coefficient of a blend, (K, T), from how it changes with
        the blend's tensors."""
        slopes = np.zeros((self.count, len(self.changes)))
        for place, (name, one) in enumerate(self._changed.items()):
            if name not in gradients:
                continue
            flat = np.asarray(gradients[name]).reshape(-1)
            own = np.array([np.multiply(delta, flat).sum(dtype=np.float64) for delta in one.deltas])
            if not one.anchored:
                column = blend.coefficients[:, place]
                own = (own - own @ column / column.sum()) / column.sum()
            slopes[:, place] = own
        if self.base is None:  # coefficients are moved to the sum of 1
            slopes -= slopes.mean(axis=0)
        return slopes

    def shuffle(self, keep: int, seed: int) -> SoupEngine:
        """The same ingredients, the differences of all but ``keep`` in random order.

        Every tensor keeps the norm of its difference, and loses what it had learnt.
        """
        other = object.__new__(SoupEngine)
        other.__dict__ = {k: v for k, v in self.__dict__.items() if k != "digests"}
        generator = np.random.default_rng([seed, 7])
        other._changed, other._merged = {}, None
        for name, one in self._changed.items():
            deltas = np.array(one.deltas)
            for index in range(self.count):
                if index != keep:
                    generator.shuffle(deltas[index])
            other._changed[name] = _Changed(one.info, one.anchor, deltas, one.anchored)
        other.shuffled = f"all but {keep}, seed {seed}"
        return other

    def checkpoint(self, blend: Blend) -> BlendedCheckpoint:
        """A blend as a checkpoint."""
        return BlendedCheckpoint(self, blend)

    def identity(self, blend: Blend) -> str:
        """Hash of a blend's weights: of what they are made of, since that determines them.

        A lone ingredient has its content hash.
        """
        if blend.method:
            base = None if self.base is None else self.base.digest()
            made = [blend.method, blend.parameters, self.digests, base]
            return digest([ARITHMETIC, self.shuffled, *made])
        members = blend.members
        coefficients = blend.coefficients[list(members)]
        if not self.shuffled and len(members) == 1 and (coefficients == 1.0).all():
            return self.digests[members[0]]
        order = sorted(range(len(members)), key=lambda i: self.digests[members[i]])
        whole = hashlib.sha256(f"{ARITHMETIC} {self.shuffled} {self.changes}".encode())
        whole.update((self.base.digest() if self.base is not None else "none").encode())
        whole.update(self.digests[0].encode())  # its whole numbers and constant tensors
        for i in order:
            whole.update(self.digests[members[i]].encode())
            whole.update(np.ascontiguousarray(coefficients[i]).tobytes())
        return whole.hexdigest()

    def stored(self, name: str, blend: Blend) -> Array:
        """The storage values (n,) of a tensor of a blend."""
        info = self.tensors[name]
        one = self._changed.get(name)
        if one is None:
            return _as(self.ingredients[0], info)
        if blend.method:
            return _as(self._by_method(blend), info)
        column = blend.coefficients[:, self.changes.index(name)]
        if not one.anchored:
            total = column.sum()
            column = column / total if abs(total) > 1e-9 else np.full(self.count, 1 / self.count)
        alone = np.flatnonzero(column)
        if not self.shuffled and len(alone) == 1 and column[alone[0]] == 1.0:
            return _as(self.ingredients[alone[0]], info)
        return narrow(_summed(one, column), info.dtype)

    def _by_method(self, blend: Blend) -> Checkpoint:
        """What a merge method makes of the ingredients; the latest one is kept."""
        with self._lock:
            if self._merged is None or self._merged[0] is not blend:
                models: list[Checkpoint] = list(self.ingredients)
                if self.shuffled:
                    eye = np.eye(self.count)[:, :, None] * np.ones(len(self.changes))
                    models = [self.checkpoint(Blend("", "", one)) for one in eye]
                needs_base = get_method(blend.method).base != "none"
                base, options = self.base if needs_base else None, dict[str, Any](blend.parameters)
                done = merge(models, method=blend.method, base=base, force=True, **options)
                self._merged = blend, open_checkpoint(done.state)
            return self._merged[1]

    def stream(self, names: Sequence[str], blend: Blend) -> Iterator[tuple[str, Array]]:
        """Names and storage values, made by several threads, a few ahead of the reader."""
        for start in range(0, len(names), 8):
            part = names[start : start + 8]
            yield from zip(
                part, self._pool.map(lambda name: self.stored(name, blend), part), strict=True
            )

    def close(self) -> None:
        """Let go of threads and file."""
        self._pool.shutdown()
        if self._file is not None:
            self._file.close()

    def _read(self, info: TensorInfo, anchored: bool) -> _Changed | None:
        name = info.name
        for one in (*self.ingredients, *([self.base] if anchored and self.base else [])):
            place = one.first_nonfinite(name, 0, one.info(name).size)
            if place is not None:
                raise NonFiniteError(
                    f"{one.label}: '{name}' holds NaN or infinity at {place}",
                    hint=f"leave out {one.label}: its training has diverged",
                )
        codes = {one.info(name).dtype for one in self.ingredients}
        kind = np.dtype(np.float64 if "F64" in codes else np.float32)
        start: Checkpoint = self.base if anchored and self.base else self.ingredients[0]
        anchor = start.read(name).reshape(-1).astype(kind)
        deltas = self._room((self.count, info.size), kind)
        for row, one in enumerate(self.ingredients):
            np.subtract(one.read(name).reshape(-1), anchor, out=deltas[row], casting="same_kind")
        if not deltas.any():
            return None
        return _Changed(info, anchor, deltas, anchored or self.base is None)

    def _room(self, shape: tuple[int, int], kind: np.dtype[Any]) -> Array:
        if self._file is None or 0 in shape:
            return np.empty(shape, kind)
        start = self._file.seek(0, 2)
        return np.memmap(self._file, kind, "r+", offset=start, shape=shape)


class BlendedCheckpoint(Checkpoint):
    """A blend, computed as it is read.

    ``series`` and ``changes``: blends of one engine differ in these tensors only.
    """

    def __init__(self, engine: SoupEngine, blend: Blend) -> None:
        super().__init__(engine.tensors, label=blend.label)
        self._engine = engine
        self._blend = blend
        self.series = engine.tensors  # the same object for an engine and what is shuffled of it
        self.changes = engine.changes
        self.as_torch = engine.torch

    @property
    def home(self) -> Path | None:
        """Of the first ingredient that has one, else the base's."""
        sources = [*self._engine.ingredients, *([self._engine.base] if self._engine.base else [])]
        return next((one.home for one in sources if one.home is not None), None)

    def raw(self, name: str) -> Array:
        """Storage values of the blend."""
        self.info(name)
        return self._engine.stored(name, self._blend)

    def known_digest(self) -> str | None:
        """The hash of what it is made of, not of its bytes."""
        return self._engine.identity(self._blend)


def _summed(one: _Changed, column: Coefficients) -> Array:
    out = np.array(one.anchor)
    used = np.flatnonzero(column)
    factors = column.astype(out.dtype)
    scratch = np.empty(min(_BLOCK, len(out)), out.dtype)
    for start in range(0, len(out), _BLOCK):
        part = out[start : start + _BLOCK]
        room = scratch[: len(part)]
        for row in used:
            np.multiply(one.deltas[row, start : start + _BLOCK], factors[row], out=room)
            part += room
    return out


def _as(model: Checkpoint, info: TensorInfo) -> Array:
    """A model's own tensor in the type of the result."""
    if model.info(info.name).dtype == info.dtype:
        return model.raw(info.name)
    return narrow(model.read(info.name).reshape(-1), info.dtype)
