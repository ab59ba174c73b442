"""Put on the path as ``sitecustomize``: makes this Linux behave like the system in ``PRETENDED``.

``macos``: no affinity of processor cores, no ``O_DIRECT``, no room taken in advance. ``windows``
besides: no ``fork``, ``pwrite``, ``fcntl`` and ``resource``; locks by ``msvcrt``; a file must be
opened for bytes or its line ends change; folders cannot be opened; a name in use cannot be taken by
``rename``, and an open file can neither be replaced nor removed; some signs are not for names.

What cannot be pretended are ``os.name`` and ``sys.platform``: the standard library has asked for
them already. Only stockpot's own calls are judged; its own children pretend the same.
"""

import ctypes
import errno
import os
import pathlib  # noqa: F401  (what follows would confuse their look at the system)
import shutil  # noqa: F401
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
import types

SYSTEM = os.environ.get("PRETENDED", "")
WATCHED = os.environ.get("PRETENDED_UNDER", "/nowhere")
_FORBIDDEN = frozenset('<>:"|?*\\')


def pretend_macos():
    for name in ("sched_getaffinity", "sched_setaffinity", "O_DIRECT", "posix_fallocate"):
        if hasattr(os, name):
            delattr(os, name)


def pretend_windows():
    import fcntl

    pretend_macos()
    sys.modules["msvcrt"] = _msvcrt(fcntl)
    for name in ("fork", "forkpty", "pwrite", "pread", "geteuid", "getuid", "mkfifo", "openpty"):
        if hasattr(os, name):
            delattr(os, name)
    for name in ("fcntl", "resource", "termios", "pwd", "grp"):
        sys.modules[name] = None
    os.O_BINARY = 0x8000  # without effect on Linux
    for name in ("rename", "replace", "unlink", "remove"):
        setattr(os, name, _guarded(name, getattr(os, name)))
    sys.addaudithook(_judge)


def _msvcrt(fcntl):
    """Byte ranges of an open file, locked as Windows does: by the opening, not by the process."""

    class Range(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_short),
            ("whence", ctypes.c_short),
            ("start", ctypes.c_longlong),
            ("length", ctypes.c_longlong),
            ("pid", ctypes.c_int),
        )

    def locking(descriptor, mode, length):
        assert mode == 2
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        wanted = Range(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(descriptor, 37, bytes(wanted))  # F_OFD_SETLK
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    module = types.ModuleType("msvcrt")
    module.LK_NBLCK, module.locking = 2, locking
    return module


def _guarded(name, real):
    def guarded(path, *others, **options):
        if _is_ours(path):
            if _in_use(os.fspath(path)):
                raise PermissionError(errno.EACCES, "another process uses it", os.fspath(path))
            if name == "rename" and os.path.exists(others[0]):
                raise FileExistsError(errno.EEXIST, "it is there already", os.fspath(others[0]))
            if name == "replace" and _in_use(os.fspath(others[0])):
                raise PermissionError(errno.EACCES, "another process uses it", others[0])
        return real(path, *others, **options)

    return guarded


def _is_ours(path):
    try:
        return os.path.abspath(os.fspath(path)).startswith(WATCHED)
    except TypeError:
        return False


def _in_use(path):
    """Whether this process has the file, or one below the folder, open or mapped."""
    path = os.path.abspath(path)
    names = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            names.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        names |= {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    return any(name == path or name.startswith(path + "/") for name in names)


def _judge(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, str | bytes | os.PathLike) or not _is_ours(path):
            return
        _judge_name(path)
        ours = _caller().startswith("stockpot")
        if ours and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a folder cannot be opened", os.fspath(path))
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if ours and mode is None and writes and not flags & os.O_BINARY:
            raise RuntimeError(f"opened without O_BINARY: {path}")
    elif event == "os.mkdir" and _is_ours(arguments[0]):
        _judge_name(arguments[0])


def _caller():
    return sys._getframe(2).f_globals.get("__name__", "")


def _judge_name(path):
    for part in os.path.relpath(os.fspath(path), WATCHED).split(os.sep):
        if part not in (".", "..") and (_FORBIDDEN & set(part) or part[-1:] in (".", " ")):
            raise OSError(errno.EINVAL, "no name for a file here", os.fspath(path))


if SYSTEM == "macos":
    pretend_macos()
elif SYSTEM == "windows":
    pretend_windows()
