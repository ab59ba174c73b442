"""Whose work counts when a job is tried again while an earlier attempt may still be running.

A machine that was given up for lost may only have been cut off, and its process may go on writing.
So every attempt works in a folder of its own name, and begins by renaming the folder of the attempt
before it: it goes on from what is there, and to the one before, its folder is gone. Renaming is
atomic, so one of several attempts wins and the others fail. A job counts as done when the run that
submitted it has taken the folder of the attempt whose answer it got.

::

    partial/<key>                  made by the run, before any attempt
    partial/<key>~0001-3f9a2c      the first attempt
    partial/<key>~0002-b07e11      the second, with what the first had done
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from stockpot.errors import JobError

_TRIES = 40
_PAUSE = 0.01  # seconds


def attempts(folder: Path) -> list[Path]:
    """Folders of a job's attempts, oldest first; ``folder`` itself where it is there."""
    begun = sorted(folder.parent.glob(f"{folder.name}~*"))
    return [folder, *begun] if folder.is_dir() else begun


def take_over(folder: Path) -> Path:
    """Take over a job's latest folder; returns the path that only this attempt knows.

    Raises ``JobError`` where this machine sees no such folder.
    """
    for _ in range(_TRIES):
        known = attempts(folder)
        if not known:
            # A listing may miss a folder that another attempt renames meanwhile.
            time.sleep(_PAUSE)
            continue
        number = _number(known[-1]) + 1
        mine = folder.with_name(f"{folder.name}~{number:04d}-{secrets.token_hex(3)}")
        try:
            known[-1].rename(mine)
        except FileNotFoundError:
            continue  # another attempt was faster
        return mine
    raise JobError(
        f"this machine does not see {folder}",
        hint="put the output on storage that all machines mount under the same path",
    )


def settle(folder: Path) -> None:
    """Make ``folder``, with what the latest attempt of an earlier run has left."""
    known = attempts(folder)
    if not known:
        folder.mkdir(parents=True, exist_ok=True)
    elif known[-1] != folder:
        shutil.rmtree(folder, ignore_errors=True)
        known[-1].rename(folder)


def forget(folder: Path) -> None:
    """Remove what is left of a job's attempts."""
    for old in attempts(folder):
        shutil.rmtree(old, ignore_errors=True)


def _number(attempt: Path) -> int:
    _, mark, rest = attempt.name.rpartition("~")
    return int(rest.partition("-")[0]) if mark else 0
