"""Read result files of others: plain matrices, IBM model-recycling, MTEB, open_clip, VTAB.

What each looks like at its source:

- ``ibm``: ``results/*_table.csv`` (per base, percent; first row is the base, averaged over runs)
  and ``results/models_tested.csv`` (all bases, 0..1, with size, layers and ``mnli_lp``) of
  github.com/IBM/model-recycling.
- ``mteb``: a folder ``model/revision/Task.json`` as in github.com/embeddings-benchmark/results, or
  a matrix in CSV. The value is ``main_score``, mean over the subsets of the test split.
- ``openclip``: ``docs/openclip_results.csv`` of github.com/mlfoundations/open_clip.
- ``vtab``: ``docs/data/results.csv`` of github.com/google-research/task_adaptation: three heading
  lines, 19 data sets with 1,000 and with all training examples.
- ``matrix``: any CSV, one row a model, one column a task, first column the name. Empty, ``nan``,
  ``NA`` or ``-`` means missing. Columns named ``data@variant`` are about the same data.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.history.table import Fact, Table

FORMATS = ("auto", "matrix", "ibm", "mteb", "openclip", "vtab")
# Folders of results whose model has no revision by hash.
_REVISIONS = {"external", "no_revision_available"}
_MISSING = {"", "nan", "na", "n/a", "none", "null", "-"}
_MODEL_COLUMNS = ("model_name", "model", "m", "name")
_IBM_TASKS = {"mnli", "esnli", "tweet_ev_emoji", "20_newsgroup", "wnli"}
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
_IGNORED = {"avg", "average", "average perf. on 38 datasets", "tokenizer", "classification"}
_IGNORED |= {"from_flax", "from_tf", "last_modified", "hyper_sweep_size"}


@dataclass(frozen=True)
class Imported:
    """One file's table. ``reference``: the row that misplaced rows are compared with, if any."""

    table: Table
    format: str
    metric: str
    reference: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_results(path: Path, format: str = "auto") -> Imported:
    """Read ``path`` (a CSV file, or a folder of MTEB results) in a format of :data:`FORMATS`.

    Raises ``InputError``: no such file, unknown or other format, a cell that is no number (with
    its line and column), or no results at all.
    """
    path = Path(path)
    if format not in FORMATS:
        raise InputError(f"unknown format '{format}'", hint=f"choose one of: {', '.join(FORMATS)}")
    if path.is_dir():
        if format not in ("auto", "mteb"):
            raise InputError(f"{path} is a folder; format '{format}' is a CSV file")
        return _mteb_folder(path)
    rows = read_rows(path)
    kind = _recognise(rows) if format == "auto" else format
    if kind == "vtab":
        rows, groups = _flat_vtab(rows, path)
        return _from_rows(rows, path, kind, groups)
    return _from_rows(rows, path, kind, {})


