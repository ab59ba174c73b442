"""mergekit-moe's files: equal experts change nothing, and routers point where they should."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.errors import CheckpointError, RecipeError
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
IDS = torch.arange(3, 20)[None]
KINDS = ("llama", "mistral", "qwen3", "qwen2")


@pytest.fixture
def dense(transformers, tmp_path):
    """Write a model of some type, with a tokenizer of words w3 ... w31; gives the model."""
    import tokenizers

    words = ["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(3, 32))]
    kind = tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>")
    plain = tokenizers.Tokenizer(kind)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )

    def write(kind, name, seed, **more):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.for_model(kind, **SIZES, sliding_window=None, **more)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return model

    return write


@pytest.fixture
def mixed(transformers, tmp_path):
    """Build what a file says; gives the model and the report."""

    def build(**file):
        path = tmp_path / "recipe.yml"
        path.write_text(yaml.safe_dump(file))
        report = run_merge(load_recipe(path), tmp_path / "out", overwrite=True)
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "out", output_loading_info=True
        )
        assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys"))
        return model.eval(), report

    return build


def experts(*names, **more):
    return [{"source_model": f"./{name}", **more} for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_experts_compute_what_the_dense_model_does(dense, mixed, kind):
    model = dense(kind, "a", 1)
    file = {"base_model": "./a", "gate_mode": "random", "experts": experts("a", "a", "a")}
    if kind == "qwen2":  # whose shared expert is added, as its gate says
        file["shared_experts"] = experts("a", residual_scale=0.0)
    with torch.no_grad():
        found, report = mixed(**file)
        torch.testing.assert_close(found(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-6)
    assert found.config.model_type == ("mixtral" if kind in ("llama", "mistral") else f"{kind}_moe")
    assert any("one model" in warning for warning in report.warnings)


def test_a_router_sends_a_prompt_to_its_expert(dense, mixed, tmp_path):
    for number, name in enumerate("abc"):
        dense("llama", name, number)
    prompts = (["w5 w6", "w7"], ["w20 w21 w22"])
    listed = experts("b", "c", residual_scale=0.5)
    for expert, texts in zip(listed, prompts, strict=True):
        expert["positive_prompts"] = texts
    listed[0]["negative_prompts"] = ["w9"]
    file = {"base_model": "./a", "experts": listed, "experts_per_token": 1, "dtype": "float64"}
    mixed(**file, gate_mode="cheap_embed")
    with open_checkpoint(tmp_path / "a") as base, open_checkpoint(tmp_path / "b") as other:
        rows = base.read("model.embed_tokens.weight").astype(np.float64)
        down = other.read("model.layers.1.mlp.down_proj.weight")
    # Each prompt begins with <s>.
    first = rows[[1, 5, 6, 1, 7]].sum(0)
    negative = rows[[1, 9]].sum(0)
    first = first / np.linalg.norm(first) - negative / np.linalg.norm(negative)
    second = rows[[1, 20, 21, 22]].sum(0)
    wanted = [vector / np.linalg.norm(vector) for vector in (first, second)]
    with open_checkpoint(tmp_path / "out") as made:
        for layer in range(2):
            router = made.read(f"model.layers.{layer}.block_sparse_moe.gate.weight")
            np.testing.assert_allclose(router, wanted, atol=1e-6)
        name = "model.layers.1.block_sparse_moe.experts.0.w2.weight"
        np.testing.assert_allclose(made.read(name), 0.5 * down, rtol=1e-6)


def test_hidden_states_are_those_of_the_base(dense, mixed, tmp_path):
    model = dense("qwen3", "a", 0)
    dense("qwen3", "b", 1)
    listed = experts("a", "b")
    listed[0]["positive_prompts"], listed[1]["positive_prompts"] = ["w5 w6 w7"], ["w8"]
    for mode in ("hidden", "hidden_avg"):
        mixed(base_model="./a", experts=listed, gate_mode=mode)
        with torch.no_grad():
            out = model(torch.tensor([[1, 5, 6, 7]]), output_hidden_states=True)
        for layer in range(2):
            states = out.hidden_states[layer][0]
            vector = states.mean(0) if mode == "hidden_avg" else states[-1]
            with open_checkpoint(tmp_path / "out") as made:
                row = made.read(f"model.layers.{layer}.mlp.gate.weight")[0]
            np.testing.assert_allclose(row, vector / vector.norm(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gate": "random"}, "no key 'gate'"),
        ({"gate_mode": "clever"}, "'gate_mode' is one of"),
        ({"gate_mode": "hidden"}, "no 'positive_prompts'"),
        ({"experts_per_token": 3}, "'experts_per_token' is 1 to 2"),
        ({"experts": "a"}, "list of tables"),
        ({"experts": experts("a", noise_scale=0.1)}, "'noise_scale' is refused"),
        ({"experts": experts("a", positive_prompts="text")}, "a list of texts"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, change, said):
    file = {"base_model": "./a", "gate_mode": "random", "experts": experts("a", "b")}
    path = tmp_path / "recipe.yml"
    path.write_text(yaml.safe_dump({**file, **change}))
    with pytest.raises(RecipeError, match=said):
        load_recipe(path)


def test_models_that_no_mixture_is_built_of(dense, mixed, tmp_path):
    dense("qwen2", "a", 0)
    file = {"base_model": "./a", "gate_mode": "random", "experts": experts("a", "a")}
    with pytest.raises(CheckpointError, match="qwen2 with 0 shared experts") as caught:
        mixed(**file)
    assert "one shared expert" in caught.value.hint
    dense("llama", "b", 0)
    with pytest.raises(CheckpointError, match="of llama, qwen2"):
        mixed(**{**file, "experts": experts("a", "b")})
    dense("llama", "wide", 0, mlp_bias=True)
    with pytest.raises(CheckpointError, match=r"no place for 'model.layers.0.mlp.\w+.bias'"):
        mixed(**{**file, "base_model": "./wide", "experts": experts("wide", "wide")})
    assert not (tmp_path / "out").exists()


def test_the_command_builds_one(dense, tmp_path):
    dense("llama", "a", 0)
    file = {"base_model": "./a", "gate_mode": "uniform_random", "experts": experts("a", "a")}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(file))
    words = ["merge", str(tmp_path / "recipe.yml"), "-o", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["method"] == "mixture"
    assert json.loads((tmp_path / "out/config.json").read_text())["num_local_experts"] == 2
