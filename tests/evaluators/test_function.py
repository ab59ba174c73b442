"""Functions as evaluators, and the store of scores."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators import FunctionEvaluator, ScoreStore, load_evaluator
from stockpot.evaluators.store import StoredScore
from tests.soups.bowls import states


@pytest.fixture
def model():
    return open_checkpoint(states(0)[0])


def test_a_function_of_the_state_or_of_the_state_and_rows(model):
    first = FunctionEvaluator(lambda state: state["head.weight"][0])
    assert not first.takes_rows
    np.testing.assert_array_equal(first.evaluate(model), model.read("head.weight")[0])
    second = FunctionEvaluator(lambda state, rows: rows * 2.0, size=5)
    assert second.takes_rows
    np.testing.assert_array_equal(second.evaluate(model), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(second.evaluate(model, np.array([3, 1])), [6, 2])
    loss = FunctionEvaluator(lambda state: torch.tensor([1.0, 2.0]), lower_is_better=True)
    np.testing.assert_array_equal(loss.evaluate(model), [-1, -2])


def test_what_a_function_may_not_give(model):
    for wrong, words in (
        (lambda state: "good", "are no numbers"),
        (lambda state: np.zeros((2, 2)), "shape"),
        (lambda state: None, "there is no score: got None"),
        (lambda state: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda state, rows: [1.0], "expected 4 scores, one a row, got 1"),
    ):
        with pytest.raises(EvaluationError, match=words):
            FunctionEvaluator(wrong, size=4).evaluate(model)
    with pytest.raises(EvaluationError, match="below 0: -1"):
        FunctionEvaluator(lambda state: -1.0, lower_is_better=True).evaluate(model)
    with pytest.raises(InputError, match="not 3 arguments"):
        FunctionEvaluator(lambda a, b, c: 0.0)


def test_a_module_gets_the_weights_and_one_that_cannot_is_named():
    network = torch.nn.Linear(8, 4, bias=False)
    state = {"weight": np.arange(32.0).reshape(4, 8)}
    evaluator = FunctionEvaluator(lambda module: float(module.weight.sum()), module=network)
    assert evaluator.evaluate(open_checkpoint(state)) == 496.0
    with pytest.raises(InputError, match="no tensor 'other'"):
        evaluator.evaluate(open_checkpoint({"other": state["weight"]}))


def test_a_file_names_a_function_and_the_module_it_takes(tmp_path, model):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.Linear(8, 4, bias=False)\n"
        "def score(module, rows):\n    return module.weight.sum().item() + 0.0 * rows\n"
    )
    (tmp_path / "eval.yaml").write_text("function: mine.py:score\nmodel: mine.py:build\nrows: 25\n")
    evaluator, _ = load_evaluator(tmp_path / "eval.yaml")
    assert evaluator.size == 25
    state = open_checkpoint({"weight": np.ones((4, 8), np.float32)})
    np.testing.assert_array_equal(evaluator.evaluate(state, np.array([1, 2])), [32, 32])
    before = evaluator.identity
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n")
    assert load_evaluator(tmp_path / "eval.yaml")[0].identity != before


def test_two_functions_of_one_name_are_two():
    first, second = (FunctionEvaluator(f) for f in (lambda s: 1.0, lambda s: s["x"]))
    assert first.label == second.label
    assert first.identity != second.identity


def maker(labels):
    def score(state):
        return [float(labels.sum()) for _ in range(2)]

    return score


SHIFT = 1.0


def by_global(state):
    return OFFSETS["a"] + SHIFT


OFFSETS = {"a": np.zeros(3)}


def test_a_live_function_is_its_code_its_closure_and_its_globals(monkeypatch):
    def identity(function):
        evaluator = FunctionEvaluator(function)
        assert not evaluator.unknown
        return evaluator.identity

    first = identity(maker(np.arange(3)))
    assert identity(maker(np.arange(3))) == first
    assert identity(maker(np.arange(3)[::-1])) != first
    before = identity(by_global)
    assert identity(by_global) == before
    OFFSETS["a"][1] = 1.0
    assert identity(by_global) != before
    OFFSETS["a"][1] = 0.0
    assert identity(by_global) == before
    monkeypatch.setitem(globals(), "SHIFT", 2.0)
    assert identity(by_global) != before
    monkeypatch.setitem(globals(), "SHIFT", torch.tensor([1.0]))
    assert identity(lambda state: by_global(state)) != identity(by_global)


def test_what_has_no_content_is_unknown():
    handle = object()
    evaluator = FunctionEvaluator(lambda state: handle)
    assert "'handle' is a object" in evaluator.unknown
    assert FunctionEvaluator(lambda state: handle, identity="mine").unknown == ""
    assert FunctionEvaluator(maker(1), module=torch.nn.Linear(2, 2)).unknown


def test_a_file_imports_its_neighbours_and_counts_with_them(tmp_path, model):
    values = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(
            "from helper import value\ndef score(state):\n    import late\n"
            "    return value + late.more\n"
        )
        (folder / "helper.py").write_text(f"import numpy\nvalue = {value}\n")
        (folder / "late.py").write_text("more = 0.5\n")
        (folder / "eval.yaml").write_text("function: mine.py:score\n")
        values.append(load_evaluator(folder / "eval.yaml")[0])
    assert [one.evaluate(model) for one in (*values, *values)] == [1.5, 2.5, 1.5, 2.5]
    assert not {"helper", "late"} & set(sys.modules)
    for name in ("helper", "late"):
        file = tmp_path / "a" / f"{name}.py"
        file.write_text(file.read_text().replace(".", "7."))
        changed, _ = load_evaluator(tmp_path / "a/eval.yaml")
        assert changed.identity not in {one.identity for one in values}
        values.append(changed)
    assert values[-1].evaluate(model) == 24.5


def test_scores_are_kept_by_weights_evaluator_and_rows(tmp_path):
    rows = np.array([4, 2])
    scores = StoredScore(np.array([0.1, 1 / 3]), 2.5)
    ScoreStore(tmp_path).write("w", "e", rows, scores)
    ScoreStore(tmp_path).write("w", "e", None, StoredScore(0.5, 1.0))
    again = ScoreStore(tmp_path)
    known = again.read("w", "e", rows)
    assert known is not None
    np.testing.assert_array_equal(known.scores, scores.scores)
    assert known.seconds == 2.5
    assert again.read("w", "e", None) == StoredScore(0.5, 1.0)
    for other in (("v", "e", rows), ("w", "f", rows), ("w", "e", rows[::-1])):
        assert again.read(*other) is None
    assert ScoreStore().read("w", "e", rows) is None


def test_a_damaged_file_is_measured_again(tmp_path):
    store = ScoreStore(tmp_path)
    store.write("w", "e", None, StoredScore(0.5, 1.0))
    (file,) = tmp_path.rglob("*.json")
    for text in ("", "{}", json.dumps({"scores": "x", "seconds": "y"})):
        file.write_text(text)
        assert ScoreStore(tmp_path).read("w", "e", None) is None
