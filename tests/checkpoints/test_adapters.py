"""LoRA adapters against PEFT itself: the same weights as ``merge_and_unload`` gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.checkpoints.adapters import AdaptedCheckpoint, read_adapter
from stockpot.checkpoints.open import open_adapted
from stockpot.checkpoints.torch_io import save_state
from stockpot.compat import ensure_torchvision
from stockpot.errors import CheckpointError, NonFiniteError

ensure_torchvision()
peft = pytest.importorskip("peft")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = nn.Linear(6, 130)
        self.head = nn.Linear(130, 3)

    def forward(self, x):
        return self.head(self.first(self.embed(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny()


def adapted(model, folder, **options):
    """Save base and adapter, return the weights PEFT merges."""
    save_state(folder / "base.safetensors", model.state_dict())
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["embed", "conv", "first"],
        init_lora_weights=False,
        **options,
    )
    wrapped = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            nn.init.normal_(parameter.data)
    wrapped.save_pretrained(folder / "adapter")
    path = folder / "adapter" / "adapter_config.json"
    content = json.loads(path.read_text())
    content["base_model_name_or_path"] = str(folder / "base.safetensors")
    path.write_text(json.dumps(content))
    return wrapped.merge_and_unload().state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"first": 2}, "alpha_pattern": {"first": 9}},
        {"modules_to_save": ["head"]},
    ],
    ids=["plain", "rank-stabilised", "patterns", "saved head"],
)
def test_weights_are_those_peft_merges(tmp_path, model, options):
    expected = adapted(model, tmp_path, **options)
    with open_checkpoint(tmp_path / "adapter") as checkpoint:
        assert isinstance(checkpoint, AdaptedCheckpoint)
        assert set(checkpoint.names) == set(expected)
        for name, tensor in expected.items():
            np.testing.assert_allclose(
                checkpoint.read(name), tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_a_piece_is_the_same_whatever_else_is_read(tmp_path, model):
    adapted(model, tmp_path)
    with open_checkpoint(tmp_path / "adapter") as checkpoint:
        size = checkpoint.info("first.weight").size
        whole = checkpoint.decode("first.weight", 0, size, np.empty(size))
        for start, stop in [(0, 1), (5, 6), (100, 779), (size - 1, size), (7, 7)]:
            piece = checkpoint.decode("first.weight", start, stop, np.empty(stop - start))
            np.testing.assert_array_equal(piece, whole[start:stop])
        assert checkpoint.first_nonfinite("first.weight", 0, size) is None


def test_another_base_is_refused_with_both_shapes(tmp_path, model):
    adapted(model, tmp_path)
    write_checkpoint(tmp_path / "other.safetensors", {"first.weight": np.ones((5, 6))})
    with pytest.raises(CheckpointError, match=r"shape|lacks"):
        open_adapted(tmp_path / "adapter", "a", tmp_path / "other.safetensors")


def test_what_is_no_plain_lora_adapter_is_refused(tmp_path, model):
    adapted(model, tmp_path)
    folder = tmp_path / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, words in [
        ({"use_dora": True}, "lacks lora_magnitude_vector"),
        ({"peft_type": "OFT"}, "OFT"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"base_model_name_or_path": None}, "names no base"),
    ]:
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(folder)
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(folder)


def test_broken_factors_are_named(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="no adapter weights"):
        read_adapter(folder)

    def write(**tensors):
        names = {f"base_model.model.m.{k}.weight": v for k, v in tensors.items()}
        write_checkpoint(folder / "adapter_model.safetensors", names)

    write(lora_A=np.ones((2, 3)))
    with pytest.raises(CheckpointError, match="only one"):
        read_adapter(folder)
    write(lora_A=np.ones((2, 3)), lora_B=np.ones((4, 5)))
    with pytest.raises(CheckpointError, match="different ranks"):
        read_adapter(folder)
    write(lora_A=np.full((2, 3), np.nan), lora_B=np.ones((4, 2)))
    with pytest.raises(NonFiniteError, match="lora_A"):
        read_adapter(folder)
    write(lora_magnitude_vector=np.ones(3))
    with pytest.raises(CheckpointError, match="only one"):
        read_adapter(folder)
    write(lora_new_part=np.ones(3))
    with pytest.raises(CheckpointError, match="nothing that adapter_config"):
        read_adapter(folder)
