"""A file of results on its way into a table: its cells, what was said of it, numbers, units."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stockpot.errors import InputError
from stockpot.ranking.history.metrics import KnownMetric, in_percent, metric_in, resolve
from stockpot.ranking.history.table import Fact, Table
from stockpot.reading import read_text

UNITS = ("auto", "percent", "fraction")
MODEL_COLUMNS = ("model_name", "model", "model_id", "m", "name", "checkpoint")
MISSING = {"", "nan", "na", "n/a", "none", "null", "-"}
# Columns that describe a model, under the names that the rest of the package uses.
FACTS = {
    "base_model": "family",
    "family": "family",
    "architecture": "architecture",
    "model_type": "architecture",
    "size": "parameters",
    "params": "parameters",
    "parameters": "parameters",
    "params (m)": "parameters",
    "flops (b)": "flops",
    "flops": "flops",
    "layers": "layers",
    "mnli_lp": "mnli_lp",
    "pretrained": "pretraining",
    "pretraining": "pretraining",
    "imagenet": "imagenet",
    "preprocessing": "preprocessing",
}
_UNITS = {"params (m)": 1e6, "flops (b)": 1e9}


@dataclass(frozen=True)
class Reading:
    """What the user says of a file, where it does not say it itself.

    metric: what the values measure.
    lower_is_better: None: as the metric's name says.
    unit: of shares (accuracy, error): ``percent``, ``fraction``, or ``auto``.
    facts, ignore: columns that describe models, and columns to leave out.
    zeros_missing: a result of exactly 0 is a missing one.
    """

    metric: str | None = None
    lower_is_better: bool | None = None
    unit: str = "auto"
    facts: Collection[str] = ()
    ignore: Collection[str] = ()
    zeros_missing: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"unit: got '{self.unit}', expected one of {', '.join(UNITS)}")


@dataclass(frozen=True)
class Imported:
    """One file's table. ``reference``: the row that misplaced rows are compared with, if any.

    ``metrics``: column of the table -> task and metric. ``unsaid``: columns of which nothing says
    what they measure; the table has more as better there.
    """

    table: Table
    format: str
    metrics: Mapping[str, tuple[str, str]]
    reference: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


Grid = Sequence[Sequence[str]]
Cells = Mapping[str, Sequence[tuple[str, int]]]
"""Model -> its cells in one column, each with its line."""


@dataclass(frozen=True)
class ResultColumns:
    """What a file's columns hold. ``numbers``: column -> model -> values, several where the model
    stands on several rows; ``pairs``: column -> task and metric; ``groups``: column -> data.
    """

    numbers: Mapping[str, Mapping[str, Sequence[float]]]
    pairs: Mapping[str, tuple[str, str]]
    metrics: Mapping[str, KnownMetric]
    metadata: Mapping[str, Mapping[str, Fact]]
    groups: Mapping[str, str]


@dataclass(frozen=True)
class ResultFile:
    """A CSV file on its way: where it lies, what it is, what was said of it, what is to be noted.

    ``comma``: whether the comma is the decimal sign.
    """

    path: Path
    reading: Reading
    kind: str
    comma: bool = False
    notes: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)

    def number(self, cell: str, line: int, column: str) -> float:
        """A cell's number, nan where it is missing; ``InputError`` for anything else."""
        text = cell.strip()
        if text.lower() in MISSING:
            return math.nan
        value = parsed(text, self.comma)
        if value is None:
            raise InputError(
                f"{self.path}, line {line}, column '{column}': '{text}' is not a number",
                hint="leave the cell empty where there is no result; "
                f"--fact or --ignore '{column}' if the column holds none",
            )
        if math.isinf(value):
            raise InputError(f"{self.path}, line {line}, column '{column}': the value is infinite")
        return math.nan if value == 0 and self.reading.zeros_missing else value


def read_cells(path: Path) -> tuple[list[list[str]], str]:
    """The cells of a CSV file and what divides them: what its first line has most of."""
    try:
        text = read_text(Path(path))
        first = text.lstrip("\n\r").split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in cells if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path} as a CSV file: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path} holds no results", hint="one row a model, one column a task")
    return rows, delimiter


