"""Take named files out of zip and tar archives, and nothing else."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from stockpot.errors import UnsafeFileError

LIMIT = 512 * 2**20

Opener = Callable[[], IO[bytes]]


def unpack(archive: Path, prefix: str, target: Path) -> list[Path]:
    """Write the regular files below ``prefix`` of a zip or tar archive into ``target``.

    Links and devices are left out. Raises ``UnsafeFileError`` for a path that leaves the folder,
    more than 512 MiB, or where nothing stands below ``prefix``.
    """
    written: list[Path] = []
    total = 0
    with _members(archive) as members:
        for name, size, open_member in members:
            if not name.startswith(prefix):
                continue
            relative = PurePosixPath(name[len(prefix) :])
            if relative.is_absolute() or ".." in relative.parts or not relative.parts:
                raise UnsafeFileError(f"{archive}: the entry '{name}' leads out of its folder")
            total += size
            if total > LIMIT:
                raise UnsafeFileError(f"{archive}: more than {LIMIT >> 20} MiB below '{prefix}'")
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            written.append(path)
    if not written:
        raise UnsafeFileError(f"{archive}: nothing below '{prefix}'")
    return written


def read_member(archive: Path | bytes, name: str) -> bytes:
    """The bytes of one file of an archive, given as a path or as bytes."""
    with _members(archive) as members:
        for member, size, open_member in members:
            if member == name:
                if size > LIMIT:
                    raise UnsafeFileError(f"'{name}' unpacks to {size} bytes")
                with open_member() as source:
                    return source.read()
    raise UnsafeFileError(
        f"no file '{name}' in {'the archive' if isinstance(archive, bytes) else archive}"
    )


@contextmanager
def _members(archive: Path | bytes) -> Iterator[Iterator[tuple[str, int, Opener]]]:
    source: IO[bytes] = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    with source:
        zip_magic = source.read(4) == b"PK\x03\x04"
        source.seek(0)
        if zip_magic:
            with zipfile.ZipFile(source) as zipped:
                yield _zip_members(zipped)
        else:
            with tarfile.open(fileobj=source) as tarred:
                yield _tar_members(tarred)


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[tuple[str, int, Opener]]:
    for entry in zipped.infolist():
        link = (entry.external_attr >> 16) & 0o170000 == 0o120000
        if not entry.is_dir() and not link:
            yield entry.filename, entry.file_size, lambda entry=entry: zipped.open(entry)  # type: ignore[misc]


def _tar_members(tarred: tarfile.TarFile) -> Iterator[tuple[str, int, Opener]]:
    for entry in tarred:
        if entry.isreg():

            def open_entry(entry: tarfile.TarInfo = entry) -> IO[bytes]:
                source = tarred.extractfile(entry)
                assert source is not None  # regular files always open
                return source

            yield entry.name, entry.size, open_entry
