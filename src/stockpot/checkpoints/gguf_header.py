"""The header of a GGUF file, walked through: counts and lengths that its bytes cannot have.

The package ``gguf`` believes what a file says of itself, and reads on behind its end. Source: the
specification in ggml's ``docs/gguf.md``, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from mmap import mmap

MOST = 4_000_000
"""Entries of all lists together; a vocabulary of 256 thousand tokens needs a million."""
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_DIMENSIONS, _ELEMENTS, _PAIRS, _TENSORS = 8, 2**48, 100_000, 1_000_000


@dataclass
class _Walk:
    data: mmap
    order: str
    at: int
    entries: int = 0

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        self.skip(size)
        return int(struct.unpack(self.order + form, self.data[self.at - size : self.at])[0])

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, in the middle of a value")
        self.at += size

    def text(self) -> str:
        size = self.number("Q")
        self.skip(size)
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int, count: int = 1) -> None:
        """Pass so many values of a kind."""
        if kind in _SIZES:
            self.skip(count * _SIZES[kind])
        elif kind == _TEXT:
            for _ in range(count):
                self.text()
        elif kind == _LIST and count == 1:
            kind, count = self.number("I"), self.number("Q")
            self.entries += count
            if self.entries > MOST:
                raise ValueError(f"its lists have more than {MOST:,} entries, the limit")
            if kind == _LIST:
                raise ValueError("it has lists in lists")
            self.value(kind, count)
        else:
            raise ValueError(f"it has a value of the unknown kind {kind}")


def check_header(data: mmap) -> list[str]:
    """The names of the tensors. Raises ``ValueError`` for a header that its file cannot have."""
    walk = _Walk(data, "<", len(b"GGUF"))
    if not walk.number("I") & 0xFFFF:
        walk.order = ">"
    tensors, pairs = walk.number("Q"), walk.number("Q")
    for count, most, what in ((pairs, _PAIRS, "keys"), (tensors, _TENSORS, "tensors")):
        if count > most:
            raise ValueError(f"it claims {count:,} {what}, the limit is {most:,}")
    for _ in range(pairs):
        walk.text()
        walk.value(walk.number("I"))
    names = []
    for _ in range(tensors):
        names.append(walk.text())
        dimensions = walk.number("I")
        if dimensions > _DIMENSIONS:
            raise ValueError(f"'{names[-1]:.80}' has {dimensions:,} dimensions")
        sizes = [walk.number("Q") for _ in range(dimensions)]
        if math.prod(max(size, 1) for size in sizes) > _ELEMENTS:
            raise ValueError(f"'{names[-1]:.80}' has the shape {sizes}")
        walk.skip(12)
    return names
