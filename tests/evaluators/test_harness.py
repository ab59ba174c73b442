"""Tasks of lm-evaluation-harness from local files, against the evaluator of multiple choice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError, MissingDependencyError
from stockpot.evaluators import load_evaluator
from stockpot.extras import installed
from tests.evaluators.test_models import causal

LETTERS = "abcdef"
slow = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed("lm_eval"), reason="lm_eval is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
TASK = {
    "task": "letters",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "options",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


def write_letters(folder, count=40):
    """Questions whose options are one token each, as a JSON Lines file and as a task."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        prompt = " ".join(rng.choice([*LETTERS], 4))
        options = [f" {letter}" for letter in rng.permutation([*LETTERS])[:3]]
        rows.append({"prompt": prompt, "options": options, "answer": int(rng.integers(3))})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "letters.yaml").write_text(yaml.safe_dump(TASK))


def language_model(folder, seed):
    """A causal model whose tokenizer puts no marks around a text: lm-eval cuts it by length."""
    causal(folder, seed)
    for name, change in (
        ("tokenizer.json", {"post_processor": None}),
        ("tokenizer_config.json", {"eos_token": "[SEP]"}),
    ):
        value = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**value, **change}))
    return folder


def test_without_the_package_the_extra_is_named(tmp_path):
    if installed("lm_eval"):
        pytest.skip("lm_eval is installed")
    with pytest.raises(MissingDependencyError, match="lm-eval") as caught:
        load_evaluator({"lm_eval": "letters"}, root=tmp_path)
    assert "stockpot[lm-eval]" in caught.value.hint


def test_code_of_task_files_runs_as_other_code_does(tmp_path, monkeypatch):
    monkeypatch.delenv("STOCKPOT_ALLOW_CODE", raising=False)
    folder, elsewhere = tmp_path / "here", tmp_path / "tasks"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "utils.py").write_text("")
    with pytest.raises(InputError, match="lies elsewhere than its recipe: say --allow-code"):
        load_evaluator({"lm_eval": "letters", "include_path": str(elsewhere)}, root=folder)
    with pytest.raises(InputError, match="'include_path' has no meaning with 'choices'"):
        load_evaluator({"choices": "a.jsonl", "include_path": "tasks"}, root=folder)


class TestWithTheLibrary:
    pytestmark = slow

    def test_accuracy_is_that_of_choices_row_by_row(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        write_letters(tmp_path)
        harness, _ = load_evaluator({"lm_eval": "letters", "include_path": "tasks"}, root=tmp_path)
        ours, _ = load_evaluator({"choices": "rows.jsonl"}, root=tmp_path)
        folders = [language_model(tmp_path / f"m{seed}", seed) for seed in (0, 1)]
        with harness, ours:
            assert harness.size == ours.size == 40
            assert harness.takes_rows
            assert harness.metric == "accuracy"
            for folder in folders:
                with open_checkpoint(folder) as model:
                    scores = harness.evaluate(model)
                    np.testing.assert_array_equal(scores, ours.evaluate(model))
                    assert 0 < scores.mean() < 1
                    some = np.array([7, 3, 30])
                    np.testing.assert_array_equal(harness.evaluate(model, some), scores[some])

    def test_the_identity_follows_task_and_data(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        write_letters(tmp_path)
        value = {"lm_eval": "letters", "include_path": "tasks"}

        def identity(**more):
            return load_evaluator({**value, **more}, root=tmp_path)[0].identity

        first = identity()
        assert identity() == first
        assert identity(score="acc") == first
        assert identity(score="acc_norm") != first
        lines = (tmp_path / "rows.jsonl").read_text().splitlines()
        (tmp_path / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n")
        assert identity() != first

    def test_what_is_not_there_is_one_line(self, tmp_path):
        write_letters(tmp_path)
        value = {"lm_eval": "letters", "include_path": "tasks"}
        for change, message in (
            ({"lm_eval": "numbers"}, "cannot load the task 'numbers'"),
            ({"score": "f1"}, "task 'letters' has no metric 'f1', but acc, acc_norm"),
            ({"include_path": "none"}, "none is no folder"),
        ):
            with pytest.raises(InputError, match=message) as caught:
                load_evaluator({**value, **change}, root=tmp_path)
            assert "\n" not in caught.value.message
