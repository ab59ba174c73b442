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
  ``NA`` or ``-`` means missing. Columns named ``data@variant`` are about the same data. A column of
  texts is a fact about the models.
- ``long``: one row a result, with columns for model, task and value; if wanted for metric and seed.

Cells are divided by the comma, semicolon or tab that the heading has most of; where that is not the
comma, a comma is the decimal sign. What a file measures decides which way it points: a metric that
is known by name (from ``Reading``, the column ``metric``, the task's or the file's name), or
``Reading.lower``. Where nothing says it a store refuses the file. A column that is neither result
nor fact is refused by name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.history.longform import is_long, read_long
from stockpot.ranking.history.sheet import (
    FACTS,
    MISSING,
    MODEL_COLUMNS,
    Grid,
    Imported,
    Reading,
    ResultColumns,
    ResultFile,
    column_numbers,
    directions,
    listed,
    metric_of,
    note_fact,
    parsed,
    read_cells,
)
from stockpot.ranking.history.table import Fact, Table
from stockpot.reading import parse_json, read_bytes
from stockpot.yaml_lines import suggestion

FORMATS = ("auto", "matrix", "long", "ibm", "mteb", "openclip", "vtab")
# Folders of results whose model has no revision by hash.
_REVISIONS = {"external", "no_revision_available"}
_IBM_TASKS = {"mnli", "esnli", "tweet_ev_emoji", "20_newsgroup", "wnli"}
_IGNORED = {"avg", "average", "average perf. on 38 datasets", "tokenizer", "classification"}
_IGNORED |= {"from_flax", "from_tf", "last_modified", "hyper_sweep_size"}
_NO_RESULTS = {"rank", "ranking", "position", "place", "#", "no", "no.", "nr", "id", "index"}
_NO_RESULTS |= {"unnamed: 0", "year", "date", "seed", "epoch", "epochs", "likes", "downloads"}
"""Columns of numbers in other people's tables that would pass as results, the worst one best."""


def read_results(path: Path, format: str = "auto", reading: Reading = Reading()) -> Imported:
    """Read ``path`` (a CSV file, or a folder of MTEB results) in a format of :data:`FORMATS`.

    Raises ``InputError``: no such file, unknown or other format, a cell that is no number (with
    its line and column), a column that is neither result nor fact, fractions beside per cent, a
    metric that is not known, or no results at all. Where nothing says what is measured, ``unsaid``
    of the result names it.
    """
    path = Path(path)
    if format not in FORMATS:
        near = suggestion(format, list(FORMATS))
        raise InputError(
            f"unknown format '{format}'{near}", hint=f"choose one of: {', '.join(FORMATS)}"
        )
    if path.is_dir():
        if format not in ("auto", "mteb"):
            raise InputError(f"{path} is a folder; format '{format}' is a CSV file")
        if reading != Reading():
            raise InputError(f"{path} is a folder of MTEB results, which say what they are")
        return _mteb_folder(path)
    rows, delimiter = read_cells(path)
    kind = _recognise(rows) if format == "auto" else format
    file = ResultFile(path, reading, kind, comma=delimiter != ",")
    known = [cell.strip() for row in rows[:2] for cell in row]
    for option, names in (("fact", reading.facts), ("ignore", reading.ignore)):
        for name in names:
            if name not in known:
                near = suggestion(name, known)
                raise InputError(f"{path} has no column '{name}' (--{option}){near}")
    if kind == "long":
        return _imported(read_long(rows, file), file)
    groups: Mapping[str, str] = {}
    if kind == "vtab":
        rows, groups = _flat_vtab(rows, path)
    return _from_rows(rows, file, groups)


def read_metadata(path: Path) -> dict[str, dict[str, Fact]]:
    """Facts of models from a CSV file: first column the model, one column a fact."""
    (heading, *rows), _ = read_cells(path)
    facts: dict[str, dict[str, Fact]] = {}
    for row in rows:
        own = facts.setdefault(row[0].strip(), {})
        for name, cell in zip(heading[1:], row[1:], strict=False):
            if cell.strip().lower() not in MISSING:
                note_fact(own, name, cell)
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
    return "long" if is_long(rows[0]) else "matrix"


def _from_rows(rows: Grid, file: ResultFile, groups: Mapping[str, str]) -> Imported:
    path, kind = file.path, file.kind
    heading = [cell.strip() for cell in rows[0]]
    key = [_name_column(heading)]
    if kind == "matrix" and key == [0]:
        _check_names(rows, heading, file)
    if kind == "openclip" and {"name", "pretrained"} <= set(heading):
        key.append(heading.index("pretrained"))
    tasks, facts = _columns(rows, heading, key[:1], file)
    if not tasks:
        raise InputError(f"{path} has no column with results", hint="one column a task")
    names = [heading[i] for i in tasks]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path} has two columns '{twice[0]}'")
    metadata: dict[str, dict[str, Fact]] = {}
    cells: dict[str, dict[str, list[tuple[str, int]]]] = {name: {} for name in names}
    count: Counter[str] = Counter()
    for line, row in enumerate(rows[1:], start=2):
        model = "|".join(row[column].strip() for column in key)
        if not model:
            raise InputError(f"{path}, line {line}: the name of the model is empty")
        if len(row) > len(heading):
            raise InputError(f"{path}, line {line}: {len(row)} cells under {len(heading)} headings")
        row = [*row, *[""] * (len(heading) - len(row))]
        count[model] += 1
        own = metadata.setdefault(model, {})
        if kind == "openclip" and model.count("|") == 1:
            own["architecture"], own["pretraining"] = model.split("|")
        for index in facts:
            if row[index].strip().lower() not in MISSING:
                note_fact(own, heading[index], row[index])
        for name, index in zip(names, tasks, strict=True):
            cells[name].setdefault(model, []).append((row[index], line))
    metrics = {name: metric_of(name, file) for name in names}
    if kind == "matrix":
        file.notes.append(directions(metrics.values()))
    if repeated := [model for model, times in count.items() if times > 1]:
        file.notes.append(
            f"{len(repeated)} models appear more than once; their mean is taken: "
            + ", ".join(repeated[:3])
        )
    numbers = {name: column_numbers(name, cells[name], metrics[name], file) for name in names}
    pairs = {name: (name, metrics[name].name) for name in names}
    return _imported(ResultColumns(numbers, pairs, metrics, metadata, groups), file)


