"""Programs as evaluators: what they print, how they fail, and that nothing of them survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import EvaluationError, InputError, RecipeError
from stockpot.evaluators import CommandEvaluator, load_evaluator
from stockpot.evaluators.scratch import fresh_folder
from tests.soups.bowls import states


@pytest.fixture
def model():
    return open_checkpoint(states(0, dtype=np.float32)[0])


def program(folder: Path, code: str) -> Path:
    (folder / "eval.py").write_text(f"import json, os, sys, time\n{code}\n")
    return folder


def run(folder, code, model, command="python eval.py {model}", rows=None, **options):
    with CommandEvaluator(command, root=program(folder, code), **options) as evaluator:
        return evaluator.evaluate(model, rows)


def test_the_last_line_of_json_counts(tmp_path, model):
    code = """
print("loading", sys.argv[1])
print(json.dumps({"step": 3}))
print(json.dumps({"scores": [0.25, 1, True]}))
print("bye")
assert sorted(os.listdir(sys.argv[1])) == ["model.safetensors"]
"""
    np.testing.assert_array_equal(run(tmp_path, code, model), [0.25, 1, 1])


def test_one_number_and_lower_is_better(tmp_path, model):
    code = """print(json.dumps({"score": 0.75, "other": 1}))"""
    assert run(tmp_path, code, model) == 0.75
    assert run(tmp_path, code, model, lower_is_better=True) == -0.75


def test_rows_are_those_that_were_asked_for(tmp_path, model):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"x": i}) + "\n" for i in range(30)))
    code = """
rows = [json.loads(line)["x"] for line in open(sys.argv[2])]
print(json.dumps({"scores": rows}))
"""
    command = "python eval.py {model} {rows}"
    with CommandEvaluator(command, root=program(tmp_path, code), rows=data) as evaluator:
        assert evaluator.size == 30
        assert evaluator.takes_rows
        np.testing.assert_array_equal(evaluator.evaluate(model, np.array([7, 3])), [7, 3])
        np.testing.assert_array_equal(evaluator.evaluate(model), np.arange(30))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('hello')", "printed no score, its last line is: hello"),
        ("print('{\"score\": 1e308}')", r"the score is 1e\+308"),
        ("print('{\"scores\": [1, NaN]}')", "the score of row 1 is nan"),
        ("print('{\"score\": Infinity}')", "the score is inf"),
        ("print('{\"scores\": []}')", "one score a row"),
        ('print(\'{"scores": ["good"]}\')', "are no numbers"),
        ("raise SystemExit('out of luck')", "exit code 1: out of luck"),
        ("import this_is_not_there", "exit code 1: .*ModuleNotFoundError"),
        ("os.kill(os.getpid(), 9)", "ended with signal 9"),
        ("sys.stderr.write('a\\n\\nb\\n'); sys.exit(3)", r"exit code 3: a \| b$"),
    ],
)
def test_what_is_no_score_is_one_line(tmp_path, model, code, words):
    with pytest.raises(EvaluationError, match=words) as caught:
        run(tmp_path, code, model)
    assert "\n" not in caught.value.message


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path, model):
    code = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
print("waiting", file=sys.stderr, flush=True)
time.sleep(600)
"""
    started = time.monotonic()
    with pytest.raises(EvaluationError, match=r"longer than 5 s and was ended: waiting"):
        run(tmp_path, code, model, timeout=5.0)
    assert time.monotonic() - started < 60
    assert is_gone(int((tmp_path / "child").read_text()))


def test_a_child_that_outlives_its_command_is_ended_and_not_waited_for(tmp_path, model):
    code = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
print(json.dumps({"score": 1}))
"""
    assert run(tmp_path, code, model) == 1.0
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(pid: int) -> bool:
    """Whether a process ends soon; a zombie that nobody waits for has ended."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", ["no-such-program", "./no-such-program"])
def test_a_program_that_is_not_there_is_refused_before_anything_runs(tmp_path, model, name):
    with pytest.raises(InputError, match=f"there is no program '{name}'"):
        run(tmp_path, "", model, command=f"{name} {{model}}")


def test_a_folder_of_a_killed_process_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    own = fresh_folder()
    old = own.with_name(own.name.replace(str(os.getpid()), str(child.pid)))
    old.mkdir()
    (old / "model").write_text("weights")
    again = fresh_folder()
    assert not old.exists()
    assert own.is_dir()
    assert again.is_dir()


