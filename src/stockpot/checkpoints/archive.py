"""The zip file that PyTorch writes, examined before it is read.

PyTorch believes what the pickle in it says of each storage: mapped into memory, a compressed record
gives other numbers, and one that is too short the bytes of whatever lies behind it. So what the
pickle claims is held against the records first, without calling anything that it names.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from stockpot.errors import CheckpointError
from stockpot.reading import open_plain

GROWTH, SPARE = 50, 64_000_000
"""A file unpacks to ``SPARE`` bytes, or so many times its size, and not to more."""
LARGEST_PICKLE = 32_000_000
"""Bytes of the pickle, which names and describes the tensors and holds none of their numbers."""

_MAGIC = b"PK\x03\x04"
_ALIGNMENT = 8
_WIDTHS = {
    "UntypedStorage": 1,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "QInt32Storage": 4,
}


def is_archive(path: Path) -> bool:
    """Whether a file is a zip file in PyTorch's eyes. Raises ``OSError``."""
    with open_plain(path) as handle:
        return handle.read(4) == _MAGIC


def can_be_mapped(path: Path) -> bool:
    """Whether all records are stored as they are and aligned: others must be read through.

    Raises ``CheckpointError`` for an archive that unpacks out of proportion, whose records overlap
    or contradict each other, or whose pickle claims other sizes than they have.
    """
    with open_plain(path) as handle:
        return examine(path, handle)


def examine(path: Path, handle: BinaryIO) -> bool:
    """``can_be_mapped`` of an archive that is open; ``path`` is for messages."""
    size = handle.seek(0, 2)
    try:
        with zipfile.ZipFile(handle) as archive:
            records = _records(path, archive.infolist(), size)
            claims = _claims(path, archive, records)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is no PyTorch checkpoint: {error}") from None
    for key, width, numel in claims:
        _check_claim(path, records, key, width * numel)
    return all(_is_mappable(path, handle, record) for record in records.values())


def _records(path: Path, listed: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    records = {record.filename: record for record in listed}
    if len(records) < len(listed):
        raise CheckpointError(f"{path} holds a record twice")
    for record in listed:
        if record.flag_bits & 1 or record.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise CheckpointError(
                f"{path}: the record {record.filename!r:.100} is encrypted or compressed in a way "
                "that PyTorch does not write",
                hint="save it again with torch.save",
            )
    if sum(record.compress_size for record in listed) > size:
        raise CheckpointError(f"{path} holds records that overlap")
    unpacked = sum(record.file_size for record in listed)
    if unpacked > max(SPARE, GROWTH * size):
        raise CheckpointError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}: more than {GROWTH} times its "
            f"size and {SPARE:,} bytes, the limit"
        )
    return records


def _claims(
    path: Path, archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo]
) -> list[tuple[str, int, int]]:
    """What the pickle says of the storages: record, bytes of an element, number of elements."""
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        return []  # no state dict; PyTorch says what it is instead
    if records[pickles[0]].file_size > LARGEST_PICKLE:
        raise CheckpointError(
            f"{path}: its pickle is larger than {LARGEST_PICKLE:,} bytes, the limit"
        )
    survey = _Survey(BytesIO(archive.read(pickles[0])))
    try:
        survey.load()
    except Exception as error:  # an unpickler raises whatever the bytes lead to
        raise CheckpointError(
            f"{path} is no PyTorch checkpoint: {str(error) or type(error).__name__}"
        ) from None
    home = pickles[0].removesuffix("data.pkl")
    return [(f"{home}data/{key}", width, numel) for key, width, numel in survey.claims]


def _check_claim(
    path: Path, records: Mapping[str, zipfile.ZipInfo], name: str, nbytes: int
) -> None:
    record = records.get(name)
    if record is None:
        raise CheckpointError(f"{path} lacks the record {name!r:.100}")
    if record.file_size != nbytes:
        raise CheckpointError(
            f"{path}: the record {name!r:.100} has {record.file_size} bytes, its tensors need "
            f"{nbytes}"
        )


def _is_mappable(path: Path, handle: BinaryIO, record: zipfile.ZipInfo) -> bool:
    """Whether a record lies in the file as its numbers would in memory."""
    handle.seek(record.header_offset)
    header = handle.read(30)
    method = int.from_bytes(header[8:10], "little")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    same = handle.read(name).decode("utf-8", "replace") == record.filename
    if len(header) < 30 or header[:4] != _MAGIC or method != record.compress_type or not same:
        raise CheckpointError(
            f"{path}: the record {record.filename!r:.100} is not where the file's directory says"
        )
    if "/data/" not in record.filename or not record.file_size:
        return True
    start = record.header_offset + 30 + name + extra
    return (
        method == zipfile.ZIP_STORED
        and record.compress_size == record.file_size
        and start % _ALIGNMENT == 0
    )


class _Inert:
    """Stands for whatever a pickle names, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """As a list does."""

    def extend(self, items: Any) -> None:
        """As a list does."""

    def add(self, item: Any) -> None:
        """As a set does."""


# Python's own unpickler in Python: that in C takes memory for any number a pickle writes.
class _Survey(pickle._Unpickler):
    """Collects what a pickle says of its storages. Nothing that it names is imported."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.claims: list[tuple[str, int, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        return type(name.rpartition(".")[2] or "nothing", (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        tag, kind, key, _, numel = pid
        width = _WIDTHS.get(kind.__name__)
        if tag != "storage" or width is None:
            raise ValueError(f"a storage of the unknown type {kind.__name__[:40]}")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage whose size is no whole number")
        self.claims.append((str(key), width, numel))
        return _Inert()