def read_rows(path: Path) -> list[list[str]]:
    """The cells of a CSV file; ``InputError`` where it cannot be read or holds no rows."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path} as a CSV file: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path} holds no results", hint="one row a model, one column a task")
    return rows


def read_metadata(path: Path) -> dict[str, dict[str, Fact]]:
    """Facts of models from a CSV file: first column the model, one column a fact."""
    heading, *rows = read_rows(path)
    facts: dict[str, dict[str, Fact]] = {}
    for row in rows:
        own = facts.setdefault(row[0].strip(), {})
        for name, cell in zip(heading[1:], row[1:], strict=False):
            if cell.strip().lower() not in _MISSING:
                _note_fact(own, name, cell)
    return facts


def _recognise(rows: Sequence[Sequence[str]]) -> str:
    heading = {cell.strip() for cell in rows[0]}
    if rows[0][0] == "train_examples_if_subset":
        return "vtab"
    if len(heading & _IBM_TASKS) >= 4:
        return "ibm"
    if {"ImageNet 1k", "WinoGAViL"} <= heading:
        return "openclip"
    if len({"ArguAna", "AlphaNLI", "ARCChallenge", "Banking77Classification"} & heading) >= 2:
        return "mteb"
    return "matrix"


def _from_rows(
    rows: Sequence[Sequence[str]], path: Path, kind: str, groups: Mapping[str, str]
) -> Imported:
    heading = [cell.strip() for cell in rows[0]]
    name_column = _name_column(heading)
    key = [name_column]
    if kind == "openclip" and {"name", "pretrained"} <= set(heading):
        key.append(heading.index("pretrained"))
    tasks: list[int] = []
    facts: list[int] = []
    for index, name in enumerate(heading):
        if index in key[:1] or name.lower() in _IGNORED or (name == "" and index != name_column):
            continue
        (facts if name.lower() in FACTS else tasks).append(index)
    # A plain matrix may have a *task* called like a fact only if nothing says otherwise; facts win.
    if not tasks:
        raise InputError(f"{path} has no column with results", hint="one column a task")
    metadata: dict[str, dict[str, Fact]] = {}
    sums: dict[str, list[list[float]]] = {}
    order: list[str] = []
    for line, row in enumerate(rows[1:], start=2):
        name = "|".join(row[column].strip() for column in key)
        if not name:
            raise InputError(f"{path}, line {line}: the name of the model is empty")
        if len(row) > len(heading):
            raise InputError(f"{path}, line {line}: {len(row)} cells under {len(heading)} headings")
        cells = [
            _number(row[i], path, line, heading[i]) if i < len(row) else math.nan for i in tasks
        ]
        own = metadata.setdefault(name, {})
        if kind == "openclip" and name.count("|") == 1:
            own["architecture"], own["pretraining"] = name.split("|")
        for index in facts:
            if index < len(row) and row[index].strip().lower() not in _MISSING:
                _note_fact(own, heading[index], row[index])
        if name not in sums:
            order.append(name)
        sums.setdefault(name, []).append(cells)
    return _imported(order, [heading[i] for i in tasks], sums, metadata, path, kind, groups)


def _imported(
    order: list[str],
    tasks: list[str],
    sums: Mapping[str, list[list[float]]],
    metadata: dict[str, dict[str, Fact]],
    path: Path,
    kind: str,
    groups: Mapping[str, str],
) -> Imported:
    stacked = {name: np.array(sums[name]) for name in order}
    values = np.array([_mean(stacked[name]) for name in order])
    notes = []
    repeated = [name for name in order if len(sums[name]) > 1]
    if repeated:
        notes.append(
            f"{len(repeated)} models appear more than once; their mean is taken: "
            + ", ".join(repeated[:3])
        )
    empty = ~np.isfinite(values).any(axis=1)
    if empty.any():
        notes.append(f"{int(empty.sum())} rows without any result are left out")
        order = [name for name, none in zip(order, empty, strict=True) if not none]
        values = values[~empty]
    if not len(order):
        raise InputError(f"{path} holds no results")
    if kind == "ibm" and np.nanmax(values) <= 1.5:
        values = values * 100.0
    groups = dict(groups) or {task: task.split("@")[0] for task in tasks if "@" in task}
    reference = {}
    if kind == "ibm":
        # The base's first row in a per-base file is its mean over runs: the best reference.
        scale = 100.0 if np.nanmax(stacked[order[0]]) <= 1.5 else 1.0
        families = {facts.get("family", order[0]) for facts in metadata.values()}
        for base in families & set(order):
            first = stacked[str(base)][0] * scale
            reference[str(base)] = {
                t: float(v) for t, v in zip(tasks, first, strict=True) if np.isfinite(v)
            }
        for name in order:
            metadata[name].setdefault("family", order[0])
    table = Table(
        tuple(order),
        tuple(tasks),
        values,
        {name: facts for name, facts in metadata.items() if facts and name in set(order)},
        groups,
    )
    metric = {"mteb": "main_score", "openclip": "zero-shot", "matrix": "value"}.get(kind)
    return Imported(table, kind, metric or "accuracy", reference, tuple(notes))


def _mean(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[float]:
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0.0).sum(axis=0)
    return [float(t / c) if c else math.nan for t, c in zip(total, count, strict=True)]


def _name_column(heading: Sequence[str]) -> int:
    for name in _MODEL_COLUMNS:
        if name in heading:
            return heading.index(name)
    return 0


def _number(cell: str, path: Path, line: int, column: str) -> float:
    text = cell.strip()
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise InputError(
            f"{path}, line {line}, column '{column}': '{text}' is not a number",
            hint="leave the cell empty where there is no result",
        ) from None
    if math.isinf(value):
        raise InputError(f"{path}, line {line}, column '{column}': the value is infinite")
    return value


def _note_fact(own: dict[str, Fact], name: str, cell: str) -> None:
    name = name.strip().lower()
    fact: Fact = cell.strip()
    try:
        number = float(cell)
        fact = number * _UNITS.get(name, 1.0)
    except ValueError:
        pass
    own[FACTS.get(name, name)] = fact


def _flat_vtab(rows: Sequence[Sequence[str]], path: Path) -> tuple[list[list[str]], dict[str, str]]:
    """Fold VTAB's three heading lines into one; groups are the data sets."""
    if len(rows) < 4 or rows[1][0] != "dataset" or rows[2][0] != "method":
        if rows[0][0] != "train_examples_if_subset":
            groups = {t: t.split("@")[0] for t in rows[0][1:] if "@" in t}
            return [list(row) for row in rows], groups
        raise InputError(f"{path} begins like a VTAB file but lacks its lines 'dataset', 'method'")
    heading, groups = ["model_name"], {}
    for budget, dataset in zip(rows[0][1:], rows[1][1:], strict=True):
        if budget == "metadata":
            # The column 'model' holds an address, not the name.
            heading.append("" if dataset == "model" else dataset)
            continue
        heading.append(f"{dataset}@{budget}")
        groups[heading[-1]] = dataset
    return [heading, *(list(row) for row in rows[3:])], groups


