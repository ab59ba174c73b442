"""Write a large file past the page cache, piece by piece and in any order.

Copying a gigabyte into the page cache costs up to two seconds of processor time, pushes the
parents out of memory, and is paid again when it is flushed. Here pieces are gathered in a few
aligned segments; a full segment goes straight to the disk, from a thread of its own.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stockpot.system import write_at

SEGMENT = 1 << 20
"""Bytes that are written at once; a multiple of every disk's sector."""
_SEGMENTS = 16
_ALIGNMENT = 4096
_HUGE = 2 << 20


@dataclass
class _Segment:
    """One stretch of the file in memory."""

    number: int
    memory: np.ndarray
    missing: int
    users: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)


class DirectFile:
    """A file of known size, opened for writing without the page cache.

    ``write`` may be called from several threads; every byte must be written once. ``finish``
    must be called before the file is closed. Raises ``OSError`` on opening where the file system
    cannot do it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        # Segments that others fill, too, go through the page cache.
        self._cached = os.open(path, os.O_RDWR)
        try:
            self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except BaseException:
            os.close(self._cached)
            raise
        self._free = _segments()
        self._open: dict[int, _Segment] = {}
        self._through_cache: set[int] = set()
        self._full: deque[_Segment] = deque()
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # there may be room
        self._filled = threading.Condition(lock)  # there is something to write, or an end
        self._writing = 0
        self._ending = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write_segments, daemon=True)
        self._thread.start()

    def write(self, data: memoryview, offset: int) -> None:
        """Put bytes at ``offset``. Raises the ``OSError`` of any earlier write."""
        for room in self.room(offset, len(data)):
            # Unlike a memoryview, numpy lets other threads run while it copies.
            room[:] = np.frombuffer(data[: len(room)], np.uint8)
            data = data[len(room) :]

    def room(self, offset: int, length: int) -> Iterator[np.ndarray]:
        """Memory for the bytes from ``offset`` on, in a few pieces: each is to be filled before
        the next one is asked for. Raises the ``OSError`` of any earlier write.
        """
        while length:
            number, inside = divmod(offset, SEGMENT)
            size = min(SEGMENT - inside, length)
            segment = self._segment(number)
            if segment is None:
                piece = np.empty(size, np.uint8)
                yield piece
                write_at(self._cached, piece.data, offset)
            else:
                filled = 0
                try:
                    yield segment.memory[inside : inside + size]
                    filled = size
                finally:
                    self._leave(segment, inside, filled)
            offset, length = offset + size, length - size

    def finish(self) -> None:
        """Wait until everything is on the disk."""
        self._end()
        if self._error is not None:
            raise self._error
        for segment in self._open.values():
            self._write_pieces(segment)
        self._open = {}
        os.ftruncate(self._cached, self._size)
        os.fsync(self._cached)

    def close(self) -> None:
        """Give everything back, finished or not."""
        with self._changed:
            self._full.clear()
        self._end()
        os.close(self._direct)
        os.close(self._cached)

    def _end(self) -> None:
        with self._filled:
            self._ending = True
            self._filled.notify()
        self._thread.join()

    def _segment(self, number: int) -> _Segment | None:
        """The segment to copy into, or None where it goes through the page cache."""
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if number in self._through_cache:
                    return None
                if number not in self._open and self._free:
                    missing = min(SEGMENT, self._size - number * SEGMENT)
                    self._open[number] = _Segment(number, self._free.pop(), missing)
                if number in self._open:
                    self._open[number].users += 1
                    return self._open[number]
                if self._full or self._writing or not self._give_up_one():
                    self._changed.wait()

    def _give_up_one(self) -> bool:
        """Free the oldest half full segment, whose rest somebody else may be about to write."""
        for segment in self._open.values():
            if not segment.users:
                self._write_pieces(segment)
                self._through_cache.add(segment.number)
                self._free.append(self._open.pop(segment.number).memory)
                return True
        return False

    def _write_pieces(self, segment: _Segment) -> None:
        for start, length in segment.pieces:
            place = segment.number * SEGMENT + start
            write_at(self._cached, segment.memory[start : start + length].data, place)

    def _leave(self, segment: _Segment, start: int, length: int) -> None:
        """A user has filled ``length`` bytes of a segment."""
        with self._changed:
            segment.pieces.append((start, length))
            segment.users -= 1
            segment.missing -= length
            if not segment.missing:
                del self._open[segment.number]
                self._full.append(segment)
                self._filled.notify()
            self._changed.notify_all()

    def _write_segments(self) -> None:
        while True:
            with self._changed:
                while not self._full and not self._ending:
                    self._filled.wait()
                if not self._full:
                    return
                segment = self._full.popleft()
                self._writing += 1
            error: OSError | None = None
            try:
                start = segment.number * SEGMENT
                length = min(SEGMENT, -(-(self._size - start) // _ALIGNMENT) * _ALIGNMENT)
                write_at(self._direct, segment.memory[:length].data, start)
            except OSError as failed:
                error = failed
            with self._changed:
                self._writing -= 1
                self._free.append(segment.memory)
                self._error = self._error or error
                self._changed.notify_all()


def _segments() -> list[np.ndarray]:
    """Memory for all segments, aligned as writing past the cache demands.

    In huge pages where the system has them: the disk's driver pins each page for every write.
    """
    room = mmap.mmap(-1, _SEGMENTS * SEGMENT + _HUGE, mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            room.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(room, np.uint8)
    first = -memory.ctypes.data % _HUGE
    starts = range(first, first + _SEGMENTS * SEGMENT, SEGMENT)
    return [memory[start : start + SEGMENT] for start in starts]
