"""The whole verb with trainers of somebody's own: pools, heads, averages, interruptions."""

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
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

import stockpot
from stockpot.cli.main import app
from stockpot.errors import InputError, JobError, OutputError
from stockpot.provenance import read_models, read_record
from stockpot.registry import init_registry, land
from stockpot.report.soup import render
from stockpot.soups import SoupResults
from stockpot.trainers import FunctionTrainer, recycle_with
from stockpot.trainers.contract import TrainingRequest
from tests.trainers.worlds import BY_FUNCTION, RECIPE, calls, make_world


def recycled(folder: Path, recipe, **options):
    options = {"root": folder, "backend": "serial", "quiet": True, **options}
    return recycle_with(recipe, folder / "out", **options)


def models(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What each job left, by its label."""
    found = {}
    for job in (folder / "out/work/jobs").iterdir():
        label = json.loads((job / "done.json").read_text())["label"]
        if (job / "model").is_dir():
            found[label] = load_file(job / "model/model.safetensors")
    return found


def right(folder: Path, state) -> np.ndarray:
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    x, y = np.array([row["x"] for row in rows]), np.array([row["y"] for row in rows])
    return (np.tanh(x @ state["body.weight"].T) @ state["head.weight"].T).argmax(1) == y


def mean(*states):
    return {name: np.mean([state[name] for state in states], axis=0) for name in states[0]}


def test_protocols_are_averages_of_their_pools(tmp_path):
    """Against plain numpy: the accuracy of every candidate on all rows."""
    make_world(tmp_path)
    done = recycled(tmp_path, BY_FUNCTION)
    made, base = models(tmp_path), load_file(tmp_path / "base/model.safetensors")
    plain = [made[f"train base-{index}"] for index in range(4)]
    other = [plain[0], made["train other-1"], plain[2], made["train other-3"]]
    oracle = {
        "base": base,
        "uniform": mean(*plain),
        "ratatouille_uniform": mean(*other),
        "wise_ft_half": None,
        "stock_2": stockpot.merge(plain[:2], method="stock", base=base).state,
        "stock_all": stockpot.merge(plain, method="stock", base=base).state,
        "ratatouille_stock": stockpot.merge(other, method="stock", base=base).state,
    }
    results, sizes = done.results, done.results.evaluator
    best = results.row("best").label.rpartition(", ")[2]
    oracle["wise_ft_half"] = mean(base, made[f"train {best}"])
    for name, state in oracle.items():
        row = results.row(name)
        seen = (row.choose * sizes.choosing + row.judge * sizes.judging) / sizes.rows
        assert seen == pytest.approx(right(tmp_path, state).mean()), name
    assert results.candidates[0].name == "best"
    chosen = {"best", "wise_ft", "soup_greedy", "inter_training", "fusing", "ratatouille_greedy"}
    assert {row.name for row in results.candidates} == {*oracle, *chosen}
    kept = load_file(done.model / "model.safetensors")
    row = results.row(results.kept.name)
    seen = (row.choose * sizes.choosing + row.judge * sizes.judging) / sizes.rows
    assert right(tmp_path, kept).mean() == pytest.approx(seen)
    assert {one.name: one.init for one in results.trainings}["mixture-2"] == "mixture"
    page = render(results)
    assert "mixture-2" in page
    assert "The trainings" in page


def test_auxiliaries_bring_no_head_and_mixtures_are_means(tmp_path):
    make_world(tmp_path)
    recycled(tmp_path, BY_FUNCTION)
    made, base = models(tmp_path), load_file(tmp_path / "base/model.safetensors")
    other, init = made["train auxiliary other"], made["init other"]
    assert other["head.weight"].shape == (3, 8)
    np.testing.assert_array_equal(init["head.weight"], base["head.weight"])
    np.testing.assert_array_equal(init["body.weight"], other["body.weight"])
    for index in range(4):
        mixture = made[f"init mixture-{index}"]["body.weight"] - base["body.weight"]
        move = other["body.weight"] - base["body.weight"]
        share = (mixture * move).sum() / (move**2).sum()
        assert 0 < share < 1
        np.testing.assert_allclose(mixture, share * move, atol=1e-6)


def test_a_head_that_the_base_lacks_is_shared(tmp_path):
    make_world(tmp_path, head=False)
    plain = {**BY_FUNCTION, "protocols": ["soup_uniform", "ratatouille_uniform"]}
    with pytest.raises(InputError, match="every run would begin with another one"):
        recycled(tmp_path, plain)
    values = {**plain["hyperparameters"], "freeze": False}
    done = recycled(
        tmp_path, {**plain, "hyperparameters": values, "head": {"freeze": True}}, overwrite=True
    )
    made, base = models(tmp_path), load_file(tmp_path / "base/model.safetensors")
    head = made["train head"]
    np.testing.assert_array_equal(head["body.weight"], base["body.weight"])
    for init, body in (("base", base), ("other", made["train auxiliary other"])):
        np.testing.assert_array_equal(made[f"init {init}"]["head.weight"], head["head.weight"])
        np.testing.assert_array_equal(made[f"init {init}"]["body.weight"], body["body.weight"])
    assert done.results.trainings[0].hyperparameters["freeze"] is True
    probe = done.results.row("base")
    assert probe.choose > 0.5


def test_what_diverged_is_left_out_by_name(tmp_path):
    make_world(tmp_path)
    values = {**BY_FUNCTION["hyperparameters"], "blow_up": True}
    recipe = {**BY_FUNCTION, "hyperparameters": values, "auxiliaries": [], "runs": 6}
    done = recycled(tmp_path, recipe)
    lost = [one for one in done.results.trainings if one.left_out]
    assert 1 <= len(lost) <= 4
    assert lost[0].left_out == "it has diverged: 'body.weight' is not finite"
    assert any(f"{lost[0].name} is left out" in note for note in done.results.notes)
    assert {one.name for one in done.results.ingredients} == {
        one.name for one in done.results.trainings
    } - {one.name for one in lost}


def test_weights_from_the_wild_and_the_registry(tmp_path):
    make_world(tmp_path)
    recycled(tmp_path, {**BY_FUNCTION, "protocols": ["ratatouille_uniform"]})
    wild = next(
        job / "model"
        for job in (tmp_path / "out/work/jobs").iterdir()
        if json.loads((job / "done.json").read_text())["label"] == "train auxiliary other"
    )
    recipe = {
        **BY_FUNCTION,
        "auxiliaries": [{"name": "wild", "weights": str(wild)}],
        "protocols": ["ratatouille_uniform"],
    }
    done = recycle_with(recipe, tmp_path / "again", root=tmp_path, backend="serial", quiet=True)
    listed = read_models(done.folder)
    assert [one.name for one in listed[:3]] == ["base", "wild", "init wild"]
    record = read_record(done.folder / listed[-2].source)
    assert record.kind == "finetune"
    assert record.recipe["hyperparameters"] == {"learning_rate": 0.1}
    with init_registry(tmp_path / "registry") as registry:
        landed = land(registry, done.folder)
        assert not landed.left_out
        parents = {parent.digest: parent.role for parent in landed.models[-2].manifest.parents}
        init = next(one for one in landed.models if one.manifest.name == "init wild")
        assert parents == {init.manifest.digest: "init"}


def test_a_trainer_that_writes_something_else_is_one_line(tmp_path):
    make_world(tmp_path)
    (tmp_path / "bad.py").write_text(
        "from pathlib import Path\nimport numpy as np\nfrom safetensors.numpy import save_file\n"
        "def nothing(init, output, data, *, seed, learning_rate): output.mkdir()\n"
        "def empty(init, output, data, *, seed, learning_rate):\n"
        "    output.mkdir(); (output / 'config.json').write_text('{}')\n"
        "def careless(init, output, data, *, seed, learning_rate):\n"
        "    import own; own.train(init, output, data, seed=seed, learning_rate=learning_rate)\n"
        "    trained = (output / 'model.safetensors').read_bytes()\n"
        "    (init / 'model.safetensors').write_bytes(trained)\n"
        "def other(init, output, data, *, seed, learning_rate):\n"
        "    output.mkdir()\n"
        "    save_file({'x': np.ones(500, np.float32)}, output / 'model.safetensors')\n"
        "def fails(init, output, data, *, seed, learning_rate): 1 / 0\n"
    )
    for name, error, message in (
        ("nothing", InputError, "train base-0: the trainer ended well and left nothing in its"),
        ("empty", InputError, "train base-0: .*no weights"),
        ("careless", InputError, "train base-0: the trainer changed the weights that it started"),
        ("other", InputError, "train base-0: what the trainer wrote is no model of the init's fam"),
        ("fails", JobError, "job 'train base-0' failed: division by zero"),
    ):
        with pytest.raises(error, match=message) as caught:
            recycled(tmp_path, {**BY_FUNCTION, "trainer": {"function": f"bad.py:{name}"}})
        assert "\n" not in caught.value.message


def test_trained_models_that_look_like_strangers_are_judged_and_not_refused(tmp_path):
    """A trainer that ignores its init: trainings that were paid for are scored, with a note."""
    make_world(tmp_path)
    (tmp_path / "fresh.py").write_text(
        "import numpy as np\nfrom safetensors.numpy import save_file\n"
        "def train(init, output, data, *, seed, learning_rate):\n"
        "    rng = np.random.default_rng(seed); output.mkdir()\n"
        "    state = {'body.weight': (64, 64), 'next.weight': (64, 64), 'head.weight': (2, 64)}\n"
        "    state = {n: rng.standard_normal(s).astype('f4') for n, s in state.items()}\n"
        "    save_file(state, output / 'model.safetensors')\n"
        "def score(state): return (state['body.weight'] > 0).reshape(-1)[:100].astype(float)\n"
    )
    base = TrainingRequest(tmp_path, tmp_path / "large", None, 0, {"learning_rate": 1.0})
    FunctionTrainer("fresh.py:train", root=tmp_path).train(base, tmp_path / "log", 1)
    recipe = {
        **BY_FUNCTION,
        "base": "large",
        "trainer": {"function": "fresh.py:train"},
        "evaluate": {"function": "fresh.py:score"},
        "auxiliaries": [],
    }
    results = recycled(tmp_path, recipe).results
    assert any("does not start from its init" in note for note in results.notes)
    assert results.row("uniform").choose is not None
    close = recycled(tmp_path, {**BY_FUNCTION, "auxiliaries": []}, overwrite=True).results
    assert not any("its init" in note for note in close.notes)


def test_another_recipe_never_replaces_results(tmp_path):
    make_world(tmp_path)
    recipe = {**BY_FUNCTION, "auxiliaries": []}
    first = recycled(tmp_path, recipe)
    again = recycled(tmp_path, recipe)
    assert again.results.cost.run == 0
    assert again.results.kept == first.results.kept
    with pytest.raises(OutputError, match="another recipe"):
        recycled(tmp_path, recipe, seed=3)


@pytest.mark.slow
def test_a_plain_script_killed_at_any_moment_trains_nothing_twice(tmp_path):
    """A script of torch as a command; kill -9 leaves no process behind, and the same bytes."""
    make_world(tmp_path)
    protocols = ["soup_uniform", "ratatouille_uniform"]
    recipe = {**RECIPE, "evaluate": BY_FUNCTION["evaluate"], "runs": 2, "protocols": protocols}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["recycle", str(tmp_path / "recipe.yaml"), "-q", "--jobs", "1"]
    code = "from stockpot.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "-o", str(tmp_path / "out")],
        env={**os.environ, "PAUSE": "1"},
    )
    while len(calls(tmp_path)) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    # What was running when the run was killed began again, and nothing else.
    begun = [Path(path).parts[-2].partition("~")[0] for path in calls(tmp_path)]
    assert len(set(begun)) == 4
    assert len(begun) <= 5
    value = json.loads((tmp_path / "out/results.json").read_text())
    assert len(SoupResults.read(value).trainings) == 4
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "plain")])
    assert result.exit_code == 0, result.output
    assert len(calls(tmp_path)) == len(begun) + 4
    written = [tmp_path / out / "model/model.safetensors" for out in ("out", "plain")]
    assert written[0].read_bytes() == written[1].read_bytes()
    assert (tmp_path / "out/report.html").is_file()
