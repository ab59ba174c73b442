"""Arrays in an ``.npz`` file, and the checks that every array of examples must pass."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stockpot.errors import TaskError
from stockpot.files import digest
from stockpot.reading import open_plain
from stockpot.tasks.duplicates import contents_of, count_shared, sides_of
from stockpot.tasks.labels import class_order
from stockpot.tasks.parts import fixed_parts, part_of
from stockpot.tasks.specs import ArraySpec
from stockpot.tasks.tables import own_files
from stockpot.tasks.task import Array, Modality, Task, build_task, check_domains, quoted

GROWTH, SPARE = 200, 64_000_000
"""An array unpacks to ``SPARE`` bytes, or so many times its size in the file, and not to more."""
CLASSES = 100_000
"""Classes that labels without names may have."""
ROWS = ("inputs", "labels", "domains", "splits", "groups")
"""Arrays with an entry for each example; the first two must be there."""


def load_arrays(spec: ArraySpec, root: Path) -> Task:
    """Arrays of ``.npz`` files as a task.

    ``inputs`` (N, ...) and ``labels`` (N,) must be there, ``domains``, ``splits`` and ``groups``
    (N,) may. uint8 inputs of shape (N, H, W, 3) become images, other real numbers float32. Labels
    are whole numbers in [0, number of classes) or strings; the class names are ``classes`` where
    the file has them. Nothing pickled is read.

    Raises ``TaskError`` naming file, array and row.
    """
    path = root / spec.path
    stored, parts, names = _read_all(spec, root)
    inputs, modality = check_inputs(stored["inputs"], str(path))
    size = len(inputs)
    texts = [str(name) for name in stored.get("domains", np.full(size, path.stem)).tolist()]
    domains = class_order(texts)
    if spec.domains is not None:
        check_domains(spec.name or path.stem, spec.domains, domains)
        domains = spec.domains
    if spec.target == "regression":
        labels = check_numbers(stored["labels"], str(path))
        classes: tuple[str, ...] = ()
    else:
        labels, classes = check_labels(stored["labels"], stored.get("classes"), str(path))
    rows = np.array([i for i, name in enumerate(texts) if name in domains], dtype=np.int64)
    inputs, labels = inputs[rows], labels[rows]
    ids = np.array([domains.index(texts[i]) for i in rows], dtype=np.int64)
    splits = None if parts is None else parts[rows]
    return build_task(
        name=spec.name or path.stem,
        kind=spec.target,
        modality=modality,
        domains=domains,
        classes=classes,
        inputs=inputs,
        labels=labels,
        domain_ids=ids,
        fingerprint=array_fingerprint(inputs, labels, ids, domains, classes),
        where=str(path),
        allow_missing_classes=spec.allow_missing_classes,
        splits=splits,
        groups=stored["groups"].astype(str)[rows] if "groups" in stored else None,
        shared=count_shared(
            contents_of(inputs),
            sides_of(splits, domains, ids, classes, labels),
            str(path),
            lambda row: names[rows[row]],
            spec.duplicates,
        ),
    )


def _read_all(spec: ArraySpec, root: Path) -> tuple[dict[str, Array], Array | None, list[str]]:
    """All files of a task as one, the part of each example where it is fixed, and its name."""
    own = own_files(spec)
    files = [(part, root / path, read_npz(root / path)) for part, path in own]
    stored = dict(files[0][2])
    parts: list[int | None] = []
    names = [name for name in ROWS if name in stored]
    for part, path, arrays in files:
        _check_rows(path, arrays, names)
        if part is None and "splits" in arrays:
            places = enumerate(arrays["splits"].tolist())
            parts += [part_of(name, f"{path}: 'splits' row {row}") for row, name in places]
        elif "splits" in arrays:
            raise TaskError(
                f"{path}: splits are fixed twice, by its array 'splits' and by files of their own"
            )
        else:
            parts += [part] * len(arrays["inputs"])
    if len(files) > 1:
        try:
            stored |= {name: np.concatenate([a[name] for _, _, a in files]) for name in names}
        except ValueError as error:
            paths = quoted([str(path) for _, path, _ in files])
            raise TaskError(f"{paths} cannot be joined: {error}") from error
    rows = [f"{path} row {row}" for _, path, own in files for row in range(len(own["labels"]))]
    return stored, fixed_parts(parts), rows


def _check_rows(path: Path, arrays: dict[str, Array], names: Sequence[str]) -> None:
    """``TaskError`` unless the arrays that have one entry an example are there and agree."""
    needed = list(dict.fromkeys(("inputs", "labels", *names)))
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise TaskError(f"{path}: no array '{missing[0]}'; it must have {quoted(needed)}")
    size = len(arrays["inputs"]) if arrays["inputs"].ndim else 0
    for name in ROWS[1:]:
        if name in arrays and arrays[name].shape != (size,):
            raise TaskError(
                f"{path}: '{name}' has shape {arrays[name].shape}, expected ({size},) as 'inputs'"
            )


def array_fingerprint(
    inputs: Array,
    labels: Array,
    domain_ids: Array,
    domains: list[str] | tuple[str, ...],
    classes: list[str] | tuple[str, ...],
) -> str:
    """SHA-256 over bytes, shapes and names."""
    total = hashlib.sha256()
    for array in (inputs, labels, domain_ids):
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    total.update(digest([list(domains), list(classes)]).encode())
    return total.hexdigest()


def check_inputs(inputs: Array, where: str) -> tuple[Array, Modality]:
    """Images as they are, anything else as finite float32; ``TaskError`` otherwise."""
    if inputs.ndim == 4 and inputs.shape[-1] == 3 and inputs.dtype == np.uint8:
        return inputs, "image"
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiub":
        raise TaskError(
            f"{where}: 'inputs' has shape {inputs.shape} and dtype {inputs.dtype}; "
            "expected real numbers of shape (N, ...)"
        )
    with np.errstate(over="ignore"):
        numbers = inputs.astype(np.float32)
    finite = np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    if not finite.all():
        raise TaskError(f"{where}: 'inputs' row {int(np.argmin(finite))} is not finite in float32")
    return numbers, "array"


def check_numbers(labels: Array, where: str) -> Array:
    """Labels of a regression as finite float32."""
    if labels.dtype.kind not in "fiu":
        raise TaskError(f"{where}: 'labels' has dtype {labels.dtype}, expected numbers")
    numbers = labels.astype(np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        raise TaskError(f"{where}: 'labels' row {int(np.argmin(finite))} is not finite")
    return numbers


def check_labels(labels: Array, classes: Array | None, where: str) -> tuple[Array, tuple[str, ...]]:
    """Labels of a classification as int64 in [0, number of classes), and the class names."""
    names = None if classes is None else [str(name) for name in classes.tolist()]
    if labels.dtype.kind == "U":
        texts = labels.tolist()
        names = names or class_order(texts)
        for row, text in enumerate(texts):
            if text not in names:
                raise TaskError(f"{where}: 'labels' row {row}: '{text}' is not a class")
        return np.array([names.index(text) for text in texts], dtype=np.int64), tuple(names)
    if labels.dtype.kind not in "iu":
        raise TaskError(
            f"{where}: 'labels' has dtype {labels.dtype}, expected whole numbers or strings",
            hint="for numbers to be predicted set target: regression",
        )
    count = len(names) if names is not None else int(labels.max(initial=-1)) + 1
    if count > CLASSES:
        raise TaskError(f"{where}: 'labels' go up to {count - 1}, {CLASSES:,} classes is the limit")
    outside = (labels < 0) | (labels >= count)
    if outside.any():
        row = int(np.argmax(outside))
        raise TaskError(f"{where}: 'labels' row {row} is {labels[row]}, outside 0 to {count - 1}")
    return labels.astype(np.int64), tuple(names or (str(i) for i in range(count)))


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name. Raises ``TaskError`` for one that is none, or whose
    arrays are larger than the file can hold them.
    """
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    try:
        with open_plain(path) as handle:
            if handle.read(6) == np.lib.format.MAGIC_PREFIX:
                raise TaskError(f"{path}: one array, expected an .npz file with several")
            handle.seek(0)
            with zipfile.ZipFile(handle) as archive:
                _check_sizes(path, archive)
            handle.seek(0)
            stored = np.load(handle, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
    except TaskError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever they meet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"{path}: not an .npz file of plain arrays: {reason}") from error


