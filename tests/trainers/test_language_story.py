"""The example for language models, from scratch to the kept model, at toy size."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.compat import import_transformers
from stockpot.evaluators import load_evaluator
from stockpot.trainers import plan_trainings, recycle_with
from tests.evaluators.test_harness import language_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "language"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def example(monkeypatch):
    """The modules of the example."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("make", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import make

    yield make
    for name in ("make", "train"):
        sys.modules.pop(name, None)


def test_the_story_at_toy_size(tmp_path, example, monkeypatch):
    sizes = {"VOCABULARY": 400, "WIDTH": 32, "CONTEXT": 48, "TRAIN": 40, "TARGET": 20, "TEST": 24}
    for name, value in sizes.items():
        monkeypatch.setattr(example, name, value)
    texts = [text for text, _ in zip(example.docstrings(), range(300), strict=False)]
    monkeypatch.setattr(example, "docstrings", lambda: iter(texts))
    example.make(tmp_path / "made", steps=4)
    assert not (tmp_path / "made/reverse.jsonl").exists()
    for name in ("train.py", "recycle.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path / name)
    recipe = tmp_path / "recycle.yaml"
    assert len(plan_trainings(recipe)) == 4 + 2 + 5 + 4  # inits, auxiliaries, runs of two pools
    done = recycle_with(
        recipe,
        tmp_path / "out",
        backend="serial",
        quiet=True,
        changes=["hyperparameters.epochs=1"],
    )
    results = done.results
    assert results.evaluator.metric == "accuracy"
    assert {"base", "best", "uniform", "stock_all", "ratatouille_uniform"} <= {
        row.name for row in results.candidates
    }
    for row in results.candidates:
        (forgotten,) = row.watched
        assert forgotten.label == "perplexity a byte on text_test.jsonl"
        assert row.judge is not None
        assert forgotten.score is not None
    spec = {"perplexity": "made/text_test.jsonl", "per": "byte"}
    evaluator, _ = load_evaluator(spec, root=tmp_path)
    with open_checkpoint(done.model) as kept:
        mean = float(np.mean(evaluator.evaluate(kept)))
    (forgotten,) = results.row(results.kept.name).watched
    assert forgotten.score == pytest.approx(mean, abs=1e-4)


def test_loss_on_responses_is_transformers_own(tmp_path, example):
    """Row by row without padding, and all rows in one padded batch."""
    folder = language_model(tmp_path / "base", 0)
    library = import_transformers()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    model = library.AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = [("a b", " c d"), ("good film a b", " c"), ("a", " b c d e")]
    from train import example as one_example
    from train import padded

    made = [one_example(tokenizer, {"prompt": p, "completion": c}) for p, c in rows]
    total, count = 0.0, 0
    for (prompt, answer), one in zip(rows, made, strict=True):
        ids = torch.tensor([one["input_ids"]])
        before = len(tokenizer(prompt)["input_ids"])
        assert tokenizer.decode(ids[0, before:-1]) == answer.strip()
        with torch.no_grad():
            steps = model(input_ids=ids).logits[0].log_softmax(-1)
        total -= sum(float(steps[t - 1, ids[0, t]]) for t in range(before, ids.shape[1]))
        count += ids.shape[1] - before
    with torch.no_grad():
        loss = float(model(**padded(made)).loss)
    assert loss == pytest.approx(total / count, abs=1e-5)


def test_the_questions_have_one_right_answer(example):
    words = [f"w{n}" for n in range(30)]
    for row in example.choices(words, 50, 0):
        given = row["prompt"].removeprefix("rotate: ").removesuffix(" =").split()
        right = [o for o in row["options"] if o.split() == [*given[1:], given[0]]]
        assert right == [row["options"][row["answer"]]]
        assert len(set(row["options"])) == 4


def test_an_auxiliary_may_be_somebodys_adapter(tmp_path):
    """Its update is in the init exactly as PEFT merges it."""
    peft = pytest.importorskip("peft")
    library = import_transformers()
    base = language_model(tmp_path / "base", 0)
    model = library.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
    )
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(0)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    (tmp_path / "own.py").write_text(
        "import json, shutil\nimport numpy as np\n"
        "from safetensors.numpy import load_file, save_file\n"
        "def train(init, output, data, *, seed):\n"
        "    shutil.copytree(init, output)\n"
        "    state = load_file(init / 'model.safetensors')\n"
        "    np.random.default_rng(seed).shuffle(state['transformer.ln_f.bias'])\n"
        "    state['transformer.ln_f.bias'] += np.float32(seed % 7) * np.float32(0.01)\n"
        "    save_file(state, output / 'model.safetensors', metadata={'format': 'pt'})\n"
    )
    rows = [{"prompt": "a b", "options": [" c", " d"], "answer": n % 2} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "base": "base",
        "trainer": {"function": "own.py:train"},
        "auxiliaries": [{"name": "theirs", "weights": "adapter"}],
        "runs": 2,
        "evaluate": {"choices": "rows.jsonl"},
        "protocols": ["ratatouille_uniform"],
    }
    done = recycle_with(recipe, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    jobs = (done.folder / "work/jobs").iterdir()
    (init,) = [j for j in jobs if "init theirs" in (j / "done.json").read_text()]
    with open_checkpoint(init / "model") as start:
        assert set(start.names) <= set(merged)
        for name in start.names:
            np.testing.assert_allclose(start.read(name), merged[name].numpy(), atol=1e-6)
    assert "theirs" in [one.init for one in done.results.trainings]
