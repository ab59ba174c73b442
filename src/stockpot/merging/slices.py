"""Models made of other models' layers ("passthrough", "frankenmerge"), as checkpoints.

Layers are cut out of sources and numbered anew; everything outside the layers (embeddings, final
norm, head) comes from the first source. Nothing is copied: names are looked up differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import Array
from stockpot.errors import CheckpointError

_LAYER = re.compile(r"(?P<before>(?:^|.*?\.))(?P<layer>\d+)(?P<after>\..*)")


@dataclass(frozen=True)
class Slice:
    """Layers ``first ... last - 1`` of a source."""

    source: Checkpoint
    first: int
    last: int


class SlicedCheckpoint(Checkpoint):
    """The layers of ``slices`` stacked. Raises ``CheckpointError`` for a layer that is not
    there.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        self._origin: dict[str, tuple[Checkpoint, str]] = {}
        outside = slices[0].source
        for name in outside.names:
            if not _LAYER.fullmatch(name):
                self._origin[name] = (outside, name)
        number = 0
        for piece in slices:
            by_layer = _by_layer(piece.source)
            for layer in range(piece.first, piece.last):
                if layer not in by_layer:
                    raise CheckpointError(
                        f"{piece.source.label} has no layer {layer}",
                        hint=f"its layers are 0 to {max(by_layer, default=0)}",
                    )
                for before, after, name in by_layer[layer]:
                    self._origin[f"{before}{number}{after}"] = (piece.source, name)
                number += 1
        tensors = {}
        for name, (source, theirs) in self._origin.items():
            info = source.info(theirs)
            tensors[name] = TensorInfo(name, info.shape, info.dtype)
        label = " + ".join(f"{p.source.label}[{p.first}:{p.last}]" for p in slices)
        super().__init__(tensors, label=label, path=outside.path, metadata=outside.metadata)
        self.layers = number

    def raw(self, name: str) -> Array:
        source, theirs = self._origin[self.info(name).name]
        return source.raw(theirs)

    def prefetch(self, name: str) -> None:
        source, theirs = self._origin[name]
        source.prefetch(theirs)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        source, theirs = self._origin[self.info(name).name]
        return source.decode(theirs, start, stop, out)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        source, theirs = self._origin[self.info(name).name]
        return source.first_nonfinite(theirs, start, stop)


def _by_layer(source: Checkpoint) -> dict[int, list[tuple[str, str, str]]]:
    layers: dict[int, list[tuple[str, str, str]]] = {}
    for name in source.names:
        found = _LAYER.fullmatch(name)
        if found:
            piece = (found["before"], found["after"], name)
            layers.setdefault(int(found["layer"]), []).append(piece)
    return layers