def read_npy(path: Path) -> Array:
    """The array of an ``.npy`` file. Raises ``TaskError`` as ``read_npz`` does."""
    try:
        with open_plain(path) as handle:
            found: Array = np.lib.format.read_array(handle, allow_pickle=False)
            return found
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"{path}: not an .npy file of a plain array: {reason}") from error


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """``TaskError`` for arrays that are larger than the archive can hold them, before any is read.

    An array has at most as many bytes as its record unpacks to, and a record at most ``GROWTH``
    times its size in the file.
    """
    names = [record.filename for record in archive.infolist()]
    if len(set(names)) < len(names):
        raise TaskError(f"{path}: an array stands twice in it")
    for record in archive.infolist():
        if record.file_size > max(SPARE, GROWTH * record.compress_size):
            raise TaskError(
                f"{path}: {record.filename!r:.100} unpacks to {record.file_size:,} bytes, more "
                f"than {GROWTH} times its size and {SPARE:,} bytes, the limit"
            )
        with archive.open(record) as handle:
            version = np.lib.format.read_magic(handle)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version not in readers:
                continue  # numpy says what it is
            shape, _, dtype = readers[version](handle)
        if math.prod(shape) * dtype.itemsize > record.file_size:
            raise TaskError(
                f"{path}: {record.filename!r:.100} says shape {shape!r:.100} of {dtype}, and has "
                f"{record.file_size:,} bytes"
            )