def column_numbers(
    name: str, cells: Cells, metric: KnownMetric, file: ResultFile
) -> dict[str, list[float]]:
    """Model -> the numbers of one column, in one unit.

    ``85%`` beside ``0.9`` is 0.85; without the sign, fractions beside per cent are refused.
    """
    numbers: dict[str, list[float]] = {}
    plain, marked = list[float](), list[float]()
    for model, own in cells.items():
        numbers[model] = []
        for cell, line in own:
            value = file.number(cell, line, name)
            numbers[model].append(value)
            if math.isfinite(value):
                (marked if cell.strip().endswith("%") else plain).append(value)
    if not metric.share:
        return numbers
    unit = file.reading.unit
    if unit == "auto":
        small = [value for value in plain if 0 < abs(value) <= 1]
        large = [value for value in plain if in_percent(abs(value))]
        if small and large and len(small) >= max(2, len(plain) // 10):
            raise InputError(
                f"{file.path}, column '{name}' holds {small[0]:g} and {large[0]:g}: fractions and "
                "per cent do not mix",
                hint="--unit percent if all are per cent, or scale some of them",
            )
        unit = "fraction" if plain and max(map(abs, plain)) <= 1.5 else "percent"
    largest = max((abs(value) for value in plain), default=0.0)
    if largest > (1.5 if unit == "fraction" else 100.0) and file.kind in ("matrix", "long"):
        raise InputError(
            f"{file.path}, column '{name}': no {metric.name} is {largest:g} as a {unit}",
            hint=f"--fact '{name}' or --ignore '{name}' if it holds no results; --metric or --unit "
            "if it does",
        )
    smallest = min([*plain, *marked], default=0.0)
    if smallest < 0 and not metric.signed and file.kind in ("matrix", "long"):
        raise InputError(
            f"{file.path}, column '{name}': no {metric.name} is {smallest:g}",
            hint=f"--ignore '{name}' if it holds no results; --metric if it is another",
        )
    if unit == "fraction" and marked:
        numbers = {
            model: [
                value / 100 if cell.strip().endswith("%") else value
                for value, (cell, _) in zip(own, cells[model], strict=True)
            ]
            for model, own in numbers.items()
        }
    return numbers


def metric_of(task: str, file: ResultFile) -> KnownMetric:
    """What a column of a matrix measures."""
    own = {"mteb": "main_score", "openclip": "zero-shot", "ibm": "accuracy", "vtab": "accuracy"}
    if file.kind in own:
        if file.reading.metric is not None or file.reading.lower_is_better is not None:
            raise InputError(
                f"{file.path} is of format {file.kind}, which measures {own[file.kind]}",
                hint="--format matrix reads it as a plain table",
            )
        return KnownMetric(own[file.kind], lower=False, share=True)
    if file.reading.metric is not None:
        return resolve(file.reading.metric, file.reading.lower_is_better, str(file.path))
    return file_metric(file, task)


def file_metric(file: ResultFile, task: str) -> KnownMetric:
    """The metric that the name of the task or of the file says; unsaid where neither does."""
    lower = file.reading.lower_is_better
    found = metric_in(task) or metric_in(file.path.stem)
    if found is None:
        if lower is None:
            file.unsaid.append(task)
        return KnownMetric("value", bool(lower), share=False)
    return found if lower is None else replace(found, lower=lower)


def directions(metrics: Iterable[KnownMetric]) -> str:
    """Which way the metrics point, in a sentence."""
    known = list(metrics)
    sides = {
        "less": sorted({metric.name for metric in known if metric.lower}),
        "more": sorted({metric.name for metric in known if not metric.lower}),
    }
    said = [f"{side} is better: {listed(names)}" for side, names in sides.items() if names]
    return "; ".join(said)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Some of the names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def parsed(text: str, comma: bool) -> float | None:
    """The number that a cell's text is; None if it is none."""
    plain = text.removesuffix("%").strip()
    if comma and re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", plain):
        plain = plain.replace(",", ".")
    try:
        return float(plain)
    except ValueError:
        return None


def note_fact(own: dict[str, Fact], name: str, cell: str) -> None:
    """Put a cell among a model's facts, as a number where it is one."""
    name = name.strip().lower()
    fact: Fact = cell.strip()
    try:
        number = float(cell)
        fact = number * _UNITS.get(name, 1.0)
    except ValueError:
        pass
    own[FACTS.get(name, name)] = fact
