"""Digests of files that were hashed before, recognised as git does: by path, size, times and inode.

Hashing a gigabyte takes half a second, and the same parents are merged again and again. One small
file for each checkpoint lies in the user's cache; losing it costs nothing but the hashing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from stockpot.errors import OutputError
from stockpot.files import cache_folder, write_json
from stockpot.reading import parse_json, read_bytes

# A file changed within the clock's granularity would look unchanged; younger ones are not kept.
_SETTLED = 2_000_000_000


def recall(files: Sequence[Path]) -> str | None:
    """Digest of the checkpoint in ``files``, where they have not changed since it was kept."""
    try:
        kept = parse_json(read_bytes(_place(files)))
        known = kept["files"] == _state(files)
        return str(kept["digest"]) if known else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(files: Sequence[Path], digest: str) -> None:
    """Keep ``digest`` for these files. Where that is not possible, nothing happens."""
    try:
        state = _state(files)
        if all(time.time_ns() - max(entry[2:4]) > _SETTLED for entry in state):
            write_json(_place(files), {"files": state, "digest": digest})
    except (OSError, OutputError):
        return


def _state(files: Sequence[Path]) -> list[list[int]]:
    stats = [file.stat() for file in files]
    return [[s.st_dev, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size] for s in stats]


def _place(files: Sequence[Path]) -> Path:
    paths = "\0".join(str(file.resolve()) for file in files)
    return cache_folder() / "digests" / f"{hashlib.sha256(paths.encode()).hexdigest()}.json"
