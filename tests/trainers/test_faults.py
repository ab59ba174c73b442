"""Trainers that go wrong: refused by name, left out by name, or worth a note."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from stockpot.checkpoints import hub
from stockpot.cli.main import app
from stockpot.errors import InputError, JobError
from stockpot.execution import Job, Serial, run_jobs
from stockpot.soups import SoupResults
from stockpot.trainers import plan_trainings, recycle_with
from tests.trainers.worlds import BY_FUNCTION, NUMPY, calls, make_world

PLAIN = {**BY_FUNCTION, "auxiliaries": [], "protocols": ["soup_uniform"]}
ODD = """
import own
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent

def saved(init, output, data, seed, learning_rate, change):
    own.train(init, output, data, seed=seed, learning_rate=learning_rate)
    state = load_file(output / "model.safetensors")
    change(state)
    save_file(state, output / "model.safetensors")

def forgets(init, output, data, *, seed, learning_rate):
    saved(init, output, data, seed, learning_rate, lambda s: s.pop("head.weight"))

def more(init, output, data, *, seed, learning_rate):
    extra = {"ema.weight": np.ones(3, np.float32)}
    saved(init, output, data, seed, learning_rate, lambda s: s.update(extra))

def adapter(init, output, data, *, seed, learning_rate):
    extra = {"body.lora_A.weight": np.ones((1, 4), np.float32)}
    saved(init, output, data, seed, learning_rate, lambda s: s.update(extra))

def half(init, output, data, *, seed, learning_rate):
    saved(init, output, data, seed, learning_rate,
          lambda s: s.update({n: v.astype(np.float16) for n, v in s.items()}))

def crashes(init, output, data, *, seed, learning_rate):
    with open(HERE / "calls", "a") as log:
        log.write(f"{seed}\\n")
    lost = (HERE / "lost").read_text().split()
    if "all" in lost or str(seed) in lost:
        raise RuntimeError("no room on the device")
    own.train(init, output, data, seed=seed, learning_rate=learning_rate)
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    make_world(tmp_path)
    (tmp_path / "odd.py").write_text(ODD)
    return tmp_path


def recycled(folder: Path, function: str, **changes):
    recipe = {**PLAIN, "trainer": {"function": f"odd.py:{function}"}, **changes}
    return recycle_with(recipe, folder / "out", root=folder, backend="serial", quiet=True)


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        (
            "forgets",
            "train base-0: the trainer's model lacks 'head.weight' of its init",
            "let the trainer save all weights",
        ),
        (
            "more",
            "train base-0: the trainer's model has 'ema.weight' that its init lacks",
            "else let the trainer save only what the init has",
        ),
        (
            "adapter",
            "model holds the factors of an adapter, no weights of a model",
            "give PEFT's folder",
        ),
    ],
)
def test_a_run_has_the_tensors_of_its_init(world, function, message, hint):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        recycled(world, function)
    assert "train base-0: " in str(caught.value)
    assert hint in str(caught.value)


def test_a_tensor_that_is_tied_to_another_may_be_left_out(world):
    base = load_file(world / "base/model.safetensors")
    save_file({**base, "tied.weight": base["body.weight"]}, world / "base/model.safetensors")
    (world / "odd.py").write_text(ODD.replace('s.pop("head.weight")', 's.pop("tied.weight")'))
    assert recycled(world, "forgets").results.row("uniform").choose is not None


def test_weights_stored_with_less_digits_are_worth_a_note(world):
    notes = recycled(world, "half").results.notes
    assert [note for note in notes if "stores F16 where its init has F32" in note] != []


