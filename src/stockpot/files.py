"""Write files and folders whole or not at all, and name content by its hash."""

from __future__ import annotations

import errno
import glob
import hashlib
import hmac
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from stockpot.errors import InputError, OutputError
from stockpot.system import ASIDE, exchange, is_dead, process_mark, sync

_REASONS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file stands where a folder is needed",
}


_STEM = 180  # characters of a name that its temporaries keep: a name has 255 bytes at most


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating-system error about ``path`` into one that tells the user what to do."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {path}: {reason}", hint="choose another place for the output")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and give it the final name.

    An error leaves nothing behind and whatever ``path`` held before untouched. What a writer that
    was killed has left is removed. Raises ``OutputError`` where the operating system refuses.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise output_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success flush it and give it the final name.

    With ``replace`` an existing folder is exchanged for the new one, so that at every moment the
    old or the new one stands there whole; else it is an ``OutputError``. What a writer that was
    killed has left is removed.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise OutputError(f"{path} exists already", hint="choose another name or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        if path.is_dir() and not path.is_symlink():
            exchange(temporary, path)
        elif os.path.lexists(path):
            raise OutputError(f"{path} is no folder", hint="choose another name or remove it first")
        else:
            temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prefix(path: Path) -> str:
    """How temporaries for ``path`` begin: they say which process may still be writing them."""
    return f".{path.name[:_STEM]}.{process_mark()}-"


def _remove_dead(path: Path) -> None:
    """Remove temporaries for ``path`` of processes of this machine that are no more.

    A folder that one of them had set aside, and put nothing in its place, gets its name back.
    """
    start = f".{path.name[:_STEM]}."
    for entry in path.parent.glob(f"{glob.escape(start)}*.tmp*"):
        mark = entry.name.removeprefix(start).rpartition("-")[0]
        if not is_dead(mark):
            continue
        if entry.name.endswith(ASIDE) and not os.path.lexists(path):
            entry.rename(path)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What ``write_json`` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def below(folder: Path) -> list[Path]:
    """All files, links and folders below a folder, sorted; links are not followed.

    Raises ``InputError`` where a folder cannot be listed, which ``rglob`` leaves out in silence.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be listed: {error.strerror}",
            hint="give yourself the right to read it, or leave it out",
        ) from error

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(home) / name for home, *names in walked for name in chain(*names))


def salted(salt: str, text: str) -> str:
    """HMAC-SHA-256 of ``text`` keyed with ``salt`` (hex), the first 128 bits as hex: who has the
    text can ask whether it is the one, and nobody can read it."""
    return hmac.digest(bytes.fromhex(salt), text.encode(), "sha256").hex()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Where what can be had again is kept: ``STOCKPOT_CACHE``, else stockpot's part of XDG's."""
    chosen = os.environ.get("STOCKPOT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stockpot"
