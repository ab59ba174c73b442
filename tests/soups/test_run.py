"""The whole verb: a command that scores folders, interruptions, constraints, what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import stockpot
from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.cli.main import app
from stockpot.errors import InputError, LineageError, OutputError, StockpotError
from stockpot.evaluators import FunctionEvaluator
from stockpot.provenance import read_models, read_record
from stockpot.report.soup import render, terminal_soup
from stockpot.soups import SoupResults, plan_soup
from stockpot.soups.words import headline
from tests.soups.bowls import bowl, mixed, states, write_models

PROGRAM = """
import json, sys, time
import numpy as np
from safetensors.numpy import load_file
here = __file__.rpartition("/")[0]
with open(here + "/calls", "a") as calls:
    calls.write("call\\n")
target = load_file(here + "/target.safetensors")
model = load_file(sys.argv[1] + "/model.safetensors")
gap = sum(((model[name] - target[name]) ** 2).sum() for name in target)
noise = np.random.default_rng(0).standard_normal(60)
print(json.dumps({"scores": (0.01 * noise - float(gap)).tolist()}))
"""


@pytest.fixture
def world(tmp_path):
    """Three model folders, their base, a program and the shortest description of it."""
    paths, base, _ = write_models(tmp_path)
    (tmp_path / "eval.py").write_text(PROGRAM)
    (tmp_path / "eval.yaml").write_text("command: python eval.py {model}\n")
    return tmp_path, [str(path) for path in paths], str(base)


def calls(folder: Path) -> int:
    file = folder / "calls"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_the_shortest_description_makes_a_model(world):
    folder, models, base = world
    arguments = ["soup", *models, "--base", base, "--evaluate", str(folder / "eval.yaml")]
    arguments += ["--budget", "20", "-o", str(folder / "out"), "--layer-groups", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "better than best single model" in " ".join(result.stdout.split())
    results = SoupResults.read(json.loads((folder / "out/results.json").read_text()))
    assert results.cost.run == calls(folder) == 21  # and the shuffled control
    assert results.evaluator.choosing == results.evaluator.judging == 30
    claim = results.kept.claims[0]
    assert claim.against == "best"
    assert claim.low > 0
    model = folder / "out/model"
    assert (model / "config.json").read_text() == '{"model_type": "bowl"}'
    record = read_record(model)
    assert record.metrics["judging_score"] == results.kept.judge
    assert [parent.role for parent in record.parents] == ["model"] * 3 + ["base"]
    kept = results.row(results.kept.name)
    with open_checkpoint(model) as written, open_checkpoint(base) as ground:
        opened = [open_checkpoint(path) for path in models]
        plain = mixed(
            {n: ground.read(n) for n in ground.names},
            [{n: one.read(n) for n in one.names} for one in opened],
            kept.coefficients,
        )
        assert written.digest() == record.digest
        for name in written.names:
            np.testing.assert_allclose(written.read(name), plain[name], atol=1e-6)
    assert [each.name for each in read_models(folder / "out")][-1] is None
    page = (folder / "out/report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    before = calls(folder)
    again = CliRunner().invoke(app, [*arguments, "--json"])
    assert again.exit_code == 0, again.output
    value = json.loads(again.stdout)
    assert value["cost"]["run"] == 0
    assert calls(folder) == before
    shared = [value[key] for key in ("kept", "candidates", "ingredients")]
    first = results.to_json()
    assert shared == [first[key] for key in ("kept", "candidates", "ingredients")]
    other = CliRunner().invoke(app, [*arguments, "--seed", "5"])
    assert other.exit_code == 2
    assert "another recipe" in other.output


@pytest.mark.slow
def test_killed_at_any_moment_no_evaluation_is_repeated(world):
    folder, models, base = world
    arguments = [*models, "--base", base, "-e", str(folder / "eval.yaml"), "--budget", "10"]
    arguments += ["-o", str(folder / "out"), "-q", "--layer-groups", "1"]
    code = "from stockpot.cli.main import main; main()"
    for stop in (2, 5, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "soup", *arguments], stdout=subprocess.DEVNULL
        )
        while calls(folder) < stop and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", code, "soup", *arguments], check=True)
    results = json.loads((folder / "out/results.json").read_text())
    stored = list((folder / "out/work/scores").rglob("*.json"))
    # What was running when the run was killed is made again: once a kill.
    assert len(stored) <= calls(folder) <= len(stored) + 3
    assert results["cost"]["evaluations"] == 10
    plain = stockpot.soup(
        models,
        folder / "eval.yaml",
        base=base,
        budget=10,
        layer_groups=1,
        cache=folder / "out/work/scores",
    )
    assert plain.results.cost.run == 0
    assert plain.results.kept.to_json() == results["kept"]


def flat(state):
    return np.random.default_rng(0).standard_normal(100)


def test_states_in_memory_and_a_function():
    base, *models = states(3)
    target = mixed(base, models, [0.6, 0.3, 0.3])
    done = stockpot.soup(
        {"a": models[0], "b": models[1], "c": models[2]},
        bowl(target, 0.01 * np.random.default_rng(0).standard_normal(100)),
        base=base,
        budget=60,
        layer_groups=1,
    )
    assert done.folder is None
    assert done.results.kept.name == "search"
    assert [one.name for one in done.results.ingredients] == ["a", "b", "c"]
    for name in base:
        np.testing.assert_allclose(done.state[name], target[name], atol=0.01)
    with pytest.raises(InputError, match="no folder"):
        done.model  # noqa: B018
    shuffled = next(one for one in done.results.controls if one.name == "shuffled")
    assert shuffled.judge < done.results.kept.judge
    assert done.results.cost.evaluations <= 60
    page = render(done.results)
    assert headline(done.results)[:20] in page
    assert max(map(len, terminal_soup(done.results).splitlines())) <= 80


def test_equal_models_keep_the_uniform_soup_and_say_so():
    """Whatever the weights, every row has the same score: no search can help."""
    _, *models = states(3)
    done = stockpot.soup(models, flat, budget=40)
    assert done.results.kept.name == "uniform"
    assert "Searching did not help here" in terminal_soup(done.results)
    assert all(claim.is_equal for claim in done.results.kept.claims)


def test_one_number_has_no_interval_and_that_is_said():
    base, *models = states(3)
    score = bowl(mixed(base, models, [0.6, 0.3, 0.3]))
    done = stockpot.soup(models, score, base=base, budget=30, controls="none")
    assert done.results.kept.claims == ()
    assert any("one number" in note for note in done.results.notes)
    assert "without an interval" in headline(done.results)
    assert done.results.evaluator.rows is None


def test_controls_at_equal_cost():
    base, *models = states(3)
    score = bowl(mixed(base, models, [0.6, 0.3, 0.3]), np.zeros(50))
    done = stockpot.soup(
        models, score, base=base, budget=40, layer_groups=1, controls="equal"
    ).results
    names = {one.name: one for one in done.controls}
    assert set(names) == {"shuffled", "draws", "random"}
    assert names["draws"].evaluations == names["random"].evaluations == done.cost.searched
    assert all(one.judge < done.kept.judge for one in done.controls)


@pytest.mark.parametrize("allowed", [0.001, 10.0])
def test_a_constraint_is_kept(tmp_path, allowed):
    """The bowl draws away from the base, the constraint does not let it go far."""
    base, *models = states(3, dtype=np.float32)
    code = """
