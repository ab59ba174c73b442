"""A table says by its names or by what it holds which column is which, or is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stockpot.errors import TaskError
from stockpot.ranking.columns import find_columns
from stockpot.ranking.request import load_request
from stockpot.tasks import load_task

TEXT = "a text that is long enough to be one; its number is {}"


def table(path: Path, heading: str, *cells: str, rows: int = 60) -> Path:
    """``{}`` in a cell is the number of its row, ``{2}`` is that modulo 2."""
    lines = [heading]
    for row in range(rows):
        lines.append(",".join(cell.format(row, row, row % 2, row % 3, row / 7) for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("heading", "cells", "expected"),
    [
        ("label,text", ("{2}", TEXT), ("text", "label", False)),
        ("id,review,sentiment", ("{0}", TEXT, "{2}"), ("review", "sentiment", False)),
        ("review,id,helpful,stars", (TEXT, "{0}", "{2}", "{3}"), ("review", "stars", False)),
        ("review,thing", (TEXT, "{2}"), ("review", "thing", False)),
        ("review,domain,thing", (TEXT, "{3}", "{2}"), ("review", "thing", False)),
        ("review,score", (TEXT, "{4:.5f}"), ("review", "score", True)),
        ("text,x,y_class", (TEXT, TEXT, "{2}"), ("text", "y_class", False)),
    ],
)
def test_columns_are_found(
    heading: str, cells: tuple[str, ...], expected: tuple[str, str, bool], tmp_path: Path
) -> None:
    found = find_columns(table(tmp_path / "t.csv", heading, *cells))
    assert (found.text, found.label, found.regression) == expected


@pytest.mark.parametrize(
    ("heading", "cells", "message", "hint"),
    [
        ("a,b,label", (TEXT, TEXT, "{2}"), "which column holds the texts", "task.text="),
        ("x,label", ("short", "{2}"), "which column holds the texts", "task.text="),
        ("review,a,b", (TEXT, "{2}", "{3}"), "'a', 'b' may be it", "task.label="),
        ("review,class,target", (TEXT, "{2}", "{3}"), "'class', 'target' may be it", "task.label="),
        ("review,id", (TEXT, "{0}"), "none is clearly it", "task.label=id"),
    ],
)
def test_what_a_table_does_not_tell_is_asked_for(
    heading: str, cells: tuple[str, ...], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        find_columns(table(tmp_path / "t.csv", heading, *cells))
    assert hint in str(caught.value.hint)


def test_what_is_said_is_not_looked_for_and_what_is_found_is_noted(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", "review,a,b", TEXT, "{2}", "{3}")
    request, _ = load_request(file, ["task.label=b", "sample.most=64"])
    assert (request.task.text, request.task.label) == ("review", "b")
    assert request.sample.most == 64
    assert request.notes == ("texts: column 'review'; labels: column 'b' (3 classes)",)
    request, _ = load_request(file, ["task.label=b", "task.text=a"])
    assert request.task.text == "a"
    assert request.notes == ()


@pytest.mark.parametrize("label", ["label", "sentiment", "stars"])
@pytest.mark.parametrize(
    ("cell", "regression", "classes"),
    [("{2}", False, ("0", "1")), ("{2}.0", False, ("0", "1")), ("{4:.3f}", True, ())],
)
def test_what_numbers_mean_does_not_hang_on_the_columns_name(
    label: str, cell: str, regression: bool, classes: tuple[str, ...], tmp_path: Path
) -> None:
    file = table(tmp_path / "t.csv", f"text,{label}", TEXT, cell)
    request, root = load_request(file)
    task = load_task(request.task, root=root)
    assert (task.kind == "regression", task.classes) == (regression, classes)
    assert bool(request.notes) == (regression or label != "label")


def test_a_zero_in_json_is_a_number_and_no_missing_label(tmp_path: Path) -> None:
    lines = [json.dumps({"text": TEXT.format(row), "score": row / 8}) for row in range(60)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert find_columns(tmp_path / "t.jsonl").regression