def _mteb_folder(path: Path) -> Imported:
    files = sorted(file for file in path.rglob("*.json") if file.name != "model_meta.json")
    cells: dict[str, dict[str, list[float]]] = {}
    unreadable = []
    for file in files:
        value = _mteb_score(file)
        parts = file.relative_to(path).parts
        # results/ModelName/revision/Task.json, or ModelName/Task.json; or the folder of one model.
        model = parts[-3] if len(parts) >= 3 else parts[0] if len(parts) == 2 else path.name
        if len(parts) == 2 and (len(parts[0]) == 40 or parts[0] in _REVISIONS):
            model = path.name
        if value is None:
            unreadable.append(str(file.relative_to(path)))
            continue
        cells.setdefault(model, {}).setdefault(value[0], []).append(value[1])
    if not cells:
        raise InputError(
            f"{path} holds no MTEB results", hint="expected files model/revision/Task.json"
        )
    models = sorted(cells)
    tasks = sorted({task for own in cells.values() for task in own})
    values = np.array(
        [
            [float(np.mean(cells[m][t])) if t in cells[m] else math.nan for t in tasks]
            for m in models
        ]
    )
    notes: tuple[str, ...] = ()
    if unreadable:
        some = ", ".join(unreadable[:3])
        notes = (f"{len(unreadable)} files hold no main score and are left out: {some}",)
    return Imported(Table(tuple(models), tuple(tasks), values), "mteb", "main_score", {}, notes)


def _mteb_score(file: Path) -> tuple[str, float] | None:
    """Task and mean main score over the subsets of the test split (else the first split)."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        scores = content["scores"]
        task = str(content["task_name"])
        for split in ["test", *sorted(scores)]:
            found = [float(each["main_score"]) for each in scores.get(split, [])]
            found = [value for value in found if math.isfinite(value)]
            if found:
                return task, float(np.mean(found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
