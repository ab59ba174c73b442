"""``stockpot merge`` from the outside: words, exit codes, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.cli.main import app

from .models import numpy_states, write_states

SHAPES = {f"layers.{i}.w": (64, 64) for i in range(6)}


@pytest.fixture
def paths(tmp_path):
    base, models = write_states(tmp_path, *numpy_states(2, shapes=SHAPES))
    return [str(base), *map(str, models)]


def invoke(*arguments):
    return CliRunner().invoke(app, ["merge", *map(str, arguments)])


def test_models_and_a_method(paths, tmp_path):
    base, a, b = paths
    done = invoke("-m", "stock", "-b", base, a, b, "-o", tmp_path / "out", "-s", "average=angle")
    assert done.exit_code == 0, done.output
    assert "6 tensors by stock" in done.stdout
    assert "ratio t:" in done.stdout
    with open_checkpoint(tmp_path / "out") as merged:
        assert len(merged) == 6


def test_json_is_the_report_and_nothing_else(paths, tmp_path):
    _, a, b = paths
    done = invoke(a, b, "-o", tmp_path / "out.safetensors", "--set", "weights=[1, 3]", "--json")
    value = json.loads(done.stdout)
    assert value["schema"] == 1
    assert value["recipe"]["parameters"] == {"weights": [1, 3]}
    assert len(value["tensors"]) == 6
    assert all(parent["digest"] for parent in value["parents"])


def test_a_recipe_with_changes(paths, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "method: task_arithmetic\nbase: base.safetensors\nmodels: [model0.safetensors]\nscale: 0.5"
    )
    done = invoke(recipe, "-o", tmp_path / "o", "--set", "scale=0", "--dtype", "float64", "--json")
    assert done.exit_code == 0, done.output
    with open_checkpoint(tmp_path / "o") as merged, open_checkpoint(paths[0]) as base:
        assert merged.info("layers.0.w").dtype == "F64"
        np.testing.assert_array_equal(merged.read("layers.0.w"), base.read("layers.0.w"))


def test_a_dry_run_writes_nothing(paths, tmp_path):
    before = sorted(p.name for p in tmp_path.iterdir())
    done = invoke(*paths[1:], "--dry-run")
    assert done.stdout.strip() == "6 tensors: linear"
    assert json.loads(invoke(*paths[1:], "--dry-run", "--json").stdout)["recipe"]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_strangers_are_refused_unless_forced(paths, tmp_path):
    stranger, _ = numpy_states(0, seed=99, shapes=SHAPES)
    write_checkpoint(tmp_path / "stranger.safetensors", stranger)
    arguments = (paths[1], tmp_path / "stranger.safetensors", "-o", tmp_path / "out")
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "no ancestor in common" in done.stderr
    assert not (tmp_path / "out").exists()
    assert invoke(*arguments, "--force").exit_code == 0


def test_the_result_as_an_adapter_of_the_base(tmp_path):
    shapes = {f"layers.{i}.fc.weight": (32, 24) for i in range(6)} | {"layers.0.norm.weight": (24,)}
    base, models = write_states(tmp_path, *numpy_states(2, shapes=shapes))
    arguments = ("-b", base, *models, "-m", "ties", "-o")
    done = invoke(*arguments, tmp_path / "a", "--rank", "4")
    assert done.exit_code == 0, done.output
    assert "6 updates of rank 4 to 4" in done.stdout
    assert "stored whole, being no matrices: 1 tensors" in done.stdout
    value = json.loads(invoke(*arguments, tmp_path / "b", "--error", "0.3", "--json").stdout)
    assert max(value["errors"].values()) <= 0.3
    assert value["whole"] == ["layers.0.norm.weight"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to merge"),
        (("a.yaml", "b"), "one recipe, or models"),
        (("no/where.safetensors", "-o", "x"), "does not exist"),
        (("M", "M"), "no output"),
        (("M", "M", "-o", "OUT", "-m", "tise"), "did you mean 'ties'"),
        (("M", "M", "-o", "OUT", "-s", "weights"), "expected name=value"),
        (("M", "M", "-o", "OUT", "-s", "weights=["), "cannot be read"),
        (("M", "M", "-o", "OUT", "-s", "colour=red"), "no parameter 'colour'"),
        (("M", "M", "-o", "OUT", "-m", "stock"), "needs the base"),
        (("M", "M", "-o", "OUT", "--max-shard-size", "big"), "expected for instance 5GB"),
        (("M", "M", "-o", "OUT", "--device", "nonsense"), "cannot be used"),
        (("M", "M", "-o", "OUT", "--heads", "x"), "heads: got 'x'"),
        (("M", "-o", "OUT", "--rank", "2"), "holds no adapter"),
        (("M", "--rank", "2"), "no output"),
        *(
            (("M", "-o", "OUT", "--rank", "2", *option), f"{option[0]} has no effect")
            for option in (
                ("--heads", "mean"),
                ("--dtype", "float16"),
                ("--backend", "local"),
                ("--dry-run",),
                ("--overwrite",),
            )
        ),
        (("M", "-o", "OUT", "--rank", "2", "-s", "scale=1"), "weights only"),
        (("M", "-o", "OUT", "--error", "0.1"), "measured against a base"),
        (("M", "-o", "OUT", "--rank", "2", "--method", "linear"), "measured against a base"),
        (("M", "-o", "OUT", "--rank", "2", "--base", "M"), "changes no matrix"),
        (("M", "M", "-o", "M"), "exists already"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(paths, tmp_path, arguments, words):
    before = sorted(p.name for p in tmp_path.iterdir())
    places = {"M": paths[1], "OUT": str(tmp_path / "out")}
    done = invoke(*(places.get(word, word) for word in arguments))
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_the_list_of_methods(paths):
    text = invoke("--list-methods").stdout
    assert "stock: Model Stock. Jang et al. 2024" in text
    methods = json.loads(invoke("--list-methods", "--json").stdout)["methods"]
    assert {"linear", "stock", "ties"} <= {method["name"] for method in methods}


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5kb", 1500), ("7", 7)])
def test_sizes(text, size):
    from stockpot.cli.merge import _bytes

    assert _bytes(text) == size
