"""What a model is to predict: texts, images or arrays, from memory, a file or a folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import InputError, TaskError
from stockpot.reading import read_bytes
from stockpot.tasks.arrays import read_npy, read_npz
from stockpot.tasks.image_files import SUFFIXES
from stockpot.tasks.images import decode_all, refuse_corrupt, require_pillow
from stockpot.tasks.tables import ENDINGS, read_rows
from stockpot.tasks.task import quoted


@dataclass(frozen=True)
class Inputs:
    """Rows in order. ``names``: how each is called in an output: its text, path or number.
    ``source``: how they are called in an error.

    ``values``: texts; paths or encoded bytes of images; or an array (N, ...) that a backbone takes
    as it is.
    """

    values: Any
    names: tuple[str, ...]
    source: str = "the inputs"

    def __len__(self) -> int:
        return len(self.names)


def read_inputs(source: Any, modality: str, text: str | None = None) -> Inputs:
    """Rows of ``source`` for a model of ``modality`` ("text", "image", "array").

    A string or path names a file or folder: a table (column ``text``), a ``.txt`` file with a text
    a line, a folder of images, one image, an ``.npz`` file with ``inputs`` or an ``.npy`` file. A
    sequence holds texts, or paths of images; an array holds pixels (N, H, W, 3) or numbers.

    Raises ``InputError`` naming file, line or row.
    """
    if isinstance(source, str | Path):
        return _from_path(Path(source), modality, text)
    if isinstance(source, np.ndarray):
        if modality == "text":
            raise InputError(f"the model takes texts, got an array of shape {source.shape}")
        return Inputs(source, _numbered(len(source)))
    rows = list(source)
    if modality == "text":
        for row, value in enumerate(rows):
            if not isinstance(value, str):
                raise InputError(f"row {row} is {type(value).__name__}, expected a text")
        return Inputs(rows, tuple(rows))
    if modality == "image":
        for row, value in enumerate(rows):
            if not isinstance(value, str | Path | bytes):
                raise InputError(
                    f"row {row} is {type(value).__name__}, expected the path or bytes of an image"
                )
        numbered = _numbered(len(rows))
        names = [n if isinstance(v, bytes) else str(v) for v, n in zip(rows, numbered, strict=True)]
        return Inputs([Path(v) if isinstance(v, str) else v for v in rows], tuple(names))
    return Inputs(np.asarray(rows, dtype=np.float32), _numbered(len(rows)))


def read_lines(data: bytes, where: str) -> Inputs:
    """A text a line, so that row N is line N. Raises ``InputError`` naming a line without one."""
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error
    texts = text.removesuffix("\n").split("\n")
    for line, each in enumerate(texts, 1):
        if not each.strip():
            raise InputError(f"{where}, line {line}: no text", hint="remove empty lines")
    return Inputs(texts, tuple(texts), where)


def decode(values: Sequence[Path | bytes], names: Sequence[str], size: int, resize: Any) -> Any:
    """Images as uint8 (N, size, size, 3), as in training."""
    require_pillow()
    pixels, bad = decode_all(values, names, size, resize)  # type: ignore[arg-type]
    refuse_corrupt(bad, hint="replace or remove it")
    return pixels


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _from_path(path: Path, modality: str, text: str | None) -> Inputs:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", hint="check the path")
    if modality == "image":
        return _images(path)
    if modality == "array":
        return _array(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, and the model takes texts", hint="name a file")
    if path.suffix.lower() == ".txt":
        return read_lines(_bytes(path), str(path))
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: no kind of table", hint=f"known: .txt, {', '.join(ENDINGS)}")
    return _texts(path, text)


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _texts(path: Path, column: str | None) -> Inputs:
    texts = []
    for line, row in read_rows(path):
        name = column or ("text" if "text" in row or len(row) != 1 else next(iter(row)))
        if name not in row:
            raise TaskError(
                f"{path}, line {line}: no column '{name}'",
                hint=f"its columns are {quoted(list(row))}; say which one holds the texts: "
                "--text COLUMN",
            )
        if not isinstance(row[name], str) or not row[name].strip():
            raise TaskError(f"{path}, line {line}: column '{name}' holds no text")
        texts.append(row[name])
    if not texts:
        raise InputError(f"{path}: no rows")
    return Inputs(texts, tuple(texts), str(path))


def _images(path: Path) -> Inputs:
    if path.suffix.lower() in (".npz", ".npy"):
        return _array(path)
    if path.is_file():
        if path.suffix.lower() in (".txt", *ENDINGS):
            raise InputError(
                f"{path} is no image, and the model takes images",
                hint="name an image, a folder of images, or an .npy or .npz file of pixels",
            )
        return Inputs([path], (str(path),), str(path))
    files = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in SUFFIXES]
    files = [each for each in files if each.is_file() and not each.name.startswith(".")]
    if not files:
        raise InputError(f"{path}: no images in this folder")
    return Inputs(files, tuple(each.relative_to(path).as_posix() for each in files), str(path))


def _array(path: Path) -> Inputs:
    try:
        npz = path.suffix.lower() == ".npz"
        values = read_npz(path)["inputs"] if npz else read_npy(path)
    except (TaskError, KeyError) as error:
        reason = f": {error.message}" if isinstance(error, TaskError) else ""
        raise InputError(
            f"{path}: no array of inputs{reason}",
            hint="the model takes an .npy file, or an .npz file with an array 'inputs'",
        ) from error
    if values.dtype.kind not in "fiub" or not values.ndim:
        raise InputError(f"{path}: inputs of shape {values.shape} and type {values.dtype}")
    return Inputs(values, _numbered(len(values)), str(path))
