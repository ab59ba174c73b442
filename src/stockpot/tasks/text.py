"""Text tables: CSV, TSV, JSON Lines and Parquet, one example a row."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import TaskError
from stockpot.extras import require
from stockpot.files import digest
from stockpot.tasks.specs import TextSpec
from stockpot.tasks.task import Array, Task, build_task, check_domains, quoted

SIGNS = ("negative", "positive")

Row = tuple[int, Mapping[str, Any]]


def load_text(spec: TextSpec, root: Path) -> Task:
    """The rows of a table as a task; texts are kept as they are.

    Domains are in order of first appearance. Classes are sorted, by number where all are whole
    numbers. Raises ``TaskError`` naming file and line for a missing column, an empty text, domain
    or label, a label that is not a class or a finite number, and a file that is not what its
    ending says.
    """
    path = root / spec.path
    texts: list[str] = []
    raw: list[Any] = []
    domains: list[str] = []
    lines: list[int] = []
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        text = _cell(row, spec.text, where)
        label = _cell(row, spec.label, where)
        domain = path.stem if spec.domain is None else str(_cell(row, spec.domain, where)).strip()
        if not isinstance(text, str) or not text.strip():
            raise TaskError(f"{where}: column '{spec.text}' holds no text")
        if not domain:
            raise TaskError(f"{where}: column '{spec.domain}' is empty")
        texts.append(text)
        raw.append(label)
        domains.append(domain)
        lines.append(line)
    names = list(dict.fromkeys(domains))
    if spec.domains is not None:
        check_domains(spec.name or path.stem, spec.domains, names)
        names = spec.domains
    labels, classes, kept = _labels(spec, path, raw, lines)
    rows = [i for i in kept if domains[i] in names]
    texts = [texts[i] for i in rows]
    ids = np.array([names.index(domains[i]) for i in rows], dtype=np.int64)
    labels = labels[rows]
    return build_task(
        name=spec.name or path.stem,
        kind="regression" if spec.target == "regression" else "classification",
        modality="text",
        domains=names,
        classes=classes,
        inputs=texts,
        labels=labels,
        domain_ids=ids,
        fingerprint=digest(
            ["text", texts, labels.tolist(), ids.tolist(), list(names), list(classes)]
        ),
        where=str(path),
        allow_missing_classes=spec.allow_missing_classes,
    )


def read_rows(path: Path) -> Iterator[Row]:
    """(line number, row) of each example of a table; a row maps column to value."""
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{path}: unknown kind of table; known endings: {quoted(list(readers))}")
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_csv(path: Path) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            if not header:
                raise TaskError(f"{path}: empty; the first line must name the columns")
            if len(set(header)) < len(header):
                raise TaskError(f"{path}, line 1: a column name is used twice: {quoted(header)}")
            start = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(header):
                    raise TaskError(
                        f"{path}, line {start}: {len(values)} values, expected {len(header)}"
                    )
                if values:
                    yield start, dict(zip(header, values, strict=True))
                start = reader.line_num + 1
        except csv.Error as error:
            raise TaskError(f"{path}, line {reader.line_num}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as handle:
        for line, text in enumerate(handle, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise TaskError(f"{path}, line {line}: not JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise TaskError(f"{path}, line {line}: expected an object, got {text.strip()[:40]}")
            yield line, row


def _read_parquet(path: Path) -> Iterator[Row]:
    require("pyarrow", "reading Parquet")
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise TaskError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error
    yield from enumerate(rows, start=1)


def _cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise TaskError(f"{where}: no column '{column}'; the columns are {quoted(list(row))}")
    value = row[column]
    if value is None or value == "":
        raise TaskError(f"{where}: column '{column}' is empty")
    return value


def _labels(
    spec: TextSpec, path: Path, raw: list[Any], lines: list[int]
) -> tuple[Array, tuple[str, ...], list[int]]:
    """Labels of all rows, class names, and the rows to keep."""
    everything = list(range(len(raw)))
    if spec.target == "classification":
        return *_classes(spec, path, raw, lines), everything
    numbers = np.array(
        [_number(value, f"{path}, line {line}") for value, line in zip(raw, lines, strict=True)],
        dtype=np.float64,
    )
    if spec.target == "regression":
        return numbers.astype(np.float32), (), everything
    kept = [i for i in everything if numbers[i] != 0 and abs(numbers[i]) >= spec.margin]
    return (numbers > 0).astype(np.int64), SIGNS, kept


def _classes(
    spec: TextSpec, path: Path, raw: list[Any], lines: list[int]
) -> tuple[Array, tuple[str, ...]]:
    names: list[str] = []
    for value, line in zip(raw, lines, strict=True):
        where = f"{path}, line {line}"
        if isinstance(value, list | dict | float):
            raise TaskError(
                f"{where}: label {value!r} is not the name of a class",
                hint="for numbers set target: regression, or target: sign",
            )
        names.append(str(value).strip())
    classes = spec.classes or class_order(names)
    index = {name: i for i, name in enumerate(classes)}
    for name, line in zip(names, lines, strict=True):
        if name not in index:
            raise TaskError(
                f"{path}, line {line}: label '{name}' is not one of the classes {quoted(classes)}"
            )
        if spec.classes is None and "." in name and _is_number(name):
            raise TaskError(
                f"{path}, line {line}: label '{name}' is a number, not the name of a class",
                hint="set target: regression, or target: sign",
            )
    return np.array([index[name] for name in names], dtype=np.int64), tuple(classes)


def class_order(names: list[str]) -> list[str]:
    """The distinct names, sorted; by number where all are whole numbers."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TaskError(f"{where}: label {value!r} is not a number") from None
    if not math.isfinite(number):
        raise TaskError(f"{where}: label {value!r} is not finite")
    return number
