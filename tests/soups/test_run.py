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
from stockpot.errors import InputError, LineageError, NonFiniteError, OutputError, StockpotError
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


def test_a_function_that_changes_its_state_changes_nothing_else():
    base, *models = states(3)
    target = mixed(base, models, [0.6, 0.3, 0.3])
    kept = [{name: value.copy() for name, value in one.items()} for one in (base, *models)]
    score = bowl(target, 0.01 * np.random.default_rng(0).standard_normal(100))

    def careless(state):
        values = score(state)
        for value in state.values():
            value *= 0
        return values

    options = {"base": base, "budget": 12, "controls": "none"}
    done, plain = (stockpot.soup(models, one, **options) for one in (careless, score))
    for before, now in zip(kept, (base, *models), strict=True):
        assert all((before[name] == now[name]).all() for name in before)
    assert done.results.kept.choose == plain.results.kept.choose
    for value in done.state.values():
        value *= 0
    assert (base["head.weight"] == kept[0]["head.weight"]).all()


def test_scores_of_a_function_are_kept_as_far_as_it_is_known(tmp_path):
    _, *models = states(3)
    calls = []

    def by(labels, counted=None):
        def score(state):
            if counted is not None:
                counted.append(1)
            return labels + float(state["head.weight"].sum())

        return score

    options = {"budget": 4, "cache": tmp_path, "controls": "none"}
    first, second = np.arange(40.0), np.arange(40.0)[::-1].copy()
    runs = [
        stockpot.soup(models, by(labels), **options).results.cost.run
        for labels in (first, first, second)
    ]
    assert runs == [4, 0, 4]
    handle = object()
    unknown = by(first)
    for _ in range(2):
        done = stockpot.soup(models, lambda s: (calls.append(id(handle)), unknown(s))[1], **options)
        assert done.results.cost.run == 4
        assert "not kept for later runs: 'handle' is a object" in done.results.notes[0]


def test_models_with_the_same_weights_count_once():
    _, *models = states(3)
    named = {"a": models[0], "b": models[1], "twin": models[0], "c": models[2]}
    done = stockpot.soup(named, flat, budget=40, search="none").results
    assert [one.name for one in done.ingredients] == ["a", "b", "c"]
    assert done.notes[0] == "twin has the same weights as a and is counted once, as a"
    assert done.row("leave-one-out").label[-1] in "abc"


def test_a_budget_of_time_covers_the_whole_run():
    base, *models = states(3)
    score = bowl(mixed(base, models, [0.6, 0.3, 0.3]), np.zeros(50))

    def slow(state, rows):
        time.sleep(0.1)
        return score(state)[rows]

    started = time.monotonic()
    done = stockpot.soup(
        models, FunctionEvaluator(slow, size=50), base=base, budget="2s", racing=False
    ).results
    assert time.monotonic() - started < 4
    assert done.kept.judge is not None
    done = stockpot.soup(
        models, FunctionEvaluator(slow, size=50), base=base, budget="0.15s", racing=False
    ).results
    assert any("the budget ended before" in note for note in done.notes)
    assert done.kept.name == "best"
    assert done.ingredients[2].score is None
    with pytest.raises(StockpotError, match="before a model was evaluated"):
        stockpot.soup(models, FunctionEvaluator(slow, size=50), budget="0.00001s")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_program_and_removes_its_folders(world, name):
    folder, models, _ = world
    (folder / "slow.py").write_text(
        "import os, sys, time\nwith open('ready', 'w') as file:\n"
        "    file.write(f'{os.getpid()} {sys.argv[1]}')\nos.rename('ready', 'started')\n"
        "time.sleep(600)\n"
    )
    (folder / "slow.yaml").write_text("command: python slow.py {model}\n")
    code = "from stockpot.cli.main import main; main()"
    command = ["soup", *models, "-e", str(folder / "slow.yaml"), "-o", str(folder / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True
    )
    while not (folder / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    pid, scratch = (folder / "started").read_text().split()
    number = getattr(signal, name)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert f"ended by {name}; run the same command again" in process.stderr.read()
    process.stderr.close()
    assert not Path(scratch).exists()
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_search_came_to_is_always_judged():
    _, *models = states(4, seed=2)

    def noisy(state, rows):
        key = int(abs(state["head.weight"].sum()) * 1e9) % (1 << 32)
        return np.random.default_rng(key).standard_normal(200)[rows]

    evaluator = FunctionEvaluator(noisy, size=200)
    done = stockpot.soup(models, evaluator, budget=60, layer_groups=1).results
    assert done.searched.against == "best"
    assert done.searched.judge is not None
    assert done.row("search").judge is not None
    assert "The best that was searched: against best single model" in " ".join(
        terminal_soup(done).split()
    )
    assert {claim.verdict for claim in done.kept.claims} <= {"better", "worse", "no difference"}


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


def test_what_is_watched_is_scored_for_all_and_decides_nothing(tmp_path):
    base, *models = states(3, dtype=np.float32)
    code = """
import numpy as np
from safetensors.numpy import load_file
def gap(state, name):
    other = load_file(name)
    return sum(((state[n] - other[n]) ** 2).sum() for n in other)
def score(state):
    return -gap(state, {target!r}) + 0.001 * np.random.default_rng(0).standard_normal(50)
def moved(state):
    return gap(state, {base!r}) * np.arange(1, 21)
"""
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("target", "base")}
    write_checkpoint(files["target"], mixed(base, models, [0.5, 0.2, 0.3]))
    write_checkpoint(files["base"], base)
    (tmp_path / "mine.py").write_text(code.format(**files))
    plain = tmp_path / "plain.yaml"
    plain.write_text("function: mine.py:score\n")
    (tmp_path / "eval.yaml").write_text(
        "function: mine.py:score\nwatch:\n- {function: mine.py:moved, lower_is_better: true}\n"
    )
    options = {"base": base, "budget": 40, "search": "none"}
    done = stockpot.soup(models, tmp_path / "eval.yaml", **options).results
    assert done.kept == stockpot.soup(models, plain, **options).results.kept
    assert done.kept.checks == ()
    for row in done.candidates:
        (one,) = row.watched
        assert one.against == "base"
        assert one.metric == "loss"
        assert one.change.mean == pytest.approx(one.score, rel=1e-9)  # the base has not moved
        if row.name not in ("base", "stock") and not row.name.startswith("wise"):
            state = mixed(base, models, row.coefficients)
            moved = sum(((state[n] - base[n]) ** 2).sum() for n in base)
            assert one.score == pytest.approx(-10.5 * moved, rel=1e-3)
            assert one.change.margin > 0
    assert done.row("base").watched[0].score == 0.0
    assert "against base" in render(done)
    assert terminal_soup(done).count(" ± ") >= len(done.candidates)


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
    bad = {name: np.full_like(value, np.nan) for name, value in models[0].items()}
    with pytest.raises(NonFiniteError, match=r"^bad: .*leave out bad"):
        stockpot.soup({"a": models[0], "b": models[1], "bad": bad}, never, force=True)
    stranger = np.random.default_rng(7).standard_normal((64, 64))
    own = [{"w": big[0]["w"] + 0.01 * i * big[1]["w"]} for i in range(3)]
    with pytest.raises(LineageError, match="leave out model 4"):
        stockpot.soup([*own, {"w": stranger}], never)
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