def test_a_run_that_crashes_is_left_out_and_tried_again(world):
    (world / "lost").write_text("")
    whole = recycled(world, "crashes", title="whole")
    seeds = calls(world)
    assert len(seeds) == len(set(seeds)) == 4
    kept = (whole.model / "model.safetensors").read_bytes()

    again = {"overwrite": True, "root": world, "backend": "serial", "quiet": True}
    (world / "lost").write_text(seeds[1])
    recipe = {**PLAIN, "trainer": {"function": "odd.py:crashes"}, "title": "whole"}
    done = recycle_with(recipe, world / "next", **again)
    lost = [one for one in done.results.trainings if one.left_out]
    assert [one.name for one in lost] == ["base-1"]
    assert len(done.results.ingredients) == 3
    note = next(one for one in done.results.notes if one.startswith("base-1 is left out"))
    assert "failed: no room on the device" in note
    assert note.endswith("the same command tries again)")

    (world / "lost").write_text("")
    before = len(calls(world))
    done = recycle_with(recipe, world / "next", **again)
    assert calls(world)[before:] == [seeds[1]]
    assert not [one for one in done.results.trainings if one.left_out]
    assert (done.model / "model.safetensors").read_bytes() == kept


def test_too_few_that_are_left_are_refused(world):
    (world / "lost").write_text("all")
    with pytest.raises(JobError, match="the first 3 trainings failed: job 'train base-0' failed"):
        recycled(world, "crashes")
    assert len(calls(world)) == 3
    (world / "lost").write_text(" ".join(calls(world)))
    (world / "calls").unlink()
    with pytest.raises(JobError, match="fewer than two trainings can be used: base-0: job") as one:
        recycle_with(
            {**PLAIN, "trainer": {"function": "odd.py:crashes"}, "runs": 2},
            world / "two",
            root=world,
            backend="serial",
            quiet=True,
        )
    assert "the same command tries again" in str(one.value)


def test_what_starts_from_an_auxiliary_that_failed_is_left_out(world):
    (world / "lost").write_text("")
    protocols = ["ratatouille_uniform"]
    more = {"auxiliaries": BY_FUNCTION["auxiliaries"], "protocols": protocols}
    recycled(world, "crashes", **more)
    jobs = list((world / "out/work/jobs").iterdir())
    auxiliary = next(one for one in calls(world) if one not in {*_seeds_of_runs(world, jobs)})
    (world / "lost").write_text(auxiliary)
    recipe = {**PLAIN, "trainer": {"function": "odd.py:crashes"}, **more}
    done = recycle_with(recipe, world / "next", root=world, backend="serial", quiet=True)
    lost = {one.name for one in done.results.trainings if one.left_out}
    assert lost == {"other", "other-1", "other-3"}
    assert any("has 2 trainings" not in note and "base-" not in note for note in done.results.notes)


def _seeds_of_runs(world: Path, jobs: list[Path]) -> list[str]:
    from stockpot.provenance import read_record

    records = [read_record(job / "model") for job in jobs if (job / "model").is_dir()]
    return [
        str(one.recipe["seed"]) for one in records if one.kind == "finetune" and one.name != "other"
    ]


def test_jobs_that_may_fail_take_along_what_needs_them(tmp_path):
    helpers = "tests.execution.helpers"
    good = Job(f"{helpers}:write", {"text": "a"})
    bad = Job(f"{helpers}:fail", {}, {"good": good})
    above = Job(f"{helpers}:write", {"text": "b"}, {"bad": bad})
    other = Job(f"{helpers}:write", {"text": "c"}, {"good": good})
    asked = []

    def may_fail(job, error):
        asked.append((job, error.message))
        return True

    folders = run_jobs([above, other], tmp_path, Serial(), may_fail=may_fail)
    assert set(folders) == {good, other}
    assert [job for job, _ in asked] == [bad]


@pytest.mark.parametrize("data", ["train", "train.jsonlines", "./there", "name:", "trian.jsonl"])
def test_data_is_there_or_is_called_a_name(world, data):
    with pytest.raises(InputError, match=f"data: .*{data.lstrip('./')} does not exist"):
        plan_trainings({**PLAIN, "data": data}, root=world)


def test_a_name_reaches_the_trainer_as_the_trainer_knows_it(world):
    (world / "own.py").write_text(NUMPY.replace("Path(data)", "(Path(__file__).parent / data)"))
    assert plan_trainings({**PLAIN, "data": "name:imdb"}, root=world)
    done = recycle_with(
        {**PLAIN, "data": "name:./train.jsonl"},
        world / "out",
        root=world,
        backend="serial",
        quiet=True,
    )
    assert {one.data for one in done.results.trainings} == {"name:./train.jsonl"}


