"""A model folder loads in the base's own library, and in stockpot with its head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import BackboneSpec, Model, load_backbone
from stockpot.backbones.folder import load_model, save_folder
from stockpot.checkpoints import open_checkpoint
from stockpot.errors import BackboneError
from stockpot.provenance import Record, read_record
from tests.backbones.networks import text_folder

HERE = "tests.backbones.networks"
RECORD = Record(kind="merge", name="Soup")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def changed(spec: BackboneSpec) -> Model:
    """A model whose trained part is no longer the base's."""
    model = Model(load_backbone(spec), 2)
    rng = torch.Generator().manual_seed(0)
    state = {n: t + 0.1 * torch.randn(t.shape, generator=rng) for n, t in model.state().items()}
    model.load_state(state)
    model.eval()
    return model


def test_a_text_model_loads_in_transformers_with_its_tokenizer(tmp_path: Path) -> None:
    import transformers

    base = text_folder(tmp_path / "base")
    spec = BackboneSpec(
        kind="transformers", name=str(base), freeze_below="encoder.layer.2", max_length=9
    )
    model = changed(spec)
    out = tmp_path / "out"
    out.mkdir()
    record = save_folder(out, model.backbone, model.state(), record=RECORD, classes=["no", "yes"])
    loaded = transformers.AutoModel.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert type(loaded) is type(model.backbone.network)
    for name, tensor in model.backbone.state().items():
        if not name.startswith("pooler."):  # which holds a part of the head
            assert torch.equal(loaded.state_dict()[name], tensor)
    assert tokenizer("a good film")["input_ids"] == [2, 5, 11, 13, 3]
    assert read_record(out) == record
    with open_checkpoint(out / "model.safetensors") as checkpoint:
        assert record.digest == checkpoint.digest()
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    with open_checkpoint(out) as after:
        assert set(whole.state_dict()) == set(after.names)

    again, classes = load_model(out)
    assert classes == ("no", "yes")
    texts = ["a good film", "bad food"]
    with torch.no_grad():
        got = again(again.backbone.prepare(texts))
        want = model(model.backbone.prepare(texts))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_timm_model_loads_in_timm(tmp_path: Path) -> None:
    import timm

    spec = BackboneSpec(
        kind="timm", name="mobilenetv3_small_050", options={"pretrained": False}, image_size=32
    )
    model = changed(spec)
    save_folder(tmp_path, model.backbone, model.state(), record=RECORD)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    again, _ = load_model(tmp_path)
    batch = model.backbone.prepare(IMAGES)
    with torch.no_grad():
        want = model.features(batch)
        torch.testing.assert_close(loaded(batch), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.features(batch), want, rtol=1e-4, atol=1e-5)


def test_a_function_model_loads_in_plain_pytorch(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.backbones.networks import cnn

    spec = BackboneSpec(kind="function", name=f"{HERE}:cnn", image_size=32, freeze_below="blocks.1")
    model = changed(spec)
    save_folder(tmp_path, model.backbone, model.state(), record=RECORD)
    network = cnn(seed=9)
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    again, classes = load_model(tmp_path)
    assert classes == ()
    batch = model.backbone.prepare(IMAGES)
    with torch.no_grad():
        want = model(batch)
        torch.testing.assert_close(again(batch), want, rtol=1e-4, atol=1e-5)
        features = network.eval()(batch)
    torch.testing.assert_close(features, model.features(batch), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "head.json").read_text())["backbone"]["image_size"] == 32


def test_a_folder_without_a_head_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"there is no head\.json"):
        load_model(tmp_path)
