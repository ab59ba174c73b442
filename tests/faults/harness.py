"""Faults at each call that a command makes to the system, to fsspec, or over HTTP.

``Faults`` counts the calls that touch a folder and lets the n-th fail: with an error of the
system, or by the end of the process. A command is judged by what it says, what it leaves, and by
what a second run of it makes of that.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
KILL = "kill"

# Calls by path, and by descriptor of a file that was opened below the folder.
_BY_PATH = (
    *("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "chmod"),
    *("scandir", "listdir", "utime"),
)
_BY_DESCRIPTOR = ("write", "pwrite", "fsync", "ftruncate", "posix_fallocate", "sendfile")


class Faults:
    """Counts calls below ``root``; the one numbered ``at`` fails by ``kind``.

    ``calls``: what was called, in order.
    """

    def __init__(self, root: Path, at: int | None = None, kind: str = "EIO") -> None:
        self.root, self.at, self.kind = str(root), at, kind
        self.calls: list[str] = []
        self._open: set[int] = set()
        self._lock = threading.Lock()

    @property
    def struck(self) -> bool:
        """Whether the fault came."""
        return self.at is not None and len(self.calls) > self.at

    def point(self, name: str, path: object = None) -> None:
        """One call; raises the fault where it is this one's turn."""
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
        if number != self.at:
            return
        if self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        code = ERRORS[self.kind]
        raise OSError(code, os.strerror(code), *([str(path)] if path is not None else []))

    def concerns(self, path: object) -> bool:
        """Whether a path, or a descriptor, is of the folder."""
        if isinstance(path, int):
            return path in self._open
        try:
            text = os.fspath(path)  # type: ignore[call-overload]
        except TypeError:
            return False
        text = text.decode() if isinstance(text, bytes) else text
        return os.path.abspath(text).startswith(self.root)  # noqa: PTH100

    @contextmanager
    def installed(self) -> Iterator[Faults]:
        """Let the calls of the block be counted, and the one fail."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _BY_PATH:
                patch.setattr(os, name, self._by_path(name, getattr(os, name)))
            for name in _BY_DESCRIPTOR:
                if hasattr(os, name):
                    patch.setattr(os, name, self._by_descriptor(name, getattr(os, name)))
            patch.setattr(os, "open", self._opening(os.open))
            patch.setattr(os, "close", self._closing(os.close))
            plain = self._file(io.open)
            patch.setattr(io, "open", plain)
            patch.setattr(builtins, "open", plain)
            patch.setattr(sqlite3, "connect", self._connecting(sqlite3.connect))
            yield self

    def _by_path(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if arguments and self.concerns(arguments[0]):
                self.point(name, arguments[0])
            return real(*arguments, **options)

        return call

    def _by_descriptor(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, *arguments: Any, **options: Any) -> Any:
            if descriptor in self._open:
                self.point(name)
            return real(descriptor, *arguments, **options)

        return call

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, *arguments: Any, **options: Any) -> int:
            concerns = self.concerns(path)
            if concerns:
                self.point("open", path)
            descriptor = real(path, *arguments, **options)
            if concerns:
                self._open.add(descriptor)
            return descriptor

        return call

    def _closing(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            self._open.discard(descriptor)
            real(descriptor)

        return call

    def _file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> Any:
                faults.point("write")
                return super().write(data)

            def readinto(self, buffer: Any) -> Any:
                faults.point("read")
                return super().readinto(buffer)

        def call(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any
        ) -> Any:
            if isinstance(file, int) or not self.concerns(file) or buffering == 0 or "+" in mode:
                return real(file, mode, buffering, *rest, **options)
            self.point("open", file)
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            options |= zip(("buffering", "encoding", "errors", "newline"), rest, strict=False)
            kept = {name: options.get(name) for name in ("encoding", "errors", "newline")}
            return io.TextIOWrapper(buffered, **{**kept, "encoding": kept["encoding"] or "utf-8"})

        return call

    def _connecting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> Any:
                try:
                    faults.point("sqlite")
                except OSError as error:
                    known = {errno.ENOSPC: "database or disk is full", errno.EIO: "disk I/O error"}
                    text = known.get(error.errno or 0, "attempt to write a readonly database")
                    raise sqlite3.OperationalError(text) from None
                return super().execute(*arguments)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if not self.concerns(str(path).removeprefix("file:").partition("?")[0]):
                return real(path, *arguments, **options)
            return real(path, *arguments, **{**options, "factory": Connection})

        return call


def in_child(work: Callable[[], object]) -> int | None:
    """Run ``work`` in a fork of this process: its exit code, None where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
