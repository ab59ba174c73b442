"""`stockpot history` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app

METRIC = ("--metric", "accuracy")
EVERY = ("--every", 3)


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["history", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    base = np.array([90.0, 40.0, 70.0, 85.0, 55.0])
    rows = base + random.normal(size=(12, 1)) + random.normal(0, 0.5, (12, 5))
    rows[5] = np.roll(rows[5], 2)
    lines = ["model,a,b,c,d,e"]
    lines += [f"m{i}," + ",".join(f"{v:.3f}" for v in row) for i, row in enumerate(rows)]
    path = tmp_path / "r.csv"
    path.write_text("\n".join(lines))
    return path


def test_from_an_import_to_an_evaluation(file: Path, tmp_path: Path) -> None:
    store = tmp_path / "h.db"
    text = run("import", store, file, "--base", "m0", *METRIC)
    assert "12 models, 5 tasks, 60 results" in text
    assert "m5: values in the wrong columns" in text
    added = json.loads(run("add", store, "mine", "a", 91.5, "--fact", "parameters=1e6", "--json"))
    assert added["value"] == 91.5
    run("add", store, "mine", "b", 41, "--metric", "accuracy", "--fact", "family=cnn", "--quiet")
    shown = json.loads(run("show", store, "--json"))
    assert shown["models"] == 12
    assert list(shown["aside"]) == ["m5"]
    assert "best on average" in run("show", store)
    assert "best on b" in run("show", store, "--task", "b")
    assert "mine" not in run("show", store, "--model", "m1")
    page = tmp_path / "page.md"
    arguments = (
        "evaluate",
        store,
        "--anchors",
        0,
        "--anchors",
        3,
        "--repeats",
        1,
        "--task",
        "[a-c]*",
    )
    text = run(*arguments, "--page", page, "-q")
    assert "mean rank over history" in text
    assert page.read_text().startswith("# h.db")
    assert page.with_suffix(".svg").exists()
    value = json.loads(run(*arguments, "--json"))
    assert value["schema"] == 1
    assert {row["anchors"] for row in value["rows"]} == {0, 3}


def test_a_file_is_evaluated_without_a_store_and_with_a_score(file: Path) -> None:
    value = json.loads(
        run(
            "evaluate",
            file,
            *METRIC,
            "--anchors",
            0,
            "--score",
            f"s={file}",
            "--every",
            3,
            "--json",
        )
    )
    assert value["tasks"] == ["a", "d"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "nothing.db"), "no file nothing.db"),
        (("add", "{store}", "m", "t", "1", "--fact", "size"), "'size' is not NAME=VALUE"),
        (("show", "{file}", "--task", "z"), "does not say what it measures"),
        (("evaluate", "{file}", *METRIC, "--task", "z*"), "no task is named z*"),
        (("evaluate", "{file}", *METRIC, "--score", "x"), "is not NAME=FILE.csv"),
        (("evaluate", "{store}", *METRIC), "were settled by its import"),
        (("show", "{store}", "--task", "z"), "no task 'z'"),
        (("import", "{store}", "{file}", *METRIC, "--base", "m0", "--no-clean"), "has no effect"),
        (("import", "{store}", "{file}", "--format", "matirx"), "did you mean 'matrix'"),
        (("add", "{store}", "m", "t", "1", "--metric", "own"), "--lower-is-better"),
    ],
)
def test_wrong_words_are_refused(
    words: tuple[str, ...], message: str, file: Path, tmp_path: Path
) -> None:
    run("add", tmp_path / "h.db", "m", "a", 1)
    filled = [word.format(store=tmp_path / "h.db", file=file) for word in words]
    assert message in run(*filled, code=2)


def test_a_score_of_other_models_is_refused(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("model,a\nx,1\n")
    assert "shares no model" in run("evaluate", file, *METRIC, "--score", f"s={other}", code=2)
