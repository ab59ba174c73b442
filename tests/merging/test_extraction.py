"""The result of a merge as an adapter: PEFT computes with it what the merged model computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.adapters import read_adapter
from stockpot.compat import ensure_torchvision
from stockpot.errors import BaseMismatchError, CheckpointError, InputError, OutputError
from stockpot.merging import merge
from stockpot.merging.extraction import cut, write_adapter
from stockpot.merging.job import Spec
from stockpot.merging.lora import merge_adapters

ensure_torchvision()
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# PEFT and transformers warn of each other's names.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

SHAPE = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
GPT2 = ("GPT2LMHeadModel", lambda: transformers.GPT2Config(vocab_size=30, **SHAPE))
VIT = (
    "ViTForImageClassification",
    lambda: transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    ),
)


def build(family, folder):
    torch.manual_seed(0)
    model = getattr(transformers, family[0])(family[1]()).eval()
    model.save_pretrained(folder)
    return model


def ask(model, family):
    torch.manual_seed(2)
    with torch.no_grad():
        if family is VIT:
            return model(pixel_values=torch.randn(2, 3, 16, 16)).logits
        return model(input_ids=torch.arange(8)[None]).logits


@pytest.mark.parametrize("family", [GPT2, VIT], ids=["GPT-2", "ViT"])
def test_a_full_fine_tuning_becomes_an_adapter_that_computes_the_same(tmp_path, family):
    tuned = build(family, tmp_path / "base")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "cls_token" not in name and "position_embeddings" not in name and "wte" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "tuned")
    spec = Spec([str(tmp_path / "tuned")], base=str(tmp_path / "base"))
    found = write_adapter(spec, tmp_path / "adapter", rank=64)
    assert found.worst < 1e-6
    assert not found.left_out
    base = getattr(transformers, family[0]).from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(ask(loaded, family), ask(tuned, family), rtol=1e-4, atol=1e-5)
    ours = merge([tmp_path / "adapter"], output=tmp_path / "again")
    assert ours.tensors
    again = getattr(transformers, family[0]).from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(ask(again, family), ask(tuned, family), rtol=1e-4, atol=1e-5)


def adapters(tmp_path, count=2):
    build(GPT2, tmp_path / "base")
    for number in range(count):
        model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
        wrapped = peft.get_peft_model(model, config)
        torch.manual_seed(number + 5)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter.data, std=0.3)
        wrapped.save_pretrained(tmp_path / f"adapter{number}")
    return [str(tmp_path / f"adapter{number}") for number in range(count)]


@pytest.mark.parametrize(
    "method", ["ties", "linear", "task_arithmetic", "slerp", "tsv", "breadcrumbs"]
)
def test_adapters_merged_by_a_method_at_a_rank(tmp_path, method):
    """The oracle is the same merge of whole models, its change cut by numpy."""
    models, base = adapters(tmp_path), str(tmp_path / "base")
    spec = Spec(models, method=method, base=base)
    found = write_adapter(spec, tmp_path / "out", rank=3)
    whole = merge(models, method=method, base=base, dtype="float64").state
    factors = read_adapter(tmp_path / "out").factors
    assert len(factors) == len(found.errors) == 2
    with open_checkpoint(base) as before:
        for module, delta in factors.items():
            expected = (whole[f"{module}.weight"] - before.read(f"{module}.weight")).T
            u, s, vt = np.linalg.svd(expected.astype(np.float64), full_matrices=False)
            np.testing.assert_allclose(
                delta.whole(), (u[:, :3] * s[:3]) @ vt[:3], rtol=1e-4, atol=1e-5
            )
            error = np.sqrt(np.sum(s[3:] ** 2) / np.sum(s**2))
            assert found.errors[module] == pytest.approx(error, abs=1e-6)


def test_the_rank_is_the_smallest_that_keeps_the_error(tmp_path):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 9))
    s = np.linalg.svd(matrix, compute_uv=False)
    for error in (0.9, 0.5, 0.1, 0.0):
        up, down, miss = cut(matrix, None, error)
        rank = up.shape[1]
        assert miss <= error
        assert miss == pytest.approx(
            np.linalg.norm(matrix - up @ down) / np.linalg.norm(matrix), abs=1e-12
        )
        if rank > 1:
            assert np.linalg.norm(s[rank - 1 :]) / np.linalg.norm(s) > error
    assert cut(matrix, 2, 0.0)[0].shape == (12, 2)
    assert cut(np.zeros((3, 2)), 2, None)[2] == 0.0


def test_what_cannot_become_an_adapter(tmp_path):
    models, base = adapters(tmp_path), str(tmp_path / "base")
    with pytest.raises(InputError, match="measured against a base"):
        write_adapter(Spec(models), tmp_path / "x", rank=2)
    with pytest.raises(InputError, match="how large"):
        write_adapter(Spec(models, base=base), tmp_path / "x")
    with pytest.raises(CheckpointError, match="changes no matrix"):
        write_adapter(Spec([base], base=base), tmp_path / "x", rank=2)
    with pytest.raises(OutputError, match="exists"):
        write_adapter(Spec(models, base=base), models[0], rank=2)


def test_adapters_of_different_bases_are_refused(tmp_path):
    models = adapters(tmp_path)
    path = tmp_path / "adapter1" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": "some/other"}))
    with pytest.raises(BaseMismatchError, match="adapter1 on some/other"):
        merge_adapters(models, tmp_path / "sum")
    merge_adapters(models, tmp_path / "sum", force=True)
    content["base_model_name_or_path"] = str(tmp_path / "adapter0" / ".." / "base")
    path.write_text(json.dumps(content))
    merge_adapters(models, tmp_path / "again")


def test_a_base_that_is_not_here_is_asked_for(tmp_path):
    models = adapters(tmp_path, 1)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"which does not exist here .*--base"):
        merge(models)
    given = merge(models, base=str(tmp_path / "moved")).state
    assert "transformer.h.0.attn.c_attn.weight" in given


def test_no_folder_without_a_config(tmp_path):
    models = adapters(tmp_path, 1)
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(OutputError, match=r"has no config\.json"):
        merge(models, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(models, output=tmp_path / "out.safetensors")
