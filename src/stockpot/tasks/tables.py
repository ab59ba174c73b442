"""Tables: CSV, TSV, JSON Lines and Parquet, one example a row, and what a row says of itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stockpot.errors import TaskError
from stockpot.extras import require
from stockpot.reading import parse_json
from stockpot.tasks.parts import TEST, TRAIN, VALIDATION, part_of
from stockpot.tasks.specs import AUTO
from stockpot.tasks.task import quoted
from stockpot.yaml_lines import suggestion

Row = tuple[int, Mapping[str, Any]]

_LARGEST_CELL = 4_000_000
"""Characters of a text: whole documents stand in tables; Python's own limit is 131,072."""

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class Files(Protocol):
    """The part of a task's specification that names its files."""

    @property
    def path(self) -> str: ...
    @property
    def validation(self) -> str | None: ...
    @property
    def test(self) -> str | None: ...


class Columns(Files, Protocol):
    """The part of a task's specification that says which rows belong where."""

    @property
    def domain(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...


@dataclass(frozen=True)
class Example:
    """A row of a table. ``where``: file and line, for messages; ``folder``: that of the table."""

    where: str
    folder: Path
    row: Mapping[str, Any]
    domain: str
    part: int | None
    group: str | None

    def cell(self, column: str) -> Any:
        """What stands in ``column``; ``TaskError`` where it is not there or empty."""
        return cell(self.row, column, self.where)


def read_examples(spec: Columns, root: Path) -> list[Example]:
    """All rows of a task's tables: those of ``path``, then of ``validation`` and of ``test``.

    The column ``domain`` or ``split`` is looked for where the specification says ``auto``; one that
    is named must be there. Raises ``TaskError`` naming file and line for a missing column, an empty
    domain or group, an unknown split, and files of their own beside a column of splits.
    """
    rows = [
        (part, root / path, line, row)
        for part, path in own_files(spec)
        for line, row in _some_rows(root / path)
    ]
    table = root / spec.path
    tables = [row for *_, row in rows]
    domain = _resolved(spec.domain, "domain", tables)
    split = _resolved(spec.split, "split", tables)
    if split is not None and (spec.validation or spec.test):
        raise TaskError(
            f"{table}: splits are fixed twice, by the column '{split}' and by files of their own",
            hint="set split: null to use the files, or leave out 'validation' and 'test'",
        )
    examples = []
    for part, path, line, row in rows:
        where = f"{path}, line {line}"
        name = table.stem if domain is None else _name(row, domain, where)
        if split is not None:
            part = part_of(
                cell(row, split, where),
                f"{where}: column '{split}'",
                hint="set split: null to ignore the column",
            )
        group = None if spec.group is None else _name(row, spec.group, where)
        examples.append(Example(where, path.parent, row, name, part, group))
    return examples


def own_files(spec: Files) -> list[tuple[int | None, str]]:
    """The part that each file of a task holds (None: not said), and its path."""
    if spec.validation is None and spec.test is None:
        return [(None, spec.path)]
    files = [(TRAIN, spec.path), (VALIDATION, spec.validation), (TEST, spec.test)]
    return [(part, path) for part, path in files if path is not None]


def _some_rows(path: Path) -> Iterator[Row]:
    count = 0
    for row in read_rows(path):
        count += 1
        yield row
    if not count:
        raise TaskError(f"{path}: no examples")


def _resolved(column: str | None, usual: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column to read: ``usual`` where any row has it, if the choice is left to us."""
    if column != AUTO:
        return column
    return usual if any(usual in row for row in rows) else None


def _name(row: Mapping[str, Any], column: str, where: str) -> str:
    name = str(cell(row, column, where)).strip()
    if not name:
        raise TaskError(f"{where}: column '{column}' is empty")
    return name


def read_rows(path: Path) -> Iterator[Row]:
    """(line number, row) of each example of a table; a row maps column to value."""
    readers = dict(
        zip(ENDINGS, (_read_csv, _read_csv, _read_jsonl, _read_jsonl, _read_parquet), strict=True)
    )
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{path}: unknown kind of table; known endings: {quoted(list(readers))}")
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path}{_first_bad_line(path)}: not UTF-8 text",
            hint=f"if it is Latin-1: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}",
        ) from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error


def _first_bad_line(path: Path) -> str:
    """Where a file stops to be UTF-8; a decoder counts from the beginning of its buffer."""
    with path.open("rb") as handle:
        for line, content in enumerate(handle, start=1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return f", line {line}"
    return ""


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        first = handle.readline()
        handle.seek(0)
        # Without a comma in it, a heading is divided by the semicolon of half of Europe.
        delimiter = ";" if ";" in first and "," not in first else ","
        delimiter = "\t" if path.suffix.lower() == ".tsv" else delimiter
        csv.field_size_limit(_LARGEST_CELL)
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
                row = parse_json(text)
            except ValueError as error:
                reason = getattr(error, "msg", None) or error
                raise TaskError(f"{path}, line {line}: not JSON: {reason}") from error
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


def cell(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value of a column; ``TaskError`` where it is not there or empty."""
    if column not in row:
        raise TaskError(
            f"{where}: no column '{column}'; the columns are {quoted(list(row))}"
            f"{suggestion(column, list(row))}"
        )
    value = row[column]
    if value is None or value == "":
        raise TaskError(f"{where}: column '{column}' is empty")
    return value
