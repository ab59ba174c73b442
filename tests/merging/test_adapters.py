"""Merging LoRA adapters: the true sum of their updates, at any rank, as PEFT loads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.checkpoints.adapters import Factors, read_adapter
from stockpot.checkpoints.torch_io import save_state
from stockpot.compat import ensure_torchvision
from stockpot.errors import CheckpointError, InputError, OutputError
from stockpot.merging import merge
from stockpot.merging.lora import cut_sum, merge_adapters

ensure_torchvision()
peft = pytest.importorskip("peft")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 30)
        self.second = nn.Linear(30, 7)

    def forward(self, x):
        return self.second(self.first(x))


def make(folder, seed, targets=("first", "second"), rank=2):
    torch.manual_seed(0)
    model = Tiny()
    base = folder / "base.safetensors"
    save_state(base, model.state_dict())
    config = peft.LoraConfig(r=rank, lora_alpha=3, target_modules=list(targets))
    wrapped = peft.get_peft_model(model, config)
    torch.manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter.data)
    out = folder / f"adapter{seed}"
    wrapped.save_pretrained(out)
    content = json.loads((out / "adapter_config.json").read_text())
    content["base_model_name_or_path"] = str(base)
    (out / "adapter_config.json").write_text(json.dumps(content))
    return out


def update(folder, module):
    factors = read_adapter(folder).factors[module]
    return factors.rows(0, len(factors.left))


def test_the_sum_is_exact_at_full_rank(tmp_path):
    adapters = [make(tmp_path, 1), make(tmp_path, 2, targets=["first"])]
    errors = merge_adapters(adapters, tmp_path / "sum", weights=[1.0, -0.5])
    assert errors == {"first": pytest.approx(0, abs=1e-12), "second": pytest.approx(0, abs=1e-12)}
    expected = update(adapters[0], "first") - 0.5 * update(adapters[1], "first")
    np.testing.assert_allclose(update(tmp_path / "sum", "first"), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        update(tmp_path / "sum", "second"), update(adapters[0], "second"), rtol=1e-4, atol=1e-5
    )


def test_peft_loads_it_and_computes_the_sum(tmp_path):
    adapters = [make(tmp_path, 1), make(tmp_path, 2)]
    merge_adapters(adapters, tmp_path / "sum")
    torch.manual_seed(0)
    model = peft.PeftModel.from_pretrained(Tiny(), tmp_path / "sum")
    weights = model.merge_and_unload().state_dict()
    one, two = (merge([adapter]).state["first.weight"] for adapter in adapters)
    torch.manual_seed(0)
    base = Tiny().state_dict()["first.weight"].numpy()
    np.testing.assert_allclose(weights["first.weight"], one + two - base, atol=1e-5)


def test_a_lower_rank_is_the_best_there_is_and_its_error_is_told(tmp_path):
    adapters = [make(tmp_path, 1), make(tmp_path, 2)]
    errors = merge_adapters(adapters, tmp_path / "cut", rank=3)
    expected = update(adapters[0], "first") + update(adapters[1], "first")
    u, s, vt = np.linalg.svd(expected)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    np.testing.assert_allclose(update(tmp_path / "cut", "first"), best, rtol=1e-4, atol=1e-4)
    assert errors["first"] == pytest.approx(s[3] / np.linalg.norm(s), rel=1e-6)
    assert json.loads((tmp_path / "cut" / "adapter_config.json").read_text())["r"] == 3


def test_a_rank_above_the_sum_is_padded_with_zeros():
    factors = Factors(np.ones((4, 1)), np.ones((1, 5)), 2.0)
    up, down, error = cut_sum([(1.0, factors)], 3)
    assert up.shape == (4, 3)
    np.testing.assert_allclose(up @ down, np.full((4, 5), 2.0))
    assert error == pytest.approx(0, abs=1e-15)
    zero = Factors(np.zeros((4, 1)), np.ones((1, 5)), 1.0)
    assert cut_sum([(1.0, zero)], 1)[2] == 0.0


def test_adapters_applied_to_their_bases_are_models_like_others(tmp_path):
    adapters = [make(tmp_path, 1), make(tmp_path, 2)]
    merged = merge(adapters, method="linear").state["first.weight"]
    each = [merge([adapter]).state["first.weight"] for adapter in adapters]
    np.testing.assert_allclose(merged, (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_summed(tmp_path):
    adapter = make(tmp_path, 1)
    with pytest.raises(InputError, match="no adapters"):
        merge_adapters([], tmp_path / "x")
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match="exists"):
        merge_adapters([adapter], tmp_path / "x")
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    from stockpot.checkpoints import write_checkpoint

    prefix = "base_model.model.first"
    factors = {
        f"{prefix}.lora_A.weight": np.ones((1, 3)),
        f"{prefix}.lora_B.weight": np.ones((4, 1)),
    }
    write_checkpoint(other / "adapter_model.safetensors", factors)
    with pytest.raises(CheckpointError, match="'first' in shapes"):
        merge_adapters([adapter, other], tmp_path / "y")
    replaced = {**factors, "base_model.model.head.weight": np.ones((2, 2))}
    write_checkpoint(other / "adapter_model.safetensors", replaced)
    settings = {"peft_type": "LORA", "modules_to_save": ["head"]}
    (other / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"'head\.weight' as a whole"):
        merge_adapters([other], tmp_path / "y")
    assert not (tmp_path / "y").exists()