import numpy as np
from safetensors.numpy import load_file
def gap(state, name):
    other = load_file(name)
    return sum(((state[n] - other[n]) ** 2).sum() for n in other)
def score(state):
    return -gap(state, {target!r}) + 0.001 * np.random.default_rng(0).standard_normal(50)
def safe(state):
    return -gap(state, {base!r}) + 0.0001 * np.random.default_rng(1).standard_normal(50)
"""
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("target", "base")}
    write_checkpoint(files["target"], mixed(base, models, [0.9, 0.9, 0.9]))
    write_checkpoint(files["base"], base)
    (tmp_path / "mine.py").write_text(code.format(**files))
    (tmp_path / "eval.yaml").write_text(
        "function: mine.py:score\nconstraints:\n"
        f"  - {{function: mine.py:safe, lose_at_most: {allowed}, against: base}}\n"
    )
    done = stockpot.soup(models, tmp_path / "eval.yaml", base=base, budget=40).results
    (check,) = done.kept.checks
    assert check.kept
    assert check.low >= -allowed
    assert (done.kept.name in ("base", "stock")) == (allowed < 1)
    assert any("breaks a constraint" in note for note in done.notes) == (allowed < 1)


def test_the_gain_may_be_asked_of_a_live_module():
    import torch

    torch.manual_seed(0)
    inputs = torch.randn(200, 5)
    ancestor = torch.nn.Linear(5, 3)
    labels = ancestor(inputs).argmax(1)
    models = []
    for seed in range(3):
        noise = torch.Generator().manual_seed(seed)
        models.append(
            {
                name: value + 0.3 * torch.randn(value.shape, generator=noise)
                for name, value in ancestor.state_dict().items()
            }
        )

    def right(module, rows):
        with torch.no_grad():
            return (module(inputs[rows]).argmax(1) == labels[rows]).double()

    evaluator = FunctionEvaluator(right, module=torch.nn.Linear(5, 3), size=200, metric="accuracy")
    done = stockpot.soup(models, evaluator, base=ancestor.state_dict(), budget=40, force=True)
    assert isinstance(done.state["weight"], torch.Tensor)
    assert done.results.row("base").choose == 1.0
    assert done.results.kept.choose >= done.results.row("best").choose - 0.1
    raced = [step for step in done.results.trace if not step.complete]
    assert all(step.rows < 100 for step in raced)


def test_what_is_wrong_is_refused_before_anything_runs(tmp_path):
    _, *models = states(2, seed=1)

    def never(state):
        raise AssertionError

    for arguments, options, words in (
        ((models[:1], never), {}, "two checkpoints or more"),
        (([models[0], models[0]], never), {}, "all the same"),
        ((models, never), {"budget": 2}, "too small for 2 models"),
        ((models, never), {"search": "grid"}, "search: got 'grid'"),
        ((models, never), {"controls": "all"}, "controls: got 'all'"),
        ((models, never), {"judge": 0}, "judge: got 0"),
        ((models, 3), {}, "int is no evaluator"),
        ((models, FunctionEvaluator(lambda s, r: 0.0 * r, size=4)), {}, "4 rows are too few"),
    ):
        with pytest.raises(InputError, match=words):
            stockpot.soup(*arguments, output=tmp_path / "out", **options)
    big = [{"w": np.random.default_rng(i).standard_normal((64, 64))} for i in (0, 1)]
    with pytest.raises(LineageError, match="no ancestor in common"):
        stockpot.soup(big, never, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        stockpot.soup(models, never, output=tmp_path / "out")
    with pytest.raises(StockpotError, match=r"failed on every model: .*AssertionError"):
        stockpot.soup(models, never)


def test_a_dry_run_starts_nothing(world):
    folder, models, base = world
    arguments = ["soup", *models, "--base", base, "-e", str(folder / "eval.yaml"), "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 models, 5 of 5 tensors differ; base base" in result.stdout
    assert "budget: 30 evaluations; search: cmaes" in result.stdout
    assert calls(folder) == 0
    assert plan_soup(models, folder / "eval.yaml", budget="2h")[2].startswith("budget: 7200 s")
