"""Failures of what is outside the program, as one line each: disks, networks, other services.

Only what a library raises because of its surroundings is taken for that; an error of our own keeps
its traceback.
"""

from __future__ import annotations

import errno
import sqlite3

from stockpot.errors import InputError, OutputError, StockpotError
from stockpot.reading import visible

AGAIN = "once that is put right, run the same command again"
"""The next step where a disk failed and nothing better is known."""
_SERVICES = {
    "botocore": "the object store",
    "aiobotocore": "the object store",
    "s3fs": "the object store",
    "gcsfs": "the object store",
    "adlfs": "the object store",
    "aiohttp": "the network",
    "httpx": "the network",
    "httpx2": "the network",
    "httpcore": "the network",
    "httpcore2": "the network",
    "requests": "the network",
    "urllib3": "the network",
    "huggingface_hub": "the hub",
    "ray": "Ray",
}
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
_LONGEST = 500
"""Characters of a path that are shown."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def outside(error: BaseException) -> StockpotError | None:
    """What to say of an error that came from outside; None for one that is ours."""
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return InputError(str(error), hint="choose another path")  # pathlib's, before Python 3.13
    if isinstance(error, sqlite3.Error):
        return OutputError(
            f"a database cannot be used: {error}",
            hint="stockpot registry reindex makes a registry's index anew",
        )
    if isinstance(error, MemoryError):
        return StockpotError(
            f"there is not enough memory{f': {error}' if str(error) else ''}",
            hint="take smaller models, or a machine with more memory",
        )
    service = _SERVICES.get(type(error).__module__.partition(".")[0])
    if service is None:
        return None
    reason = " ".join(str(error).split()) or type(error).__name__
    return StockpotError(f"{service} failed: {reason}", hint="try again later")


def _of_system(error: OSError) -> StockpotError:
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    names = [name for name in (error.filename, error.filename2) if name is not None]
    place = " and ".join(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )
    what = f"{visible(place, _LONGEST)}: {reason}" if place else f"the system refuses: {reason}"
    if error.errno in _UNUSABLE:
        return InputError(what, hint="choose another path")
    if error.errno in _FULL:
        return OutputError(what, hint="make room, or choose another place for the output")
    if isinstance(error, PermissionError):
        return OutputError(what, hint="you may not do that there; choose another place")
    return StockpotError(what, hint=AGAIN)
