"""Experts that lie in one tensor a layer (transformers 5) read as tensors of their own.

``mlp.experts.gate_up_proj`` (experts, 2 x inner, width) holds gate and up projection of each expert
one after the other, ``down_proj`` (experts, width, inner) the way back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.header import TensorInfo

_FUSED = re.compile(r"(?P<layer>.*\.)mlp\.experts\.(gate_up_proj|down_proj)")
_PLAIN = re.compile(r".*\.experts\.\d+\.\w+\.weight")
_MIXTRAL = re.compile(r".*\.block_sparse_moe\.experts\.\d+\.w1\.weight")
_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_MIXTRAL_PARTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


class UnfusedCheckpoint(Checkpoint):
    """``source`` with a tensor for each expert; ``mixtral``: under the names of Mixtral's files."""

    def __init__(self, source: Checkpoint, *, mixtral: bool) -> None:
        self._source = source
        self._origin: dict[str, tuple[str, int]] = {}
        tensors: dict[str, TensorInfo] = {}
        for name, info in source.tensors.items():
            match = _FUSED.fullmatch(name)
            parts = _PARTS[match[2]] if match is not None and _is_fused(source, name) else ()
            if match is None or not parts:
                new = name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if mixtral else name
                tensors[new] = TensorInfo(new, info.shape, info.dtype)
                self._origin[new] = name, 0
                continue
            count, rows, columns = info.shape
            shape = (rows // len(parts), columns)
            for expert in range(count):
                for place, part in enumerate(parts):
                    block, own = "mlp", part
                    if mixtral:
                        block, own = "block_sparse_moe", _MIXTRAL_PARTS[part]
                    new = f"{match['layer']}{block}.experts.{expert}.{own}.weight"
                    tensors[new] = TensorInfo(new, shape, info.dtype)
                    start = (expert * len(parts) + place) * shape[0] * columns
                    self._origin[new] = name, start
        super().__init__(tensors, label=source.label, path=source.path, metadata=source.metadata)

    @property
    def home(self) -> Path | None:
        return self._source.home

    @property
    def stored(self) -> Checkpoint:
        return self._source.stored

    def raw(self, name: str) -> Array:
        theirs, start = self._origin[name]
        return self._source.raw(theirs)[start : start + self.info(name).size]

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        theirs, first = self._origin[name]
        return self._source.decode(theirs, first + start, first + stop, out)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        theirs, first = self._origin[name]
        place = self._source.first_nonfinite(theirs, first + start, first + stop)
        return None if place is None else place - first

    def close(self) -> None:
        self._source.close()


def unfused(models: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Models of which some fuse their experts and others do not: all with an own tensor for each
    expert; and what was done, in words.
    """
    plain = [name for model in models for name in model.names if _PLAIN.fullmatch(name)]
    if not plain:
        return list(models), []
    mixtral = any(map(_MIXTRAL.fullmatch, plain))
    changed: list[Checkpoint] = []
    words = []
    for model in models:
        if any(_is_fused(model, name) for name in model.names):
            words.append(f"{model.label}: experts in one tensor are read as tensors of their own")
            changed.append(UnfusedCheckpoint(model, mixtral=mixtral))
        else:
            changed.append(model)
    return changed, words


def _is_fused(model: Checkpoint, name: str) -> bool:
    """Whether a tensor holds experts, outputs first (gpt-oss keeps them transposed)."""
    match = _FUSED.fullmatch(name)
    home = None if match is None else f"{match['layer']}mlp.experts."
    up, down = (model.tensors.get(f"{home}{part}") for part in ("gate_up_proj", "down_proj"))
    if up is None or down is None or len(up.shape) != 3 or len(down.shape) != 3:
        return False
    return up.shape == (down.shape[0], 2 * down.shape[2], down.shape[1])