def test_the_metric_of_given_scores(tmp_path, model):
    code = """print(json.dumps({"scores": [0.5, 0.25]}))"""
    loss = {"metric": "log_loss"}
    np.testing.assert_array_equal(run(tmp_path, code, model, **loss), [-0.5, -0.25])
    for wrong, words in (
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "accuracy", "lower_is_better": True}, "higher is better"),
    ):
        with pytest.raises(InputError, match=words):
            run(tmp_path, code, model, **wrong)


def test_what_cannot_work_is_refused_before_it_runs(tmp_path):
    command = "python eval.py {model}"
    with pytest.raises(InputError, match=r"there is no file .*eval.py"):
        CommandEvaluator(command, root=tmp_path)
    program(tmp_path, "pass")
    with pytest.raises(InputError, match="is given no model"):
        CommandEvaluator("python eval.py", root=tmp_path)
    with pytest.raises(InputError, match=r"asks for {rows}"):
        CommandEvaluator(f"{command} {{rows}}", root=tmp_path)
    with pytest.raises(InputError, match="cannot read the rows"):
        CommandEvaluator(command, root=tmp_path, rows=tmp_path / "none")


def test_the_identity_follows_what_scores_depend_on(tmp_path):
    program(tmp_path, "pass")
    data = tmp_path / "data"
    data.write_text("1")

    def identity(command="python eval.py {model}", **options):
        return CommandEvaluator(command, root=tmp_path, **options).identity

    first = identity(files=[data])
    assert identity(files=[data]) == first
    assert identity() != first
    assert identity("python eval.py {model} -v", files=[data]) != first
    assert identity(files=[data], lower_is_better=True) != first
    data.write_text("2")
    assert identity(files=[data]) != first
    before = identity()
    program(tmp_path, "print(1)")
    assert identity() != before


def test_a_file_of_one_line_is_enough(tmp_path, model):
    program(tmp_path, """print(json.dumps({"score": 0.71}))""")
    (tmp_path / "eval.yaml").write_text("command: python eval.py {model}\n")
    evaluator, constraints = load_evaluator(tmp_path / "eval.yaml")
    with evaluator:
        assert evaluator.evaluate(model) == 0.71
    assert constraints == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "is a mapping with one of"),
        ("lower_is_better: true", "none is there"),
        ("command: a {model}\ntask: t.yaml", "not command and task"),
        ("comand: a {model}", "unknown key 'comand'; did you mean 'command'"),
        ("command: a {model}\ntimeout: soon", "eval.yaml:2: timeout: 'soon' is no duration"),
        ("perplexity: a.jsonl\nrows: 3", "'rows' has no meaning with 'perplexity'"),
        ("command: a {model}\nconstraints: [{command: 'b {model}'}]", "lose_at_most: is required"),
        ("command: ls {model}\nmetric: loss_of_log", "unknown metric 'loss_of_log'"),
        ("function: os:system", "does not offer it: say --allow-code"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, text, words, monkeypatch):
    monkeypatch.delenv("STOCKPOT_ALLOW_CODE", raising=False)
    path = tmp_path / "eval.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_evaluator(path)
    assert words in "\n".join(caught.value.problems)
    assert str(path) in caught.value.problems[0]


def test_a_files_options_reach_the_command(tmp_path, model):
    program(tmp_path, """print(json.dumps({"scores": [2.0] * 3}))""")
    (tmp_path / "rows").write_text("a\nb\nc\n")
    (tmp_path / "eval.yaml").write_text(
        "command: python eval.py {model}\nlower_is_better: true\ntimeout: 2min\nrows: rows\n"
        "constraints:\n  - {command: 'python eval.py {model}', lose_at_most: 0.5, against: base}\n"
    )
    evaluator, (constraint,) = load_evaluator(tmp_path / "eval.yaml")
    with evaluator, constraint.evaluator:
        np.testing.assert_array_equal(evaluator.evaluate(model), [-2, -2, -2])
        assert not evaluator.takes_rows
        np.testing.assert_array_equal(constraint.evaluator.evaluate(model), [2, 2, 2])
    assert (constraint.lose_at_most, constraint.against) == (0.5, "base")
