"""Text tables: CSV, TSV, JSON Lines, Parquet; every bad line is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import TaskError
from stockpot.tasks import Task, load_task

ROWS = [
    ("fine film", "good", "movies"),
    ('so "bad"', "bad", "movies"),
    ("works,\nand well", "good", "products"),
    ("broke", "bad", "products"),
]


def load(path: Path, **options) -> Task:
    return load_task({"kind": "text", "path": path.name, **options}, root=path.parent)


def table(path: Path, rows=ROWS, columns=("text", "label", "domain")) -> Path:
    """Write ``rows`` in the format that the ending of ``path`` says."""
    if path.suffix in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([columns, *rows])
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        lists = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
        pyarrow.parquet.write_table(pyarrow.table(lists), path)
    else:
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def test_every_format_gives_the_same_task(tmp_path: Path) -> None:
    endings = ("csv", "tsv", "jsonl", "ndjson", "parquet")
    tasks = [load(table(tmp_path / f"t.{end}")) for end in endings]
    for task in tasks:
        assert task.inputs == [row[0] for row in ROWS]
        assert task.labels.tolist() == [1, 0, 1, 0]
        assert (task.classes, task.domains) == (("bad", "good"), ("movies", "products"))
        assert (task.name, task.kind, task.modality) == ("t", "classification", "text")
        assert task.fingerprint == tasks[0].fingerprint


def test_regression(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [("a", "-1.5", "x"), ("b", "2", "y")])
    task = load(path, target="regression")
    assert (task.kind, task.classes, task.labels.dtype) == ("regression", (), np.float32)
    assert task.labels.tolist() == [-1.5, 2.0]


def test_sign_drops_what_is_near_zero(tmp_path: Path) -> None:
    ratings = [-3, -0.5, -0.4, 0, 0.4, 0.5, 3]
    rows = [(f"{domain} {r}", r, domain) for domain in ("x", "y") for r in ratings]
    path = table(tmp_path / "t.jsonl", rows)
    task = load(path, target="sign", margin=0.5)
    assert task.classes == ("negative", "positive")
    assert task.inputs[:4] == ["x -3", "x -0.5", "x 0.5", "x 3"]
    assert task.labels.tolist() == [0, 0, 1, 1] * 2
    assert len(load(path, target="sign")) == 12  # zero has no sign


def test_names_of_columns_and_classes(tmp_path: Path) -> None:
    rows = [("a", 10, 1), ("b", 9, 1), ("c", 10, 2), ("d", 9, 2)]
    path = table(tmp_path / "t.jsonl", rows, ("body", "stars", "shop"))
    names = {"text": "body", "label": "stars", "domain": "shop"}
    task = load(path, **names)
    assert (task.classes, task.domains) == (("9", "10"), ("1", "2"))
    assert load(path, **names, classes=["10", "9"]).labels.tolist() == [0, 1, 0, 1]
    alone = load(path, **{**names, "domain": None}, name="shops")
    assert (alone.name, alone.domains) == ("shops", ("t",))


def test_chosen_domains(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    assert load(path, domains=["products"]).inputs == ["works,\nand well", "broke"]
    with pytest.raises(TaskError, match="no domain 'news'; its domains are 'movies', 'products'"):
        load(path, domains=["news"])


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    text = "text,label,domain\r\na,x,d\r\n\r\nb,y,d\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(path).inputs == ["a", "b"]


HEAD = "text,label,domain\na,x,d\n"


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", {}, "empty; the first line must name the columns"),
        (HEAD[:18], {}, "no examples"),
        ("text,text,domain\n", {}, "line 1: a column name is used twice"),
        (HEAD + "b,y\n", {}, "line 3: 2 values, expected 3"),
        (HEAD + '"b\nc",y,d\n"d,y,d\n', {}, "line 5: unexpected end of data"),
        (HEAD + '"b\nc",y,d\nd,y\n', {}, "line 5: 2 values"),
        (HEAD, {"text": "body"}, "line 2: no column 'body'; the columns are 'text', 'label'"),
        (HEAD, {"label": "stars"}, "line 2: no column 'stars'"),
        (HEAD, {"domain": "shop"}, "line 2: no column 'shop'"),
        (HEAD + ",y,d\n", {}, "line 3: column 'text' is empty"),
        (HEAD + "  ,y,d\n", {}, "line 3: column 'text' holds no text"),
        (HEAD + "b,,d\n", {}, "line 3: column 'label' is empty"),
        (HEAD + "b,y,\n", {}, "line 3: column 'domain' is empty"),
        (HEAD + "b,y,  \n", {}, "line 3: column 'domain' is empty"),
        (HEAD, {}, "a classification needs two classes, got 'x'"),
        (HEAD, {"target": "regression"}, "line 2: label 'x' is not a number"),
        (
            HEAD.replace(",x,", ",nan,"),
            {"target": "regression"},
            "line 2: label 'nan' is not finite",
        ),
        (HEAD.replace(",x,", ",inf,"), {"target": "sign"}, "line 2: label 'inf' is not finite"),
        (HEAD, {"classes": ["y", "z"]}, "line 2: label 'x' is not one of the classes 'y', 'z'"),
        (HEAD + "b,y,d\n", {"classes": ["x", "y", "z"]}, "class 'z' has no examples"),
        (HEAD.replace(",x,", ",0.5,"), {}, "line 2: label '0.5' is a number.*target: regression"),
        (HEAD + "b,y,d\nc,x,e\n", {}, "domain 'e' has no examples of class 'y'"),
        (HEAD.replace(",x,", ",0.1,"), {"target": "sign", "margin": 0.5}, "no examples"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, options: dict, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(TaskError, match=words) as caught:
        load(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.jsonl", b'{"text": "a"\n', "line 1: not JSON"),
        ("t.jsonl", b"[1]\n", r"line 1: expected an object, got \[1\]"),
        ("t.jsonl", b'{"text": 3, "label": "x", "domain": "d"}\n', "line 1: column 'text' holds"),
        ("t.jsonl", b'{"text": "a", "label": null, "domain": "d"}\n', "line 1: column 'label'"),
        ("t.jsonl", b'{"text": "a", "label": 0.5, "domain": "d"}\n', "line 1: label 0.5 is not"),
        ("t.csv", b"text,label,domain\n\xff\xfe,x,d\n", "not UTF-8"),
        ("t.parquet", b"PAR1 no", "not a Parquet file"),
        ("t.xlsx", b"", "unknown kind of table; known endings: '.csv'"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=words):
        load(tmp_path / name)


def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path: Path) -> None:
    rows = ["text,label", *(f"a text of its own {row},{row % 2}" for row in range(2000)), "fin é,1"]
    (tmp_path / "t.csv").write_bytes("\n".join(rows).encode("latin-1"))
    with pytest.raises(TaskError, match=r"t\.csv, line 2002: not UTF-8") as caught:
        load(tmp_path / "t.csv")
    assert "iconv" in str(caught.value.hint)


def test_whole_documents_stand_in_cells(tmp_path: Path) -> None:
    text = "long " * 100_000
    (tmp_path / "t.csv").write_text(f"text,label\n{text},x\nshort,y\n")
    assert load(tmp_path / "t.csv").inputs[0] == text


def test_whole_numbers_are_classes_however_they_are_written(tmp_path: Path) -> None:
    cells = ("0.0", "1.0", "10.0", "2.", "1", "-1.0")
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"t{c},{c}\n" for c in cells))
    task = load(tmp_path / "t.csv")
    assert task.classes == ("-1", "0", "1", "2", "10")
    assert task.labels.tolist() == [1, 2, 4, 3, 2, 0]
    named = ["0.0", "1.0", "10.0", "2.", "1", "-1.0"]
    assert load(tmp_path / "t.csv", classes=named).classes == tuple(named)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"t\.csv: no such file"):
        load(tmp_path / "t.csv")
