"""A model folder for programs that read files: written once, then rewritten tensor by tensor."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.header import build_header, header_bytes
from stockpot.checkpoints.writer import CachedFile, take_room
from stockpot.evaluators.contract import changing
from stockpot.merging.companions import copy_companions
from stockpot.merging.output import METADATA

_MEMORY = Path("/dev/shm")
_ROOM = 2.0  # a folder goes into memory where this many times its size is free


class ScratchFolder:
    """The folder; it is in memory where there is room. ``close`` removes it."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._file: CachedFile | None = None
        self._series: object = None

    def write(self, model: Checkpoint) -> Path:
        """The folder with ``model`` in it: weights, configuration, tokenizer.

        A next model of the same series rewrites only the tensors in which they differ.
        """
        header = build_header(model.tensors, METADATA)
        fresh = self._file is None or getattr(model, "series", None) is not self._series
        if fresh or self._series is None:
            self.close()
            self._folder = _new_folder(header.file_size)
            weights = self._folder / "model.safetensors"
            take_room(weights, header.file_size)
            self._file = CachedFile(weights)
            self._file.write(memoryview(header_bytes(header.tensors, header.metadata)), 0)
            if model.home is not None:
                copy_companions(model.home, self._folder)
        assert self._file is not None
        assert self._folder is not None
        for name in changing(model, self._series):
            stored = model.raw(name)
            if stored.size:
                self._file.write(stored.view("u1").reshape(-1).data, header.offsets[name])
        self._series = getattr(model, "series", None)
        return self._folder

    def close(self) -> None:
        """Remove the folder."""
        if self._file is not None:
            self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._file = self._folder = self._series = None


def _new_folder(size: int) -> Path:
    inside = None
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    if usable and shutil.disk_usage(_MEMORY).free > _ROOM * size:
        inside = _MEMORY
    return fresh_folder(inside)


def fresh_folder(inside: Path | None = None) -> Path:
    """A new folder of this process; folders of processes that were killed are removed."""
    parent = Path(inside or tempfile.gettempdir())
    start = f"stockpot-soup-{_processes()}-"
    for one in parent.glob(f"{start}*"):
        if not _is_alive(one.name.removeprefix(start).partition("-")[0]):
            shutil.rmtree(one, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{start}{os.getpid()}-", dir=parent))


def _processes() -> str:
    """Whose numbers of processes these are: containers may share a folder, not the numbers."""
    try:
        return "".join(filter(str.isdigit, str(Path("/proc/self/ns/pid").readlink())))
    except OSError:
        return platform.node()


def _is_alive(pid: str) -> bool:
    if os.name != "posix" or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
