"""Names are matched once: heads against their bare base, wrappers, buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.matching import is_buffer
from stockpot.compat import import_transformers
from stockpot.inspection import compare
from stockpot.merging import merge

transformers = import_transformers()

GPT2 = {"vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
BERT = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
PAIRS = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Model", "transformer.", "GPT2Config", GPT2),
    "BERT": ("BertForSequenceClassification", "BertModel", "bert.", "BertConfig", BERT),
}


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    head, bare, prefix, config, options = request.param
    torch.manual_seed(0)
    made = getattr(transformers, config)(**options)
    base = getattr(transformers, bare)(made).state_dict()
    models = []
    for seed in (1, 2):
        model = getattr(transformers, head)(made)
        torch.manual_seed(seed)
        state = model.state_dict()
        for name in base:
            state[prefix + name] = base[name] + 0.01 * torch.randn_like(base[name])
        models.append(state)
    return base, models, prefix


def test_a_merge_of_heads_over_their_bare_base_is_that_of_equal_names(pair):
    base, models, prefix = pair
    named = {prefix + name: value for name, value in base.items()}
    ours = merge(models, method="task_arithmetic", base=base, scale=0.5)
    plain = merge(models, method="task_arithmetic", base=named, scale=0.5)
    for name, value in plain.state.items():
        assert torch.equal(ours.state[name], value), name
    assert any(f"without '{prefix}'" in note for note in ours.report.warnings)
    assert compare(models, base).verdict == "same ancestor"


def test_wrapped_models_merge_with_plain_ones(pair):
    _, (one, two), _ = pair
    wrapped = {f"module.{name}": value for name, value in two.items()}
    ours, plain = merge([one, wrapped]).state, merge([one, two]).state
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize("name", ["a.position_ids", "h.0.attn.masked_bias", "rotary.inv_freq"])
@pytest.mark.parametrize("holder", [0, 1])
def test_buffers_that_only_some_store_are_no_misfits(name, holder):
    rng = np.random.default_rng(0)
    states = [{"fc.weight": rng.normal(size=(8, 8))} for _ in range(2)]
    states[holder][name] = np.ones(3)
    merged = merge(states, method="task_arithmetic", base={"fc.weight": np.zeros((8, 8))})
    assert merged.state[name].tolist() == [1, 1, 1]
    assert not compare(states).models[holder].extra


@pytest.mark.parametrize(
    ("name", "shape", "buffer"),
    [
        ("h.0.attn.bias", (1, 1, 16, 16), True),
        ("h.0.attn.bias", (16,), False),
        ("embeddings.position_ids", (1, 16), True),
        ("embeddings.position_embeddings.weight", (16, 8), False),
        ("layers.0.rotary_emb.inv_freq", (8,), True),
        ("bn.running_mean", (8,), False),
    ],
)
def test_what_is_a_buffer(name, shape, buffer):
    assert is_buffer(TensorInfo(name, shape, "F32")) is buffer


MOE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MOE |= {"num_key_value_heads": 2, "intermediate_size": 24, "moe_intermediate_size": 24}


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen2_moe"])
@pytest.mark.parametrize("fused", ["a", "b", "base"])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_experts_in_one_tensor_merge_with_experts_apart(tmp_path, kind, fused, method):
    counts = dict.fromkeys(("num_local_experts", "num_experts"), 4)
    config = transformers.AutoConfig.for_model(kind, **MOE, **counts)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name in ("base", "a", "b"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.002 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / f"{name}-apart")
        (tmp_path / name).mkdir()
        torch.save(model.state_dict(), tmp_path / name / "pytorch_model.bin")
        config.save_pretrained(tmp_path / name)
    apart = [tmp_path / f"{name}-apart" for name in ("a", "b", "base")]
    mixed = [tmp_path / (n if n == fused else f"{n}-apart") for n in ("a", "b", "base")]
    expected = merge(apart[:2], base=apart[2], method=method).state
    report = merge(mixed[:2], base=mixed[2], method=method, output=tmp_path / "out")
    assert any("experts in one tensor" in warning for warning in report.warnings)
    found = merge([tmp_path / "out"]).state
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    made, loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys"))
    assert made.config.model_type == kind
    same = compare([tmp_path / "a", tmp_path / "a-apart"])
    assert same.verdict == "identical", same.verdict
