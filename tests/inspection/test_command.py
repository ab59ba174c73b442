"""``stockpot inspect`` at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.checkpoints import write_checkpoint
from stockpot.cli.inspect import as_text, table
from stockpot.cli.main import app
from stockpot.inspection import compare
from tests.inspection.models import fresh, tuned


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    states = {"base": fresh(0), "a": tuned(fresh(0), 1), "b": tuned(fresh(0), 2), "odd": fresh(9)}
    for name, state in states.items():
        write_checkpoint(folder / name / "model.safetensors", state)
    return {name: str(folder / name) for name in states}


def run(*words: str) -> Any:
    result = CliRunner().invoke(app, ["inspect", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_the_first_line_is_the_verdict(files: dict[str, str]) -> None:
    assert run(files["a"], files["b"]).stdout.startswith("same ancestor: ")
    assert run(files["a"], files["odd"]).stdout.startswith("unrelated: ")


def test_tables_name_models_and_pairs(files: dict[str, str]) -> None:
    text = run(files["a"], files["b"], "--base", files["base"], "--layers").stdout
    assert "a ~ b" in text
    assert "change" in text
    assert "blocks.3.fc.weight" in text
    assert "32x32" in text
    assert "blocks.3.fc.weight" not in run(files["a"], files["b"]).stdout


def test_json_is_the_inspection(files: dict[str, str]) -> None:
    value = json.loads(run(files["a"], files["b"], "--base", files["base"], "--json").stdout)
    assert value == compare([files["a"], files["b"]], files["base"]).to_json()


def test_options_reach_the_inspection(files: dict[str, str]) -> None:
    words = [files["a"], files["b"], "--quick", "--names", "stem.*", "--names", "head.weight"]
    value = json.loads(run(*words, "--json").stdout)
    assert value["quick"]
    assert {layer["name"] for layer in value["layers"]} == {"stem.weight", "head.weight"}


def test_the_page_is_written_and_named_on_stderr(files: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(files["a"], files["b"], "--html", str(page))
    assert "<svg" in page.read_text()
    assert str(page) in result.stderr
    assert str(page) not in result.stdout


def test_a_missing_model_is_an_error_of_ours(files: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["inspect", files["a"], "./nowhere"])
    assert result.exit_code == 2
    assert "error: " in result.stderr
    assert "nowhere" in result.stderr


def test_inspecting_safetensors_works_without_torch(files: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # any import of it raises ImportError
        "from stockpot.inspection import compare\n"
        "from stockpot.report.inspection import write_inspection\n"
        "found = compare(sys.argv[1:3], sys.argv[3])\n"
        "write_inspection(found, sys.argv[4])\n"
        "assert found.verdict == 'same ancestor'\n"
    )
    words = [files["a"], files["b"], files["base"], str(tmp_path / "x.html")]
    subprocess.run([sys.executable, "-c", code, *words], check=True)


def test_numbers_stand_to_the_right() -> None:
    assert table([["name", "n"], ["a", "1"], ["bb", "200"]]).splitlines() == [
        "name    n",
        "----  ---",
        "a       1",
        "bb    200",
    ]


def test_one_model_has_no_pairs() -> None:
    assert "pair" not in as_text(compare([fresh(0)])).splitlines()[-1]
