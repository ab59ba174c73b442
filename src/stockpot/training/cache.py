"""Activations of a frozen trunk, float16 on disk, written once and read through a memory map."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stockpot.backbones.backbone import Backbone
from stockpot.backbones.buffers import unchanged_buffers
from stockpot.errors import BackboneError
from stockpot.files import digest, output_error, write_json
from stockpot.progress import progress
from stockpot.reading import parse_json, read_bytes
from stockpot.system import locked
from stockpot.tasks import Task, named_generator
from stockpot.training.augmentation import augment
from stockpot.training.device import best_device

FORMAT = 1
CHUNK = 64  # rows per forward pass; fixed, so that a cache that was interrupted gets the same bytes
_SAVE_EVERY = 8  # chunks between two notes of how far it has come


@dataclass
class ActivationCache:
    """Activations of all rows of a task.

    Fixed shape: ``values`` is float16 (1 + views, rows, ...), view 0 the plain one, feature maps as
    (H, W, C). Token sequences: ``values`` is float16 (tokens, D), those of row i starting at
    ``offsets[i]``.
    """

    values: np.ndarray
    rows: int
    views: int
    offsets: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens of each row."""
        return None if self.offsets is None else np.diff(self.offsets)

    def ragged(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token vectors float32 (N, L, D), zero beyond a row's length, and mask int64 (N, L)."""
        assert self.offsets is not None
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        lengths = ends - starts
        width = int(lengths.max(initial=1))
        values = np.zeros((len(rows), width, self.values.shape[1]), dtype=np.float32)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            values[i, : end - start] = self.values[start:end]
        return values, (np.arange(width) < lengths[:, None]).astype(np.int64)


def open_cache(
    task: Task, backbone: Backbone, *, folder: Path, views: int, seed: int
) -> ActivationCache:
    """Open the cache in ``folder``, writing what is missing; one process writes, others wait.

    Raises ``OutputError`` where the folder cannot be written, ``BackboneError`` where activations
    do not fit float16.
    """
    key = _key(task, backbone, views, seed)
    note = folder / "activations.json"
    found = _read(note, key)
    if found is None or found["done"] < found["total"]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / "activations.lock"):
                found = _read(note, key)
                if found is None or found["done"] < found["total"]:
                    found = _Writer(task, backbone, folder, views, seed, key).write(found)
        except OSError as error:
            raise output_error(folder, error) from error
    offsets = np.load(folder / "offsets.npy") if found["ragged"] else None
    values = np.memmap(
        folder / "activations.bin", np.float16, mode="r", shape=tuple(found["shape"])
    )
    return ActivationCache(values, len(task), views, offsets)


def _key(task: Task, backbone: Backbone, views: int, seed: int) -> str:
    rows = hashlib.sha256(np.ascontiguousarray(task.labels).tobytes())
    rows.update(np.ascontiguousarray(task.domain_ids).tobytes())
    return digest(
        {
            "format": FORMAT,
            "task": task.fingerprint,
            "rows": rows.hexdigest(),
            "trunk": backbone.trunk_fingerprint,
            "views": views,
            "seed": seed if views else 0,
        }
    )


def _read(note: Path, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = parse_json(read_bytes(note))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if found.get("key") == key else None


class _Writer:
    def __init__(
        self, task: Task, backbone: Backbone, folder: Path, views: int, seed: int, key: str
    ) -> None:
        assert backbone.trunk is not None
        self.task, self.backbone, self.folder = task, backbone, folder
        self.views, self.seed, self.key = views, seed, key
        self.device = best_device()
        self.trunk = backbone.trunk.to(self.device).eval()
        self.encoded = backbone.preparation.encode(task.inputs)
        self.ragged = backbone.modality == "text"
        # Texts of one length together: no padding to compute, and the order is always the same.
        self.order = np.arange(len(task))
        if self.ragged:
            lengths = np.array([len(one) for one in self.encoded])
            self.order = np.argsort(lengths, kind="stable")
            self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def write(self, found: dict[str, Any] | None) -> dict[str, Any]:
        starts = range(0, len(self.task), CHUNK)
        steps = [(view, start) for view in range(self.views + 1) for start in starts]
        if found is None:
            # An older note would vouch for bytes that are about to be overwritten.
            (self.folder / "activations.json").unlink(missing_ok=True)
            first = self._compute(0, 0)
            shape = self._shape(first)
            if self.ragged:
                np.save(self.folder / "offsets.npy", self.offsets)
            found = {
                "key": self.key,
                "ragged": self.ragged,
                "shape": shape,
                "done": 0,
                "total": len(steps),
            }
            self._open("w+", shape)
        values = self._open("r+", found["shape"])
        with progress("Frozen blocks", len(steps)) as advance:
            advance(found["done"])
            for done in range(found["done"], len(steps)):
                self._store(values, *steps[done])
                advance()
                if (done + 1) % _SAVE_EVERY == 0 or done + 1 == len(steps):
                    values.flush()  # type: ignore[attr-defined]
                    found["done"] = done + 1
                    write_json(self.folder / "activations.json", found)
        return found

    def _open(self, mode: Literal["r+", "w+"], shape: list[int]) -> np.ndarray:
        file = self.folder / "activations.bin"
        return np.memmap(file, np.float16, mode=mode, shape=tuple(shape))

    def _shape(self, first: np.ndarray) -> list[int]:
        if self.ragged:
            return [int(self.offsets[-1]), first.shape[-1]]
        return [self.views + 1, len(self.task), *first.shape[1:]]

    def _rows(self, start: int) -> np.ndarray:
        return self.order[start : start + CHUNK]

    @torch.no_grad()
    def _compute(self, view: int, start: int) -> np.ndarray:
        """Activations of one chunk, float16, feature maps as (N, H, W, C)."""
        transform = None
        if view:
            generator = named_generator(self.seed, "views", view, start)
            transform = functools.partial(augment, generator=generator)
        rows = self._rows(start)
        batch = self.backbone.preparation.batch(self.encoded, rows, self.device, transform)
        with unchanged_buffers(self.trunk):
            values = self.trunk(batch).values
        if values.ndim == 4:
            values = values.permute(0, 2, 3, 1)
        with np.errstate(over="ignore"):  # told below, with what to do
            found: np.ndarray = values.cpu().numpy().astype(np.float16)
        if not np.isfinite(found).all():
            raise BackboneError(
                f"activations below '{self.backbone.spec.freeze_below}' do not fit 16 bits "
                f"(largest {float(values.abs().max()):.3g})",
                hint="choose another module for freeze_below",
            )
        return found

    def _store(self, values: np.ndarray, view: int, start: int) -> None:
        chunk, rows = self._compute(view, start), self._rows(start)
        if not self.ragged:
            values[view, rows] = chunk
            return
        for one, row in zip(chunk, rows, strict=True):
            begin, end = self.offsets[row], self.offsets[row + 1]
            values[begin:end] = one[: end - begin]
