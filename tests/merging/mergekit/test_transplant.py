"""Another model's vocabulary: rows of shared tokens stay, others are found again in their space."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stockpot import merge
from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.errors import InputError, RecipeError
from stockpot.merging.recipe import load_recipe
from stockpot.merging.transplant import pursue

from .test_tokens import CONFIG, TOKENS, write_model

SMALL = {**CONFIG, "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24}


def test_a_sparse_combination_is_found_again():
    rng = np.random.default_rng(0)
    points, factors = rng.standard_normal((60, 40)), np.zeros((5, 60))
    for row in factors:
        row[rng.choice(60, 3, replace=False)] = [2.0, -1.5, 1.0]
    chosen, found = pursue(factors @ points, points, 5)
    again = np.zeros_like(factors)
    np.put_along_axis(again, chosen, found, axis=1)
    np.testing.assert_allclose(again, factors, atol=1e-9)


def write(transformers, folder, words, seed, width=16):
    """A model that transformers loads, with a tokenizer of these words; gives its embeddings."""
    write_model(transformers, folder, words, seed)
    torch.manual_seed(seed)
    sizes = {**SMALL, "vocab_size": len(words), "hidden_size": width}
    config = transformers.LlamaConfig(**{k: v for k, v in sizes.items() if k != "model_type"})
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model.get_input_embeddings().weight.detach().numpy()


def test_the_command_transplants_a_vocabulary(transformers, tmp_path):
    words = [*TOKENS, *(f"w{n}" for n in range(40))]
    others = [*TOKENS, *(f"w{n}" for n in range(5, 48))][::-1]
    own = write(transformers, tmp_path / "model", words, 1)
    given = write(transformers, tmp_path / "donor", others, 2, width=48)
    out = tmp_path / "out"
    call = ["merge", str(tmp_path / "model"), "--vocabulary", str(tmp_path / "donor"), "--json"]
    ran = CliRunner().invoke(app, [*call, "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "8 of 49 tokens" in json.loads(ran.stdout)["warnings"][0]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out)
    rows = loaded.get_input_embeddings().weight.detach().numpy()
    number = transformers.AutoTokenizer.from_pretrained(out).get_vocab()
    assert number == {word: n for n, word in enumerate(others)}
    shared = [word for word in others if word in words]
    for word in shared:
        np.testing.assert_array_equal(rows[number[word]], own[words.index(word)])
    # All 41 shared tokens take part: least squares in the donor's space.
    points = given[[number[word] for word in shared]].astype(np.float64)
    factors = np.linalg.lstsq(points.T, given[number["w47"]].astype(np.float64), rcond=None)[0]
    expected = factors @ own[[words.index(word) for word in shared]]
    np.testing.assert_allclose(rows[number["w47"]], expected, atol=1e-5)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: [./model]\nvocabulary: ./donor\n")
    merge(load_recipe(recipe), output=tmp_path / "again")
    with open_checkpoint(out) as first, open_checkpoint(tmp_path / "again") as second:
        assert first.digest() == second.digest()


def test_keys_of_recipes_that_finish_a_merge(transformers, tmp_path):
    write(transformers, tmp_path / "base", TOKENS, 1)
    write(transformers, tmp_path / "a", TOKENS, 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0] += 0.5
    model.save_pretrained(tmp_path / "a")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: [./a]\nbase: ./base\nrank: 2\n")
    with pytest.raises(InputError, match="asks for an adapter"):
        merge(load_recipe(recipe), output=tmp_path / "out")
    words = ["merge", str(recipe), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*words, "--dry-run"]).exit_code == 2
    assert CliRunner().invoke(app, words).exit_code == 0
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["r"] == 2
    recipe.write_text("models: [./a, ./a]\nbase: ./base\nalign: true\n")
    assert [type(model).__name__ for model in load_recipe(recipe).models] == ["AlignedSource"] * 2
    for text in ("align: 1", "rank: 0", "vocabulary: 3", "vocabulary: ./a\nrank: 3"):
        recipe.write_text(f"models: [./a]\n{text}\n")
        with pytest.raises(RecipeError):
            load_recipe(recipe)
