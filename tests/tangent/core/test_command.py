"""``stockpot tangent train | compose | eval`` from a recipe to numbers."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError, OutputError, RecipeError
from stockpot.provenance import read_record
from stockpot.tangent import Component
from stockpot.tangent.recipe import TangentRecipe, load_recipe, parse_recipe
from stockpot.tangent.run import keep_components, load_components, train
from stockpot.tangent.settings import TangentSettings
from stockpot.tangent.shards import divide
from stockpot.tasks import load_task
from tests.tangent.core.world import write_world


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["tangent", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def data(*arguments: object) -> dict:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("world")
    recipe = write_world(folder)
    run("train", recipe, "-o", folder / "out", "--backend", "serial", "-q")
    return recipe, folder / "out"


def test_nothing_is_written_by_a_dry_run(tmp_path) -> None:
    recipe = write_world(tmp_path)
    before = sorted(tmp_path.iterdir())
    planned = data("train", recipe, "-o", tmp_path / "out", "--dry-run")["components"]
    assert [one["name"] for one in planned] == ["east", "north", "south"]
    assert all(one["classes"] == 4 and one["steps"] > 10 for one in planned)
    assert "examples of 4 classes" in run("train", recipe, "--dry-run")
    assert [p for p in sorted(tmp_path.iterdir()) if p.name != "__pycache__"] == before


def test_a_folder_of_components(trained) -> None:
    _, out = trained
    about = json.loads((out / "components.json").read_text())
    assert [one["name"] for one in about["components"]] == ["east", "north", "south"]
    for one in about["components"]:
        component = Component.load(out / one["file"])
        assert component.digest == one["digest"]
        assert component.settings["head_classes"] == about["classes"]
        assert component.metrics["validation_accuracy"] > 0.7
    record = read_record(out)
    assert record.kind == "component"
    assert record.parents[0].digest == component.base_digest


def test_training_again_does_nothing_and_one_alone_has_the_same_bytes(trained, tmp_path) -> None:
    recipe, out = trained
    before = {p: p.stat().st_mtime_ns for p in (out / "work" / "jobs").rglob("*.safetensors")}
    assert "north" in run("train", recipe, "-o", out, "--backend", "serial")
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items())
    found = data("train", recipe, "-o", tmp_path / "one", "--only", "north", "--backend", "serial")
    assert [one["name"] for one in found["components"]] == ["north"]
    alone = Component.load(tmp_path / "one" / "components" / "north.safetensors")
    assert alone.digest == Component.load(out / "components" / "north.safetensors").digest


def test_evaluation_of_a_file_is_that_of_its_components(trained, tmp_path) -> None:
    recipe, out = trained
    whole = data("eval", recipe, out)
    assert whole["accuracy"] > 0.8 > whole["base_accuracy"]
    assert set(whole["by_domain"]) == {"east", "north", "south"}
    assert whole["mode"] == "data"
    file = tmp_path / "all.safetensors"
    terms = data("compose", out, "-o", file)["terms"]
    assert {term["task"] for term in terms} == {"east", "north", "south"}
    again = data("eval", recipe, out, "-c", file, "--weights", "1")
    assert again["by_domain"] == whole["by_domain"]
    less = data("eval", recipe, out, "--without", "east")
    assert [one["name"] for one in less["components"]] == ["north", "south"]
    learnt = data("eval", recipe, out, "--weights", "learnt")
    assert learnt["weights"] == "learnt"
    text = run("eval", recipe, out, "--weights", "0.5,0.25,0.25")
    assert "+0.500 east" in text
    assert "composed" in text


def test_compose_by_every_rule(trained, tmp_path) -> None:
    recipe, out = trained
    file = tmp_path / "c.safetensors"
    for rule, total in (("uniform", 1.0), ("examples", 1.0), ("sum", 3.0), ("1,2,-1", 2.0)):
        terms = data("compose", out, "-o", file, "--weights", rule)["terms"]
        assert sum(term["weight"] for term in terms) == pytest.approx(total)
    learnt = ("--weights", "learnt", "--recipe", recipe, "--run", out)
    assert len(data("compose", out, "-o", file, *learnt)["terms"]) == 3
    less = data("compose", out, "-o", file, "--without", "south")
    assert len(less["terms"]) == 2
    files = sorted((out / "components").glob("*.safetensors"))[:2]
    assert data("compose", *files[::-1], "-o", file)["digest"] == less["digest"]
    file.unlink()
    assert "north" in run("compose", out, "-o", file, "--dry-run")
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compose", "{out}", "--weights", "half"), "neither a rule nor numbers"),
        (("compose", "{out}", "--weights", "learnt"), "--recipe"),
        (("compose", "{out}", "--without", "west"), "there are east, north, south"),
        (("compose", "{recipe}"), "safetensors"),
        (("eval", "{recipe}", "{recipe}"), "train"),
        (("train", "{recipe}", "--only", "west"), "it has east, north, south"),
        (("train", "{recipe}", "-o", "{recipe}"), "is a file"),
    ],
)
def test_wrong_arguments_exit_with_2(trained, tmp_path, monkeypatch, arguments, words) -> None:
    recipe, out = trained
    monkeypatch.chdir(tmp_path)
    given = [part.format(out=out, recipe=recipe) for part in arguments]
    assert words in run(*given, code=2)
    assert list(tmp_path.iterdir()) == []


def test_classes_and_random_parts(tmp_path) -> None:
    by = {"by": "classes", "classes": 2, "order_seed": 1}
    recipe = write_world(tmp_path, components=by, training={"epochs": 20, "learning_rate": 0.01})
    run("train", recipe, "-o", tmp_path / "out", "--backend", "serial")
    found = data("eval", recipe, tmp_path / "out")
    assert found["mode"] == "class"
    assert found["task_incremental"] >= found["accuracy"]
    one = data("eval", recipe, tmp_path / "out", "--without", "classes-1")
    assert len(one["classes"]) == 2
    assert one["examples"] < found["examples"]
    assert "knowing the task" in run("eval", recipe, tmp_path / "out")


def test_one_class_a_component_is_warned_about(tmp_path) -> None:
    by = {"by": "classes", "classes": 1}
    recipe = write_world(tmp_path, components=by, training={"epochs": 1})
    notes = data("train", recipe, "-o", tmp_path / "out", "--backend", "serial")["notes"]
    assert len(notes) == 4
    assert "single class" in notes[0]


def load(path: Path, **changes):
    recipe = TangentRecipe(**{**load_recipe(path).model_dump(), **changes})
    return load_task(recipe.task, root=path.parent), recipe


def test_divisions_do_not_overlap_and_stand_alone(tmp_path) -> None:
    path = write_world(tmp_path)
    for components in (
        {"by": "domains"},
        {"by": "rows", "count": 7},
        {"by": "classes", "classes": 3},
    ):
        task, recipe = load(path, components=components, held_out=["south"])
        division = divide(task, recipe)
        parts = [p for s in division.shards for p in (s.train, s.validation)]
        parts += list(division.test.values())
        rows = np.concatenate(parts)
        assert len(rows) == len(set(rows)) == len(task)
        assert set(division.test["south"]) == set(task.rows("south"))
        assert len(division.validation) == sum(len(s.validation) for s in division.shards)
    with_all = divide(*load(path))
    without = divide(
        *load(path, task={**load_recipe(path).task.model_dump(), "domains": ["north"]})
    )
    north = next(shard for shard in with_all.shards if shard.name == "north")
    task, _ = load(path)
    alone, _ = load(path, task={**load_recipe(path).task.model_dump(), "domains": ["north"]})
    assert np.array_equal(task.inputs[north.train], alone.inputs[without.shards[0].train])
    task, recipe = load(path, components={"by": "rows", "count": 10_000})
    with pytest.raises(InputError, match="would be empty"):
        divide(task, recipe)


def test_all_problems_of_a_recipe_are_told_with_their_lines(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: {kind: arrays, path: data.npz}\n"
        "backbone: {kind: function, name: 'net.py:net'}\n"
        "components:\n  by: rows\n"
        "training:\n  kapa: 5\n  epochs: -1\n"
        "test_fraction: 2\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = caught.value.problems
    assert [line.split(":")[1] for line in lines] == ["3", "6", "7", "8"]
    assert "needs 'count'" in lines[0]
    assert "did you mean 'kappa'" in lines[1]
    with pytest.raises(RecipeError, match="mapping"):
        parse_recipe([])
    with pytest.raises(RecipeError, match="no use for 'classes'"):
        parse_recipe({**yaml.safe_load(path.read_text()), "components": {"classes": 2}})


def test_a_saved_head_is_taken_again(trained, tmp_path) -> None:
    _, out = trained
    head = out / "head.safetensors"
    recipe = write_world(tmp_path, head={"file": str(head)}, training={"epochs": 1})
    run("train", recipe, "-o", tmp_path / "out", "--backend", "serial")
    assert (tmp_path / "out" / "head.safetensors").read_bytes() == head.read_bytes()
    assert data("check", recipe)["holds"]


def test_kappa_is_the_papers_unless_it_is_given() -> None:
    plain = {
        "task": {"kind": "arrays", "path": "x"},
        "backbone": {"kind": "function", "name": "a:b"},
    }
    papers = {"solver": "adamw"}
    assert parse_recipe({**plain, "training": papers}).training.kappa == 5
    classes = {**plain, "components": {"by": "classes", "classes": 2}}
    assert parse_recipe({**classes, "training": papers}).training.kappa == 15
    for recipe in (plain, classes):  # least squares: far from what the random head says
        assert parse_recipe(recipe).training.kappa == 100
        for solver in ({}, papers):
            given = {"training": {**solver, "kappa": 7}}
            assert parse_recipe({**recipe, **given}).training.kappa == 7


def test_a_model_that_cannot_be_used_is_told_before_training(tmp_path) -> None:
    recipe = write_world(tmp_path, parameters=["nothing.*"])
    assert "matches none" in run("train", recipe, "-o", tmp_path / "out", code=2)
    recipe = write_world(tmp_path, held_out=["west"])
    assert "no domain 'west'" in run("train", recipe, "-o", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_files_are_named_apart(tmp_path) -> None:
    from stockpot.tangent.run import file_name

    assert file_name("north-1.b_c") == "north-1.b_c"
    assert len({file_name(name) for name in ("a b", "a/b", "a_b")}) == 3
    long = [file_name("ä" * 300 + end) for end in "12"]
    assert long[0] != long[1]
    assert all(len(f"{name}.safetensors".encode()) < 255 for name in long)
    with pytest.raises(InputError, match="no components"):
        load_components([tmp_path])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        train(write_world(tmp_path), tmp_path / "file")
    assert keep_components([], ()) == []


def test_the_page_names_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tangent.md").read_text(encoding="utf-8")
    for model in (TangentRecipe, TangentSettings):
        for key in model.model_fields:
            assert f"`{key}`" in page or f"{key}:" in page, key


def test_statistics_by_the_same_commands(tmp_path) -> None:
    composer = {"kind": "statistics", "dimension": 64, "random_dimension": 64, "directions": 2}
    recipe = write_world(tmp_path, composer=composer)
    out, file = tmp_path / "out", tmp_path / "sum.safetensors"
    assert data("train", recipe, "--dry-run")["components"][0]["steps"] == 0
    run("train", recipe, "-o", out, "--backend", "serial")
    found = data("eval", recipe, out)
    assert found["composer"] == "statistics"
    assert found["weights"] == "sum"
    assert found["accuracy"] > 0.85
    assert found["base_accuracy"] is None
    assert "base" not in run("eval", recipe, out)
    terms = data("compose", out, "-o", file)["terms"]
    assert [term["weight"] for term in terms] == [1.0] * 3
    assert data("eval", recipe, out, "-c", file)["by_domain"] == found["by_domain"]
    assert "learnt for deltas only" in run("eval", recipe, out, "--weights", "learnt", code=2)
    less = data("eval", recipe, out, "--without", "north")
    certificate = data("forget", recipe, out, "north", "--retrain")
    assert certificate["against_composed"]["weights"] == 0
    assert data("eval", recipe, out)["by_domain"] == less["by_domain"]


def test_weights_by_name(trained, tmp_path) -> None:
    _, out = trained
    file = tmp_path / "c.safetensors"
    named = data("compose", out, "-o", file, "--weights", "south=2,east=0.5,north=-1")["terms"]
    assert {t["task"]: t["weight"] for t in named} == {"south": 2.0, "east": 0.5, "north": -1.0}
    for weights, words in (
        ("south=2,east=1", "'north' has none"),
        ("south=2,west=1,east=1,north=1", "no component 'west'"),
        ("south=x", "not name=number"),
    ):
        assert words in run("compose", out, "-o", file, "--weights", weights, code=2)
    gone = [part for name in ("east", "north", "south") for part in ("--without", name)]
    assert "no components are left" in run("compose", out, "-o", file, *gone, code=2)


def test_show_and_check(trained, tmp_path) -> None:
    recipe, out = trained
    shown = data("show", out)["components"]
    assert [one["name"] for one in shown] == ["east", "north", "south"]
    assert shown[0]["numbers"] == sum(t.numel() for t in load_components([out])[0].tensors.values())
    file = tmp_path / "c.safetensors"
    run("compose", out, "-o", file)
    assert "+0.3333 north" in run("show", file)
    file.write_bytes(file.read_bytes()[:-4] + b"xxxx")
    assert "corrupted" in run("show", file, code=2)
    found = data("check", recipe)
    assert found["holds"]
    assert found["error"] < 1e-7
    assert "ok" in run("check", recipe)


def test_a_wrong_derivative_fails_the_check(tmp_path) -> None:
    recipe = write_world(tmp_path)
    wrong = (Path(__file__).parent / "test_checks.py").read_text(encoding="utf-8")
    start, end = wrong.index("class Wrong"), wrong.index("class Squares")
    (tmp_path / "net.py").write_text(
        "from typing import Any\nimport torch\nfrom torch import Tensor, nn\n"
        + wrong[start:end]
        + "class Net(nn.Module):\n"
        "    feature_dim, input_shape = 5, (5,)\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.first = nn.Linear(5, 5)\n"
        "        nn.init.eye_(self.first.weight)\n        nn.init.zeros_(self.first.bias)\n"
        "    def forward(self, x):\n        return Wrong.apply(self.first(x))\n"
        "def net():\n    return Net()\n"
    )
    assert "WRONG" in run("check", recipe, code=1)


def test_the_commands_of_the_page_work(tmp_path, monkeypatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tangent.md").read_text(encoding="utf-8")
    tour = page.partition("## Five minutes")[2].partition("\n## ")[0]
    lines = [line for line in tour.splitlines() if line.startswith("stockpot tangent ")]
    assert len(lines) == 6
    write_world(tmp_path, training={"epochs": 1})
    monkeypatch.chdir(tmp_path)
    for line in lines:
        run(*shlex.split(line, comments=True)[2:])
    assert (tmp_path / "all.safetensors").exists()


@pytest.mark.parametrize("components", [{"by": "domains"}, {"by": "rows", "count": 3}])
def test_divisions_keep_fixed_splits_and_groups(tmp_path, components) -> None:
    task, recipe = load(write_world(tmp_path), components=components, held_out=["south"])
    parts = np.array([0, 0, 0, 1, 2], dtype=np.int8)[np.arange(len(task)) % 5]
    division = divide(replace(task, splits=parts), recipe)
    south = np.isin(np.arange(len(task)), task.rows("south"))
    train = np.concatenate([shard.train for shard in division.shards])
    assert np.sort(train).tolist() == np.flatnonzero((parts == 0) & ~south).tolist()
    assert division.validation.tolist() == np.flatnonzero((parts == 1) & ~south).tolist()
    test = np.concatenate(list(division.test.values()))
    assert np.sort(test).tolist() == np.flatnonzero(parts == 2).tolist()

    groups = np.array([f"g{row // 4}" for row in range(len(task))])
    grouped = divide(replace(task, groups=groups), recipe)
    sides = [
        set(groups[np.concatenate([getattr(shard, side) for shard in grouped.shards])])
        for side in ("train", "validation")
    ]
    inner = [rows for name, rows in grouped.test.items() if name != "south"]
    sides.append(set(groups[np.concatenate(inner)]))
    assert len(set.union(*sides)) == sum(map(len, sides))