def test_shipped_trainers_read_files_alone(world):
    trainer = {"function": "stockpot.trainers:transformers"}
    recipe = {**PLAIN, "trainer": trainer, "data": "name:imdb"}
    with pytest.raises(InputError, match="does not exist") as caught:
        plan_trainings(recipe, root=world)
    assert "reads a file" in caught.value.hint


def test_weights_of_an_auxiliary_may_lie_on_the_hub(world, monkeypatch):
    base = load_file(world / "base/model.safetensors")
    state = {name: value + np.float32(0.01) for name, value in base.items()}
    (world / "fetched").mkdir()
    save_file(state, world / "fetched/model.safetensors")
    monkeypatch.setattr(hub, "fetch_folder", lambda name: world / "fetched")
    more = {
        "auxiliaries": [{"name": "wild", "weights": "somebody/chat"}],
        "protocols": ["ratatouille_uniform"],
    }
    done = recycle_with({**PLAIN, **more}, world / "out", root=world, backend="serial", quiet=True)
    assert {one.init for one in done.results.trainings} == {"base", "wild"}


def test_the_last_line_says_what_was_kept_and_no_row_is_cut(world):
    (world / "recipe.yaml").write_text(yaml.safe_dump(BY_FUNCTION))
    arguments = ["recycle", str(world / "recipe.yaml"), "-o", str(world / "out"), "--backend"]
    result = CliRunner().invoke(app, [*arguments, "serial"])
    assert result.exit_code == 0, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("kept: ")
    assert "on judging rows" in last
    assert "that the choosing rows cannot tell from the best" in last
    assert "ERM (best run, base-" in last
    assert max(map(len, result.stdout.splitlines())) <= 80
    shown = re.sub(r"\s+", "", result.stdout)
    for row in SoupResults.read(json.loads((world / "out/results.json").read_text())).candidates:
        assert re.sub(r"\s+", "", row.label) in shown


SCRIPT = """
import argparse, os, sys
import torch
from safetensors.torch import load_file
init, output, seed = sys.argv[1:]
state = load_file(init + "/model.safetensors")
torch.manual_seed(int(seed))
state = {n: v + 0.01 * torch.randn(v.shape) for n, v in state.items()}
os.makedirs(output + "/run")
args = argparse.Namespace(lr=0.1, model="tiny")
whole = {"state_dict": state, "args": args, "epoch": 3, "optimizer": {"state": {}}}
torch.save(whole, output + "/run/last.pth.tar")
torch.save(whole, output + "/run/checkpoint-3.pth.tar")
"""


def test_a_script_may_leave_its_weights_in_a_file_of_its_own(world):
    """As timm's train.py: in a folder of the run, with its settings and the optimizer beside."""
    (world / "script.py").write_text(SCRIPT)
    trainer = {
        "command": "python script.py {init} {output} {seed}",
        "weights": "run/last.pth.tar",
    }
    recipe = {**PLAIN, "trainer": trainer, "data": None, "hyperparameters": {}, "runs": 2}
    options = {"root": world, "backend": "serial", "quiet": True}
    done = recycle_with(recipe, world / "out", **options)
    states = [
        load_file(job / "model/model.safetensors")
        for job in (world / "out/work/jobs").iterdir()
        if (job / "model").is_dir()
    ]
    assert len(states) == 2
    assert all((job / "model/config.json").is_file() for job in (world / "out/work/jobs").iterdir())
    base = load_file(world / "base/model.safetensors")
    assert {name: one.shape for name, one in states[0].items()} == {
        name: one.shape for name, one in base.items()
    }
    assert done.results.row("uniform").choose is not None
    for pattern, message in (
        ("run/*.pth.tar", "2 files of the trainer's output are like"),
        ("last.pth", "0 files of the trainer's output are like"),
    ):
        odd = {**recipe, "trainer": {**trainer, "weights": pattern}}
        with pytest.raises(InputError, match=message) as caught:
            recycle_with(odd, world / "odd", **options, overwrite=True)
        assert "run/last.pth.tar" in str(caught.value)
    with pytest.raises(InputError, match="'weights' is a path from"):
        plan_trainings({**recipe, "trainer": {**trainer, "weights": "../x"}}, root=world)
