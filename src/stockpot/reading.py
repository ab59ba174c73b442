"""Read small files that strangers may have written: plain files, of bounded size and depth.

A pipe never ends, a device is not what its name says, a few bytes of JSON can be nested deeper than
any reader's stack. Each limit is named in the error, so that who needs more knows what to ask for.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.system import BINARY

LARGEST = 64_000_000
"""Bytes of a file that is read as one JSON or YAML value, or as a text."""
DEEPEST = 64
"""Levels of lists and tables inside each other."""

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe, no file"),
    (stat.S_ISCHR, "is a device, no file"),
    (stat.S_ISBLK, "is a device, no file"),
    (stat.S_ISSOCK, "is a socket, no file"),
)
# All but tab and line end.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def open_plain(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a plain file for reading. Raises ``OSError`` for a pipe, device or folder, at once.

    Without ``follow`` a link is refused, too.
    """
    flags = os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "is a link", str(path)) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "is a socket, no file", str(path)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    kind = next((words for test, words in _KINDS if test(mode)), None)
    if kind is not None:
        os.close(descriptor)
        raise OSError(errno.EINVAL, kind, str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, *, limit: int = LARGEST, follow: bool = True) -> bytes:
    """The bytes of a plain file. Raises ``OSError``, also for one of more than ``limit`` bytes."""
    with open_plain(path, follow=follow) as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes, the limit", str(path))
    return data


def read_text(path: Path, *, limit: int = LARGEST, follow: bool = True) -> str:
    """A plain file as UTF-8. Raises ``OSError``, and ``UnicodeDecodeError``."""
    return read_bytes(path, limit=limit, follow=follow).decode("utf-8-sig")


def parse_json(raw: bytes | str) -> Any:
    """A JSON value of at most ``DEEPEST`` levels. Raises ``ValueError`` for anything else."""
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels, the limit") from None
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise ValueError("it holds a number of more than 4300 digits, the limit") from None
        raise
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ``ValueError`` where lists and tables are nested deeper than ``DEEPEST`` levels."""
    nested = (dict, list, tuple)
    level = [value] if isinstance(value, nested) else []
    for _ in range(DEEPEST + 1):
        if not level:
            return
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for item in chain.from_iterable(inner) if isinstance(item, nested)]
    if level:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels, the limit")


def read_json(
    path: Path,
    what: str = "JSON",
    *,
    limit: int = LARGEST,
    follow: bool = True,
    error: type[InputError] = InputError,
) -> Any:
    """The JSON value of a plain file; ``what`` it should be, for the message.

    Raises ``FileNotFoundError`` where there is none, and ``error`` naming the file for one that is
    no plain file, too large, too deep, or no JSON.
    """
    try:
        return parse_json(read_bytes(path, limit=limit, follow=follow))
    except FileNotFoundError:
        raise
    except OSError as wrong:
        raise error(f"{path} cannot be read as {what}: {wrong.strerror or wrong}") from wrong
    except ValueError as wrong:
        raise error(f"{path} cannot be read as {what}: {wrong}") from wrong


def visible(text: str, most: int | None = None) -> str:
    """A text with what cannot be seen, or moves what can, written out; of at most ``most``."""
    shown = HIDDEN.sub(lambda match: _escaped(match.group()), text)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
