"""A backbone whose folder holds encoded weights is built from their floats."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import torch

from stockpot.backbones import BackboneSpec, load_backbone
from stockpot.checkpoints import load_state, write_checkpoint


def test_an_fp8_folder_is_the_network_of_its_floats(tmp_path):
    from stockpot.compat import ensure_torchvision

    ensure_torchvision(quiet=True)
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    state, codes = {}, {}
    for name, tensor in load_state(tmp_path / "model.safetensors").items():
        values = tensor.numpy()
        if ".layer." in name and name.endswith("dense.weight"):
            scale = np.float32(np.abs(values).max() / 448)
            state[name] = (values / scale).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
            state[f"{name}_scale"], codes[name] = scale, "F8_E4M3"
        else:
            state[name] = values
    write_checkpoint(tmp_path / "model.safetensors", state, dtypes=codes)
    content = json.loads((tmp_path / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "fbgemm_fp8"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(tmp_path)))
    own = backbone.state()
    for name in codes:
        exact = state[name].view(ml_dtypes.float8_e4m3fn).astype(float) * state[f"{name}_scale"]
        np.testing.assert_allclose(own[name].numpy(), exact, rtol=2.0**-8)
