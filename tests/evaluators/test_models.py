"""Evaluators that load models themselves: tasks of stockpot, causal language models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

import stockpot
from stockpot.checkpoints import open_checkpoint
from stockpot.compat import import_transformers
from stockpot.errors import InputError, StockpotError
from stockpot.evaluators import load_evaluator
from stockpot.evaluators.task import TaskEvaluator
from stockpot.soups import soup
from stockpot.soups.blend import Blends
from stockpot.soups.engine import SoupEngine
from tests.backbones.networks import write_tokenizer
from tests.inference.models import DOMAINS, ODD, text_recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders of two short runs on one base, and the task's file."""
    root = tmp_path_factory.mktemp("runs")
    recipe = text_recipe(root, "bert", ODD)
    made = []
    for seed in (0, 1):
        out = root / f"out{seed}"
        stockpot.recycle(recipe, out, root=root, backend="serial", seed=seed, quiet=True)
        made.append(out / "model")
    (root / "task.yaml").write_text(yaml.safe_dump(recipe["task"]))
    return root, made


@pytest.mark.slow
def test_a_task_scores_folders_as_evaluate_does(folders):
    root, models = folders
    (root / "eval.yaml").write_text("task: task.yaml\n")
    evaluator, _ = load_evaluator(root / "eval.yaml")
    with open_checkpoint(models[0]) as first, open_checkpoint(models[1]) as second:
        evaluator.prepare(first)
        for model, path in ((first, models[0]), (second, models[1]), (first, models[0])):
            scores = evaluator.evaluate(model)
            known = stockpot.evaluate(path, root / "task.yaml", domains=DOMAINS)
            assert scores.mean() == pytest.approx(known.value.mean)
            rows = np.array([3, 50, 4])
            np.testing.assert_array_equal(evaluator.evaluate(model, rows), scores[rows])
    done = soup(models, root / "eval.yaml", output=root / "soup", budget=15, layer_groups=1)
    assert done.results.evaluator.metric == "accuracy"
    judged = stockpot.evaluate(done.model, root / "task.yaml")
    sizes = done.results.evaluator
    mean = (sizes.choosing * done.results.kept.choose + sizes.judging * done.results.kept.judge) / (
        sizes.rows
    )
    assert judged.value.mean == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
def test_the_gradient_of_a_task_is_that_of_finite_differences(folders):
    """Of the mean log-likelihood along the difference of two models, in body and head."""
    root, models = folders
    evaluator = TaskEvaluator(root / "task.yaml", metric="log_loss")
    engine = SoupEngine([open_checkpoint(path) for path in models], None)
    evaluator.prepare(engine.ingredients[0])
    blends = Blends(["a", "b"], len(engine.changes), has_base=False)
    groups = engine.groups(3)
    rows = np.arange(0, 60, 2)

    def blend(vector):
        values = np.zeros((2, len(engine.changes)))
        for own, group in zip(vector.reshape(-1, 2), groups, strict=True):
            values[:, group] = own[:, None]
        return blends.blend("x", "x", values)

    at = np.tile([0.6, 0.4], len(groups))
    slopes = engine.slope(blend(at), evaluator.gradient(engine.checkpoint(blend(at)), rows))
    got = np.concatenate([slopes[:, group].sum(axis=1) for group in groups])
    for place in range(len(at)):
        step = 1e-2 * np.eye(len(at))[place]
        ends = [
            evaluator.evaluate(engine.checkpoint(blend(at + sign * step)), rows).mean()
            for sign in (-1, 1)
        ]
        assert got[place] == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=2e-2, abs=2e-5)
    engine.close()


def causal(folder, seed=0):
    """A causal model of two layers on the words of a small tokenizer."""
    transformers = import_transformers()
    folder.mkdir()
    write_tokenizer(folder)
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=40,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_language_models_on_lines(tmp_path):
    transformers = import_transformers()
    folder = causal(tmp_path / "model")
    texts = ["a b c d", "good film a", "bad food b c"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    rows = [{"prompt": "a b", "options": [" c", " d", " good"], "answer": i % 3} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with open_checkpoint(folder) as checkpoint:
        perplexity, _ = load_evaluator({"perplexity": "texts.jsonl"}, root=tmp_path)
        scores = perplexity.evaluate(checkpoint)
        for text, score in zip(texts, scores, strict=True):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                assert -score == pytest.approx(float(model(input_ids=ids, labels=ids).loss))
        choices, _ = load_evaluator({"choices": "rows.jsonl"}, root=tmp_path)
        found = choices.evaluate(checkpoint)
    assert perplexity.metric == "loss"
    assert choices.size == 3
    means = []
    for option in rows[0]["options"]:
        ids = tokenizer(f"a b{option}", return_tensors="pt")["input_ids"]
        assert ids.shape == (1, 5)  # a mark, two words, the option, a mark
        with torch.no_grad():
            logarithms = model(input_ids=ids).logits[0].log_softmax(-1)
        means.append(float(logarithms[2, ids[0, 3]] + logarithms[3, ids[0, 4]]) / 2)
    assert found.tolist() == [float(max(means) == mean) for mean in means]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:1: no row with 'prompt'"):
        load_evaluator({"choices": "rows.jsonl"}, root=tmp_path)


def test_likelihood_a_byte_is_transformers_loss_after_a_mark(tmp_path):
    transformers = import_transformers()
    folder = causal(tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    texts = ["a b c d", "gut: \u00fc a", "b"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    value = {"perplexity": "texts.jsonl", "per": "byte"}
    for mark in ("eos_token", "bos_token"):
        config = {**config, mark: "[SEP]" if mark == "eos_token" else "[CLS]"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        begin = tokenizer.convert_tokens_to_ids(config[mark])
        evaluator, _ = load_evaluator(value, root=tmp_path)
        with open_checkpoint(folder) as checkpoint:
            scores = evaluator.evaluate(checkpoint)
        for text, score in zip(texts, scores, strict=True):
            ids = [begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            with torch.no_grad():
                loss = float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)
            total = loss * (len(ids) - 1)
            assert -score == pytest.approx(total / len(text.encode()), abs=1e-5)
    assert (
        evaluator.identity
        != load_evaluator({"perplexity": "texts.jsonl"}, root=tmp_path)[0].identity
    )
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "a " * 5000}) + "\n")
    with open_checkpoint(folder) as checkpoint, pytest.raises(StockpotError, match="no place for"):
        load_evaluator(value, root=tmp_path)[0].evaluate(checkpoint)
    with pytest.raises(InputError, match="'per' has no meaning with 'choices'"):
        load_evaluator({"choices": "texts.jsonl", "per": "byte"}, root=tmp_path)


def test_the_metric_of_a_recipe_counts_unless_another_is_named(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: {kind: arrays, path: data.npz}\nmetric: macro_f1\n")
    assert TaskEvaluator(recipe).metric == "macro_f1"
    assert TaskEvaluator(recipe, metric="accuracy").metric == "accuracy"
    recipe.write_text("task: {kind: arrays, path: data.npz}\nmetricc: macro_f1\n")
    with pytest.raises(StockpotError, match="unknown key 'metricc'"):
        TaskEvaluator(recipe)
