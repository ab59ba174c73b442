"""What a trainer is given, and what is refused before one trains."""

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
from safetensors.numpy import save_file

from stockpot.errors import InputError, JobError, RecipeError
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.trainers import CommandTrainer, FunctionTrainer, plan_trainings
from stockpot.trainers.contract import TrainingRequest
from stockpot.trainers.recipe import TrainerRecipe, runs_anywhere
from tests.evaluators.test_command import is_gone
from tests.trainers.worlds import BY_FUNCTION, COMMAND, RECIPE, make_world


def request(folder: Path, **hyperparameters) -> TrainingRequest:
    return TrainingRequest(folder / "in", folder / "out", "some name", 7, hyperparameters)


def test_values_reach_the_command_as_they_are(tmp_path):
    (tmp_path / "sft.py").write_text(
        "import json, os, sys\n"
        "json.dump([*sys.argv[1:], os.environ['OMP_NUM_THREADS']], open('seen', 'w'))\n"
        "print('trained')\n"
    )
    trainer = CommandTrainer(
        "python sft.py {init} {output} --data={data} {seed} {lr} {lora} '{\"a\": 1}' {kind}",
        root=tmp_path,
    )
    values = {"lr": 5e-5, "lora": True, "kind": "{seed} it's"}
    trainer.train(request(tmp_path, **values), tmp_path / "log", 3)
    seen = json.loads((tmp_path / "seen").read_text())
    paths = [str(tmp_path / "in"), str(tmp_path / "out")]
    rest = ["--data=some name", "7", "5e-05", "true", '{"a": 1}', "{seed} it's", "3"]
    assert seen == paths + rest
    assert (tmp_path / "log").read_text() == "trained\n"


def test_a_command_that_fails_shows_the_end_of_what_it_said(tmp_path):
    (tmp_path / "sft.py").write_text("print('step 3')\nraise SystemExit('out of memory')\n")
    trainer = CommandTrainer("python sft.py {init} {output}", root=tmp_path)
    with pytest.raises(JobError, match=r"exit code 1: step 3 \| out of memory$"):
        trainer.train(request(tmp_path), tmp_path / "log", 1)
    slow = CommandTrainer(
        "python -c 'import time; time.sleep(60)' {init} {output}", root=tmp_path, timeout=0.5
    )
    with pytest.raises(JobError, match=r"took longer than 0\.5 s and was ended"):
        slow.train(request(tmp_path), tmp_path / "log", 1)


def test_a_program_ends_with_who_was_killed(tmp_path):
    """kill -9 of the process that waits: neither the command nor its child lives on."""
    (tmp_path / "sft.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pids.part', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename('pids.part', 'pids')\n"
        "time.sleep(600)\n"
    )
    code = (
        "from pathlib import Path; import sys\n"
        "from stockpot.commands import run_command\n"
        "from stockpot.errors import JobError\n"
        "run_command([sys.executable, 'sft.py'], Path(), open('a', 'w+b'), open('b', 'w+b'),"
        " timeout=600, error=JobError)"
    )
    waiting = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "pids").exists():
        assert waiting.poll() is None
        time.sleep(0.05)
    os.kill(waiting.pid, signal.SIGKILL)
    waiting.wait()
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyperparameters": {"learning_rat": 0.1}}, "needs 'learning_rate', and the recipe has"),
        ({"hyperparameters": {"learning_rate": 0.1, "dropout": 0}}, "does not take 'dropout'"),
        ({"hyperparameters": {"learning_rate": 0.1, "seed": 0}}, "'seed' is given to every"),
        ({"trainer": {"command": COMMAND.replace("{data}", "x")}}, "does not take 'data'"),
        ({"trainer": {"command": "python sft.py {init}"}}, "has no {output}"),
        ({"trainer": {"command": "no-such {init} {output}"}}, "there is no program 'no-such'"),
        ({"trainer": {"command": "python 'sft.py {init} {output}"}}, "No closing quotation"),
        ({"trainer": {"command": COMMAND, "function": "a:b"}}, "one of 'command' and 'function'"),
        ({"trainer": {"function": "os:system"}}, "does not offer it: say --allow-code"),
        ({"trainer": {"function": "own.py:right"}}, r"takes \(init, output, data, ...\)"),
        ({"trainer": {"function": "own.py:train", "timeout": 3}}, "no meaning with 'function'"),
        ({"head": {"freeze": True}}, "head: 'freeze' is not among hyperparameters"),
        ({"protocols": ["swad"]}, "'swad' needs stockpot's own training"),
        ({"protocols": ["stock_al"]}, "unknown protocol 'stock_al'; did you mean 'stock_all'"),
        ({"runs": 2, "auxiliaries": [{"name": n, "data": n} for n in "ab"]}, "cannot start from 3"),
        ({"auxiliaries": [{"name": "base", "data": "x"}]}, "has a name that is taken"),
        ({"auxiliaries": [{"name": "a"}]}, "give one of 'data' and 'weights'"),
        ({"base": "base/model.safetensors"}, "is no model folder"),
        ({"evaluate": {"command": "python eval.py"}}, "is given no model"),
        ({"epochs": 3}, "unknown key 'epochs'"),
        # What is named is there.
        ({"data": "trian.jsonl"}, "data: .*trian.jsonl does not exist"),
        ({"auxiliaries": [{"name": "a", "data": "./there"}]}, "data: .*there does not exist"),
        ({"trainer": {"command": COMMAND.replace("sft", "stf")}}, "there is no file .*stf.py"),
        ({"evaluate": {"command": "python evil.py {model}"}}, "there is no file .*evil.py"),
        ({"head_tensors": ["haed.*"]}, r"head_tensors: 'haed\.\*' names no tensor of base"),
        ({"data": None}, "auxiliaries have 'data', and the recipe itself has none"),
        # Names that jobs of the plan have are no auxiliary's.
        ({"auxiliaries": [{"name": "head", "data": "x"}]}, "'head' stands twice, or has a name"),
        ({"auxiliaries": [{"name": "base-1", "data": "x"}]}, "'base-1' stands twice, or has a"),
        ({"auxiliaries": [{"name": "..", "data": "x"}]}, "name: String should match"),
        # Values that a trainer cannot mean.
        ({"hyperparameters": {"learning_rate": []}}, "at least 1 item"),
        (
            {
                "trainer": {"function": "stockpot.trainers:transformers"},
                "hyperparameters": {"learning_rate": [1e-3, "fast"]},
            },
            "hyperparameters.learning_rate: .*valid number.*got 'fast'",
        ),
        (
            {
                "trainer": {"function": "stockpot.trainers:transformers"},
                "hyperparameters": {"schedule": "cosin"},
            },
            "hyperparameters.schedule: .*'linear', 'cosine'.*got 'cosin'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_trains(
    tmp_path, monkeypatch, changes, message
):
    monkeypatch.delenv("STOCKPOT_ALLOW_CODE", raising=False)
    make_world(tmp_path)
    with pytest.raises(InputError, match=message):
        plan_trainings({**RECIPE, **changes}, root=tmp_path)
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("text", ["2e-5", "-1E+3", "1.5e2", "1e5"])
def test_numbers_that_yaml_reads_as_text_are_numbers(text):
    values = yaml.safe_load(f"{{one: {text}, several: [{text}, 0.5], other: e5}}")
    recipe = TrainerRecipe.parse({**RECIPE, "hyperparameters": values, "head": {"one": text}})
    assert recipe.hyperparameters == {
        "one": float(text),
        "several": [float(text), 0.5],
        "other": "e5",
    }
    assert recipe.head == {"one": float(text)}