def _columns(
    rows: Grid, heading: Sequence[str], key: Sequence[int], file: ResultFile
) -> tuple[list[int], list[int]]:
    """Which columns hold results and which facts; the others are noted by name."""
    tasks: list[int] = []
    facts: list[int] = []
    texts, left = [], []
    for index, name in enumerate(heading):
        if index in key or not name:
            continue
        if name in file.reading.ignore or name.lower() in _IGNORED:
            left.append(name)
        elif name in file.reading.facts or name.lower() in FACTS:
            facts.append(index)
        elif file.kind == "matrix" and _is_text(rows, index, file.comma):
            texts.append(name)
            facts.append(index)
        elif file.kind == "matrix" and name.lower() in _NO_RESULTS:
            raise InputError(
                f"{file.path}, column '{name}' holds no results",
                hint=f"--ignore '{name}', or --fact '{name}' if it describes the models",
            )
        else:
            tasks.append(index)
    if texts:
        file.notes.append(f"columns of texts are facts about the models: {listed(texts)}")
    if left:
        file.notes.append(f"columns left out: {listed(left)}")
    return tasks, facts


def _check_names(rows: Grid, heading: Sequence[str], file: ResultFile) -> None:
    """Models are not called 1, 2, 3 where another column holds names."""
    if all(parsed(row[0].strip(), file.comma) is not None for row in rows[1:]):
        named = [
            name for i, name in enumerate(heading) if i and name and _is_text(rows, i, file.comma)
        ]
        if named:
            raise InputError(
                f"{file.path}: which column names the models? '{heading[0]}' holds numbers",
                hint=f"call the right one 'model' (there is '{named[0]}')",
            )


def _is_text(rows: Grid, index: int, comma: bool) -> bool:
    """Whether a column has texts and no number; one text in a column of results is a mistake."""
    cells = [row[index].strip() for row in rows[1:] if index < len(row)]
    known = [cell for cell in cells if cell.lower() not in MISSING]
    return len(known) > 1 and all(parsed(cell, comma) is None for cell in known)


def _imported(found: ResultColumns, file: ResultFile) -> Imported:
    """The table, each cell the mean of its repeats."""
    order, tasks, kind = list(found.metadata), list(found.numbers), file.kind
    columns = found.numbers.values()
    values = np.array([[_mean(column.get(model, ())) for column in columns] for model in order])
    empty = ~np.isfinite(values).any(axis=1)
    if empty.any():
        file.notes.append(f"{int(empty.sum())} rows without any result are left out")
        order = [name for name, none in zip(order, empty, strict=True) if not none]
        values = values[~empty]
    if not order:
        raise InputError(f"{file.path} holds no results")
    scale = 100.0 if kind == "ibm" and np.nanmax(values) <= 1.5 else 1.0
    groups = dict(found.groups) or {task: task.split("@")[0] for task in tasks if "@" in task}
    reference = {}
    if kind == "ibm":
        # The base's first row in a per-base file is its mean over runs: the best reference.
        families = {facts.get("family", order[0]) for facts in found.metadata.values()}
        for base in families & set(order):
            first = {task: column[str(base)][0] * scale for task, column in found.numbers.items()}
            reference[str(base)] = {t: v for t, v in first.items() if math.isfinite(v)}
    metadata = {name: dict(found.metadata[name]) for name in order}
    if kind == "ibm":
        for facts in metadata.values():
            facts.setdefault("family", order[0])
    table = Table(
        tuple(order),
        tuple(tasks),
        values * scale,
        {name: facts for name, facts in metadata.items() if facts},
        groups,
        frozenset(name for name in tasks if found.metrics[name].lower),
    )
    notes = tuple(note for note in file.notes if note)
    return Imported(table, kind, found.pairs, reference, notes, tuple(file.unsaid))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _name_column(heading: Sequence[str]) -> int:
    """The column of models: that which is called so, however it is written, else the first."""
    plain = [re.sub(r"[\s_\-]+", "_", name.lower()) for name in heading]
    return next((plain.index(name) for name in MODEL_COLUMNS if name in plain), 0)


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
    pairs = {task: (task, "main_score") for task in tasks}
    return Imported(Table(tuple(models), tuple(tasks), values), "mteb", pairs, {}, notes)


def _mteb_score(file: Path) -> tuple[str, float] | None:
    """Task and mean main score over the subsets of the test split (else the first split)."""
    try:
        content = parse_json(read_bytes(file))
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
