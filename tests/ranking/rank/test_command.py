"""``stockpot rank`` at the command line: words, JSON, report, exit codes, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError
from stockpot.ranking.history import Store
from stockpot.ranking.state import seconds
from tests.ranking.rank.tiny import QUALITY, write_task, zoo
from tests.recycling.tiny import recipe


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    file = tmp_path / "zoo.yaml"
    file.write_text(yaml.safe_dump(zoo(broken="broken")))
    return write_task(tmp_path), file


def test_a_table_a_report_and_a_recipe(world: tuple[Path, Path], tmp_path: Path) -> None:
    task, models = world
    store = tmp_path / "history.db"
    out = tmp_path / "out"
    found = run(
        "rank",
        task,
        "--zoo",
        models,
        "-o",
        out,
        "--verify",
        "--history",
        store,
        "--append",
        "--backend",
        "serial",
    )
    assert found.exit_code == 0, found.output
    assert "Start from" in found.stdout
    assert "not ranked: broken: RuntimeError: the wheels came off" in found.stdout
    assert "weighted tau" in found.stdout
    assert all(len(line) <= 80 for line in found.stdout.splitlines())
    assert "4 results appended" in found.stderr
    page = (out / "report.html").read_text()
    for words in ("Start from", "P(best)", "Predicted against real", "the wheels came off", "<svg"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    assert (out / "recipe.yaml").exists()
    with Store.open(store, create=False) as opened:
        assert opened.table().values.shape == (4, 1)
    recycled = run("recycle", out / "recipe.yaml", "--dry-run")
    assert recycled.exit_code == 0, recycled.output


def test_json_and_quiet(world: tuple[Path, Path], tmp_path: Path) -> None:
    task, models = world
    found = run("rank", task, "--zoo", models, "-o", tmp_path / "out", "--json")
    value = json.loads(found.stdout)
    assert value["schema"] == 1
    assert {model["name"] for model in value["models"]} == set(QUALITY)


def test_a_dry_run_says_what_would_happen(world: tuple[Path, Path], tmp_path: Path) -> None:
    task, models = world
    more = yaml.safe_load(models.read_text())
    more["models"].append({"kind": "timm", "name": "resnet18", "weights": "none.pth"})
    models.write_text(yaml.safe_dump(more))
    out = tmp_path / "out"
    found = run(
        "rank", task, "--zoo", models, "-o", out, "--dry-run", "--shortlist", "2", "--budget", "1m"
    )
    assert found.exit_code == 0, found.output
    assert "2 will be run" in found.stdout
    left = run("rank", task, "--zoo", models, "-o", out, "--dry-run", "--without", "good")
    assert "  good" not in left.stdout
    assert "cannot be used: resnet18" in found.stdout
    assert "up to 60 s" in found.stdout
    assert not out.exists()


def test_wrong_input_is_exit_code_2(world: tuple[Path, Path], tmp_path: Path) -> None:
    task, models = world
    assert run("rank", task, "--zoo", tmp_path / "none.yaml").exit_code == 2
    assert run("rank", task, "--zoo", models, "--append").exit_code == 2
    assert run("rank", task, "--zoo", models, "--budget", "soon").exit_code == 2
    assert run("rank", task, "--zoo", models, "--select", "luck").exit_code == 2
    found = run("rank", task, "--zoo", models, "--without", "goood")
    assert found.exit_code == 2
    assert "did you mean 'good'" in found.stderr
    models.write_text("models:\n  - kind: timm\n    nmae: x\n")
    found = run("rank", task, "--zoo", models)
    assert found.exit_code == 2
    assert "zoo.yaml:3" in found.stderr


def test_durations() -> None:
    assert seconds("90") == seconds("90s") == seconds("1.5m") == 90
    assert seconds("1h30m") == 5400
    for bad in ("", "3x", "m30", "1h 2", "-3m"):
        with pytest.raises(InputError, match="no duration"):
            seconds(bad)


def test_recycle_appends_to_a_history_store(tmp_path: Path) -> None:
    few = {"protocols": ["single", "soup_uniform"], "auxiliaries": [], "runs": 2}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(tmp_path, **few)))
    store = tmp_path / "history.db"
    found = run(
        "recycle", file, "-o", tmp_path / "out", "--backend", "serial", "--history", store,
        "--history-name", "tiny-net",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    with Store.open(store, create=False) as opened:
        table = opened.table()
    assert table.models == ("tiny-net",)
    (single,) = [row for row in results["table"] if row["protocol"] == "single"]
    assert table.values[0, 0] == pytest.approx(single["mean"])
    few["protocols"] = ["soup_uniform"]
    file.write_text(yaml.safe_dump(recipe(tmp_path, **few)))
    again = ["recycle", file, "-o", tmp_path / "out", "--backend", "serial", "--history", store]
    found = run(*again)
    assert found.exit_code == 2
    assert "holds the results of another recipe" in found.stderr
    found = run(*again, "--overwrite")
    assert "nothing appended" in found.stderr
