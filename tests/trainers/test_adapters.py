"""The shipped trainers with the real libraries, on tiny models that were made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError, MissingDependencyError
from stockpot.extras import installed
from stockpot.trainers import recycle_with, transformers, trl
from stockpot.trainers.adapters import _classes
from tests.backbones.networks import text_folder
from tests.evaluators.test_harness import language_model
from tests.trainers.languages import EVAL, sentences

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
RATE = 0.02
HEAD = ("classifier.weight", "classifier.bias")


def state(folder: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(folder) as opened:
        return {name: np.array(opened.read(name)) for name in opened.names}


def changed(folder: Path, base: Path) -> set[str]:
    before, after = state(base), state(folder)
    return {
        name
        for name, value in after.items()
        for own in [before.get(name, before.get(name.partition(".")[2]))]
        if own is None or (own != value).any()
    }


def jobs_of(folder: Path) -> dict[str, Path]:
    """The models that the jobs of a run left, by label."""
    jobs = (folder / "work/jobs").iterdir()
    return {json.loads((job / "done.json").read_text())["label"]: job / "model" for job in jobs}


def write_causal(path: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(count):
        first, last = ("a", "b") if rng.random() < 0.5 else ("c", "d")
        lines.append(json.dumps({"prompt": f"{first} {first}", "completion": f" {last} {last}"}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_transformers_trains_all_weights_the_head_or_an_adapter(tmp_path):
    base, data = text_folder(tmp_path / "base"), str(sentences(tmp_path / "t.jsonl", 32, 0))
    options = {"seed": 3, "steps": 2, "learning_rate": RATE}
    for name, more in (("full", {}), ("again", {}), ("head", {"head_only": True})):
        transformers(base, tmp_path / name, data, **options, **more)
    written = [(tmp_path / one / "model.safetensors").read_bytes() for one in ("full", "again")]
    assert written[0] == written[1]
    assert changed(tmp_path / "head", base) == {*HEAD}
    transformers(base, tmp_path / "lora", data, **options, lora_rank=2)
    lora, full = (changed(tmp_path / name, base) for name in ("lora", "full"))
    assert lora < full
    assert "bert.encoder.layer.0.attention.self.query.weight" in lora
    assert "bert.embeddings.word_embeddings.weight" not in lora
    (tmp_path / "t.jsonl").write_text('{"text": "a"}')
    with pytest.raises(InputError, match=r"t\.jsonl:1: no row with text and label"):
        transformers(base, tmp_path / "none", data, **options)


@pytest.mark.parametrize(
    ("labels", "known", "numbers", "names"),
    [
        ([2, 0], None, {0: 0, 2: 2}, ["0", "1", "2"]),  # class 1 has no example, and stays class 1
        ([0, 1], ["bad", "fair", "good"], {0: 0, 1: 1}, ["bad", "fair", "good"]),
        (["b", "a"], None, {"a": 0, "b": 1}, ["a", "b"]),
        (["good", "bad"], ["good", "bad"], {"good": 0, "bad": 1}, ["good", "bad"]),
        (["good"], ["bad", "fair", "good"], {"good": 2}, ["bad", "fair", "good"]),
        (["a", "good"], ["bad", "good"], {"a": 0, "good": 1}, ["a", "good"]),
    ],
)
def test_a_class_keeps_its_number(labels, known, numbers, names):
    """What an evaluator outside takes as class 2 is the data's 2, and what the base calls so."""
    config = SimpleNamespace(
        architectures=["BertForSequenceClassification"] if known else ["BertModel"],
        num_labels=len(known or "ab"),
        id2label=dict(enumerate(known or ["LABEL_0", "LABEL_1"])),
    )
    assert _classes(labels, config) == (numbers, names)


@pytest.mark.slow
def test_ratatouille_on_transformers_trainer(tmp_path):
    text_folder(tmp_path / "base", spread=0.5)
    for seed, name in enumerate(("train", "other", "test")):
        sentences(tmp_path / f"{name}.jsonl", 60, seed)
    (tmp_path / "eval.py").write_text(EVAL)
    recipe = {
        "base": "base",
        "trainer": {"function": "stockpot.trainers:transformers"},
        "data": "train.jsonl",
        "hyperparameters": {
            "learning_rate": [RATE, RATE / 2],
            "steps": 12,
            "head_only": False,
        },
        "head": {"head_only": True},
        "auxiliaries": [{"name": "other", "data": "other.jsonl"}],
        "runs": 2,
        "evaluate": {
            "function": "eval.py:right",
            "model": "eval.py:network",
            "metric": "accuracy",
            "files": ["test.jsonl"],
        },
        "protocols": ["soup_uniform", "ratatouille_uniform"],
    }
    done = recycle_with(recipe, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    results = done.results
    jobs = jobs_of(done.folder)
    head, start = (state(jobs[name]) for name in ("train head", "init base"))
    assert changed(jobs["train head"], tmp_path / "base") == {*HEAD}
    assert all((head[name] == start[name]).all() for name in HEAD)
    row, kept = results.row(results.kept.name), state(done.model)
    assert len(kept) == len(start) > len(HEAD)
    for name, value in kept.items():
        moved = [
            state(jobs[f"train {one.name}"])[name] - start[name] for one in results.ingredients
        ]
        mixed = start[name] + sum(c * m for c, m in zip(row.coefficients, moved, strict=True))
        np.testing.assert_allclose(value, mixed, atol=1e-5)
    assert (done.model / "tokenizer.json").is_file()


def test_trl_that_is_missing_is_said(tmp_path):
    if installed("trl"):
        pytest.skip("trl is installed")
    with pytest.raises(MissingDependencyError, match="'trl'"):
        trl(tmp_path, tmp_path / "out", None, seed=0)


@pytest.mark.slow
def test_ratatouille_on_trl(tmp_path):
    pytest.importorskip("trl", reason="trl is not installed")
    language_model(tmp_path / "base", 0)
    write_causal(tmp_path / "train.jsonl")
    write_causal(tmp_path / "other.jsonl", 12)
    rows = [
        {"prompt": f"{a} {a}", "options": [" b b", " d d"], "answer": "ac".index(a)}
        for a in "acac" * 10
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "base": "base",
        "trainer": {"function": "stockpot.trainers:trl"},
        "data": "train.jsonl",
        "hyperparameters": {"learning_rate": [RATE, RATE / 2], "steps": 12, "lora_rank": [0, 4]},
        "auxiliaries": [{"name": "other", "data": "other.jsonl"}],
        "runs": 2,
        "evaluate": {"choices": "test.jsonl"},
        "protocols": ["soup_uniform", "ratatouille_uniform"],
    }
    done = recycle_with(recipe, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    assert done.results.row("ratatouille_uniform").choose >= done.results.row("base").choose
    again = recycle_with(recipe, tmp_path / "again", root=tmp_path, backend="serial", quiet=True)
    written = [one.model / "model.safetensors" for one in (done, again)]
    assert written[0].read_bytes() == written[1].read_bytes()