@pytest.mark.parametrize("value", [100, 0, -3, 2**40])
def test_a_whole_number_that_was_drawn_is_read_as_one(tmp_path, value):
    """A draw gives floats, and ``int("100.0")`` is an error."""
    trainer = CommandTrainer("touch {output}-{steps} {init}", root=tmp_path)
    trainer.train(request(tmp_path, steps=float(value)), tmp_path / "log", 1)
    assert (tmp_path / f"out-{value}").exists()


def test_runs_that_would_all_be_the_same_are_refused(tmp_path):
    make_world(tmp_path)
    fixed = {"command": COMMAND.replace("{seed}", "1")}
    with pytest.raises(RecipeError, match="all runs would be the same"):
        plan_trainings(
            {**RECIPE, "trainer": fixed, "hyperparameters": {"learning_rate": 0.1}}, root=tmp_path
        )
    assert plan_trainings({**RECIPE, "trainer": fixed}, root=tmp_path)  # the rates are drawn


def test_a_foreign_auxiliary_is_refused(tmp_path):
    make_world(tmp_path)
    for seed, name in enumerate(("large", "wild")):
        values = np.random.default_rng(seed).standard_normal((4, 64, 64)).astype(np.float32)
        (tmp_path / name).mkdir()
        state = {f"layers.{layer}.weight": value for layer, value in enumerate(values)}
        save_file(state, tmp_path / name / "model.safetensors")
    wild = {"base": "large", "auxiliaries": [{"name": "wild", "weights": "wild"}]}
    with pytest.raises(InputError, match="no ancestor in common"):
        plan_trainings({**RECIPE, **wild}, root=tmp_path)


def test_the_identity_follows_what_weights_depend_on(tmp_path):
    make_world(tmp_path)

    def identities():
        trainer = CommandTrainer(COMMAND, root=tmp_path)
        return trainer.identity, FunctionTrainer("own.py:train", root=tmp_path).identity

    command, function = identities()
    assert identities() == (command, function)
    (tmp_path / "sft.py").write_text((tmp_path / "sft.py").read_text() + "# more\n")
    assert identities()[0] != command
    assert identities()[1] == function


def test_which_protocols_run_on_any_trainer():
    assert [one.name for one in PROTOCOLS.values() if runs_anywhere(one)] == [
        "linear_probe",
        "erm",
        "wise_ft",
        "wise_ft_half",
        "soup_uniform",
        "soup_greedy",
        "stock_2",
        "stock_all",
        "inter_training",
        "fusing",
        "ratatouille_uniform",
        "ratatouille_greedy",
        "ratatouille_stock",
    ]


def test_a_plan_names_each_training_once(tmp_path):
    make_world(tmp_path)
    labels = plan_trainings(BY_FUNCTION, root=tmp_path)
    assert len(labels) == len(set(labels))
    assert labels[:6] == [
        *(f"train base-{index}" for index in range(4)),
        "train auxiliary other",
        "init other",
    ]
    only = plan_trainings({**BY_FUNCTION, "protocols": ["soup_greedy"]}, root=tmp_path)
    assert only == labels[:4]
