"""``stockpot tangent continual`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from tests.continual.tiny import recipe


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tangent", "continual", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def write(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    value = recipe(methods=["tmc", "statistics", "soup"], trials=1)
    path.write_text(yaml.safe_dump(value))
    return path


def test_from_a_recipe_to_a_report(tmp_path: Path) -> None:
    path, out = write(tmp_path), tmp_path / "out"
    jobs = json.loads(run(path, "-o", out, "--dry-run", "--json"))["jobs"]
    assert not out.exists()
    assert "TMC, uniform · class-2 · trial 1" in jobs
    options = ("-o", out, "--backend", "serial", "--set", "tangent.epochs=2")
    value = json.loads(run(path, *options, "--json"))
    assert value == json.loads((out / "results.json").read_text())
    assert value["recipe"]["tangent"]["epochs"] == 2
    assert ">Statistics<" in (out / "report.html").read_text()
    assert "| TMC, uniform |" in run(path, *options, "--markdown", "-q")
    assert "class-2 (3 tasks, 2 classes each" in run(path, *options, "-q")


def test_mistakes_are_told_before_anything_runs(tmp_path: Path) -> None:
    path = write(tmp_path)
    said = run(path, "-o", tmp_path / "out", "--set", "methods=[tmc, magic]", code=2)
    assert "unknown method 'magic'" in said
    assert not (tmp_path / "out").exists()
