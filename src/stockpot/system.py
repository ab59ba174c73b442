"""What differs from one operating system to the next, each difference behind one function.

Linux, macOS and Windows give the same bytes; Linux has a few faster ways, which are taken where the
system offers them and not by its name.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BINARY: int = getattr(os, "O_BINARY", 0)
"""For ``os.open``: Windows would otherwise turn every line end that is written into two bytes."""

_CGROUP = Path("/sys/fs/cgroup/cpu.max")
_LOCKED_BYTES = 64  # Windows: a shared lock takes one of them, an exclusive one takes all
_PAUSE = 0.02  # seconds between two attempts at a lock
ASIDE = ".old"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD; RENAME_EXCHANGE, and RENAME_SWAP on macOS
_seek_and_write = threading.Lock()


def usable_cores() -> int:
    """Cores this process may use: its affinity, and its container's share of processor time."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _container_cores() or cores))


def _container_cores() -> int | None:
    """Cores by the quota of the control group, rounded up; None without a quota."""
    try:
        quota, period = _CGROUP.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or the quota is "max"
        return None


def available_memory() -> int:
    """Bytes of memory that can be had without swapping; 8 GiB where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 8 << 30


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk. Windows flushes no folders, and needs not."""
    try:
        descriptor = os.open(path, os.O_RDWR | BINARY if BINARY else os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)  # by a descriptor the system does not know it
        raise
    finally:
        os.close(descriptor)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of a file; several threads may write to one file."""
    if not hasattr(os, "pwrite"):
        with _seek_and_write:
            os.lseek(descriptor, offset, os.SEEK_SET)
            while data:
                data = data[os.write(descriptor, data) :]
        return
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def reserve(descriptor: int, size: int) -> None:
    """Give an open file ``size`` bytes, on the disk already where the system can do that.

    Raises ``OSError`` where they do not fit.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: float = math.inf) -> Iterator[None]:
    """Hold the lock of the file ``path``, which is created; it ends with the process.

    Any number of processes hold it ``shared``, or one alone. Raises ``BlockingIOError`` where it is
    not to be had within ``wait`` seconds, another ``OSError`` where the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    try:
        deadline = time.monotonic() + wait
        while not _try_lock(descriptor, shared):
            if time.monotonic() >= deadline:
                raise BlockingIOError(f"{path} is locked by another process")
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:
        return _try_lock_bytes(descriptor, shared)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_bytes(descriptor: int, shared: bool) -> bool:
    import msvcrt

    windows: Any = msvcrt  # its functions are unknown to type checkers elsewhere
    spans = [(i, 1) for i in range(_LOCKED_BYTES)] if shared else [(0, _LOCKED_BYTES)]
    for start, length in spans:
        os.lseek(descriptor, start, os.SEEK_SET)
        with suppress(OSError):
            windows.locking(descriptor, windows.LK_NBLCK, length)
            return True
    return False


def exchange(fresh: Path, old: Path) -> None:
    """Swap two folders in one step; where the system cannot, in two, the old one set aside first.

    Afterwards what was ``old`` lies under the name of ``fresh``.
    """
    if _swap_names(fresh, old):
        return
    aside = fresh.with_name(f"{fresh.name}{ASIDE}")
    old.rename(aside)
    try:
        fresh.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    aside.rename(fresh)


def _swap_names(first: Path, second: Path) -> bool:
    """Whether the kernel exchanged two names: Linux' ``renameat2``, macOS' ``renamex_np``."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(first), os.fsencode(second)
        if hasattr(library, "renameat2"):
            status = library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
        elif hasattr(library, "renamex_np"):
            status = library.renamex_np(*names, _EXCHANGE)
        else:
            return False
    except (OSError, TypeError, AttributeError):  # Windows has no such library
        return False
    return bool(status == 0)


def process_mark() -> str:
    """Names this process, so that others on this machine can tell whether it lives."""
    return f"{_machine()}.{os.getpid()}"


def is_dead(mark: str) -> bool:
    """Whether a process, by its mark, ran on this machine and is no more."""
    machine, _, number = mark.partition(".")
    if machine != _machine() or not number.isdigit() or os.name == "nt":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@functools.cache
def _machine() -> str:
    """A few digits for this machine, since it was started, and its container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
