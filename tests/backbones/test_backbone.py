"""Backbones: built from three kinds of sources, prepared inputs, weights in and out."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import stockpot.backbones
from stockpot import compat
from stockpot.backbones import BackboneSpec, Model, load_backbone, reestimate_batchnorm
from stockpot.backbones.names import strip_prefix
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import BackboneError, MissingDependencyError, StockpotError
from tests.backbones.networks import cnn, masked_folder, text_folder, vit_folder

HERE = "tests.backbones.networks"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def function(name: str = "cnn", **changes):
    changes.setdefault("image_size", 16)
    return BackboneSpec(kind="function", name=f"{HERE}:{name}", **changes)


def test_images_are_scaled_and_normalised_per_channel() -> None:
    spec = function(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    batch = load_backbone(spec).prepare(IMAGES)
    expected = (IMAGES[1, 2, 3] / 255 - [0.5, 0.25, 0.0]) / [0.5, 0.5, 1.0]
    np.testing.assert_allclose(batch[1, :, 2, 3].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_images_of_another_size_are_resized_and_a_flat_one_stays_flat() -> None:
    flat = np.full((1, 40, 24, 3), 100, dtype=np.uint8)
    batch = load_backbone(function(mean=(0, 0, 0), std=(1, 1, 1))).prepare(flat)
    assert batch.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(batch.numpy(), 100 / 255, rtol=1e-5)


def test_arrays_go_in_as_they_are() -> None:
    backbone = load_backbone(function("linear", image_size=None))
    assert backbone.modality == "array"
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_array_equal(backbone.prepare(values).numpy(), values)
    assert backbone.feature_dim == 3


def test_a_function_in_a_file_is_found_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make(width):\n    return nn.Linear(5, width)\n"
    )
    spec = BackboneSpec(kind="function", name="net.py:make", options={"width": 7})
    example = np.zeros((2, 5), dtype=np.float32)
    assert load_backbone(spec, root=tmp_path, example=example).feature_dim == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is no function"),
        ("no.such.module:f", "No module named 'no'"),
        (f"{HERE}:missing", "has no function 'missing'"),
        ("absent.py:f", "there is no file"),
        (f"{HERE}:not_a_module", "returned int, expected a torch.nn.Module"),
    ],
)
def test_functions_that_cannot_be_used_are_named(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load_backbone(BackboneSpec(kind="function", name=name))


def test_a_network_whose_width_is_unknown_is_refused() -> None:
    with pytest.raises(BackboneError, match="number of features is unknown"):
        load_backbone(BackboneSpec(kind="function", name=f"{HERE}:Block", options={"channels": 3}))


def test_texts_are_cut_and_padded_to_the_longest_of_the_batch(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "bert")
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(folder), max_length=5))
    batch = backbone.prepare(["a b c d e f", "a", "b c"])
    assert batch["input_ids"].shape == (3, 5)
    assert batch["attention_mask"].sum(1).tolist() == [5, 3, 4]
    assert backbone.prepare(["a"])["input_ids"].tolist() == [[2, 5, 3]]
    assert backbone.prepare([])["input_ids"].shape[0] == 0


def test_padding_changes_no_feature(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "bert")
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(folder)))
    with torch.no_grad():
        alone = backbone.module(backbone.prepare(["good film"]))
        padded = backbone.module(backbone.prepare(["good film", "a b c d e f a b c"]))
    torch.testing.assert_close(alone[0], padded[0], rtol=1e-5, atol=1e-6)


def test_pooling_is_the_mean_over_tokens_or_the_first(tmp_path: Path) -> None:
    folder = str(text_folder(tmp_path / "bert"))
    for pooling in ("mean", "cls"):
        spec = BackboneSpec(kind="transformers", name=folder, pooling=pooling)
        backbone = load_backbone(spec)
        batch = backbone.prepare(["a b", "c d e f"])
        with torch.no_grad():
            hidden = backbone.network(**batch).last_hidden_state
            got = backbone.module(batch)
        expected = hidden[0, :4].mean(0) if pooling == "mean" else hidden[0, 0]
        torch.testing.assert_close(got[0], expected, rtol=1e-5, atol=1e-6)


def test_texts_for_images_and_images_for_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="takes images or arrays, got list"):
        load_backbone(function()).prepare(["a"])
    folder = text_folder(tmp_path / "bert")
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(folder)))
    with pytest.raises(BackboneError, match="takes a list of texts, got ndarray"):
        backbone.prepare(IMAGES)


def test_folders_that_are_not_there_and_not_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="there is no folder"):
        load_backbone(BackboneSpec(kind="transformers", name="./absent"), root=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackboneError, match=r"transformers cannot load './empty'"):
        load_backbone(BackboneSpec(kind="transformers", name="./empty"), root=tmp_path)
    folder = text_folder(tmp_path / "bert")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BackboneError, match="has no tokenizer"):
        load_backbone(BackboneSpec(kind="transformers", name=str(folder)))


def test_timm_models_lose_their_classifier_and_bring_their_statistics() -> None:
    spec = BackboneSpec(
        kind="timm", name="mobilenetv3_small_050", options={"pretrained": False}, image_size=32
    )
    backbone = load_backbone(spec)
    assert backbone.feature_dim == 1024
    assert not any("classifier" in name for name in backbone.state())
    assert backbone.preparation.mean == backbone.network.pretrained_cfg["mean"]


def test_timm_networks_can_be_cut() -> None:
    spec = BackboneSpec(
        kind="timm",
        name="mobilenetv3_small_050",
        options={"pretrained": False},
        image_size=32,
        freeze_below="blocks.5",
    )
    backbone = load_backbone(spec)
    assert all(n.startswith(("blocks.5", "conv_head")) for n in backbone.trainable)


def test_timm_downloads_nothing_that_was_not_asked_for() -> None:
    with pytest.raises(BackboneError, match="no weights are named"):
        load_backbone(BackboneSpec(kind="timm", name="resnet18"))
    with pytest.raises(BackboneError, match="timm cannot build 'resnet17'"):
        load_backbone(BackboneSpec(kind="timm", name="resnet17", options={"pretrained": False}))


def test_weights_over_the_network_lose_a_wrapper_and_an_old_head(tmp_path: Path) -> None:
    other = cnn(seed=5).state_dict()
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in other.items()}
    save_state(tmp_path / "w.safetensors", {**wrapped, "module.fc.weight": torch.ones(2, 6)})
    backbone = load_backbone(function(weights="w.safetensors"), root=tmp_path)
    for name, tensor in backbone.state().items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused_by_tensor(tmp_path: Path) -> None:
    state = cnn().state_dict()
    state["stem.weight"] = torch.zeros(6, 3, 5, 5)
    save_state(tmp_path / "shape.safetensors", state)
    with pytest.raises(BackboneError, match=r"'stem.weight' has shape \(6, 3, 5, 5\), expected"):
        load_backbone(function(weights="shape.safetensors"), root=tmp_path)
    del state["stem.weight"]
    save_state(tmp_path / "missing.safetensors", state)
    with pytest.raises(BackboneError, match=r"tensor 'stem.weight' is missing"):
        load_backbone(function(weights="missing.safetensors"), root=tmp_path)
    with pytest.raises(BackboneError, match="there is no weights file"):
        load_backbone(function(weights="absent.safetensors"), root=tmp_path)


def test_prefixes_are_found_by_vote() -> None:
    assert strip_prefix(["bert.a.b", "bert.c", "classifier.c"], ["a.b", "c"]) == "bert."
    assert strip_prefix(["a.b", "c"], ["a.b", "c"]) == ""
    assert strip_prefix(["x"], ["y"]) == ""


def test_weights_from_the_wild_are_reduced_to_what_is_trained() -> None:
    backbone = load_backbone(function(freeze_below="last"))
    other = {f"net.{name}": tensor for name, tensor in cnn(seed=3).state_dict().items()}
    found = backbone.adopt({**other, "net.head.bias": torch.ones(1)})
    assert list(found) == ["last.weight", "last.bias"]
    before = backbone.state()
    backbone.load(found)
    after = backbone.state()
    assert torch.equal(after["last.bias"], other["net.last.bias"])
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("last"))
    backbone.reset()
    assert all(torch.equal(t, before[n]) for n, t in backbone.state().items())


def test_a_trunk_that_may_be_cached_is_never_overwritten() -> None:
    backbone = load_backbone(function(freeze_below="last"))
    before = backbone.state()
    backbone.load({"stem.weight": torch.ones(6, 3, 3, 3)})
    assert torch.equal(backbone.state()["stem.weight"], before["stem.weight"])
    with pytest.raises(BackboneError, match="has no tensor 'steam'"):
        backbone.load({"steam": torch.ones(1)})


def test_fingerprints_tell_weights_and_preparation_apart() -> None:
    first = load_backbone(function(freeze_below="last"))
    again = load_backbone(function(freeze_below="last"))
    other = load_backbone(function(freeze_below="last", options={"seed": 1}))
    darker = load_backbone(function(freeze_below="last", mean=(0.1, 0.1, 0.1)))
    assert first.fingerprint == again.fingerprint
    assert len({b.trunk_fingerprint for b in (first, other, darker)}) == 3


def test_a_model_goes_out_and_in_through_its_state() -> None:
    model = Model(load_backbone(function(freeze_below="last")), 3)
    model.set_head(np.ones((3, 6), dtype=np.float32), np.arange(3, dtype=np.float32))
    state = model.state()
    names = ["featurizer.last.weight", "featurizer.last.bias", "head.weight", "head.bias"]
    assert list(state) == names
    other = Model(load_backbone(function(freeze_below="last")), 3)
    other.load_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    with pytest.raises(BackboneError, match=r"'head.bias' is missing \(1 of 4 are\)"):
        other.load_state({n: t for n, t in state.items() if n != "head.bias"})
    other.load_state({"head.bias": torch.zeros(3)}, partial=True)
    with pytest.raises(BackboneError, match=r"has no tensor 'tail.bias'"):
        other.load_state({"tail.bias": torch.zeros(3)}, partial=True)
    with pytest.raises(BackboneError, match="shape"):
        other.load_state({"head.bias": torch.zeros(4)}, partial=True)


def test_activations_need_a_backbone_that_is_cut() -> None:
    cut = load_backbone(function(freeze_below="last"))
    whole = Model(load_backbone(function()), 2)
    with pytest.raises(BackboneError, match="without freeze_below"):
        whole(cut.trunk(cut.prepare(IMAGES)))


def test_batchnorm_is_frozen_with_scale_and_shift_trained() -> None:
    backbone = load_backbone(function())
    model = Model(backbone, 2).train()
    before = backbone.state()
    model(backbone.prepare(IMAGES)).sum().backward()
    after = backbone.state()
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name)
    assert "bn.weight" in backbone.trainable
    assert not any("running" in name for name in backbone.trainable_names())


def test_reestimated_statistics_are_those_of_the_batches() -> None:
    backbone = load_backbone(function(batchnorm="reestimate"))
    assert "bn.running_mean" in backbone.trainable_names()
    model = Model(backbone, 2)
    batches = [backbone.prepare(IMAGES[:2]), backbone.prepare(IMAGES[1:])]
    assert reestimate_batchnorm(model, batches) == 2
    with torch.no_grad():
        first = [backbone.network.stem(batch) for batch in batches]
    expected = torch.stack([values.mean((0, 2, 3)) for values in first]).mean(0)
    torch.testing.assert_close(backbone.network.bn.running_mean, expected, rtol=1e-5, atol=1e-6)
    assert backbone.network.bn.momentum == 0.1
    assert not backbone.network.bn.training


def test_reestimation_leaves_the_trunk_and_networks_without_batchnorm_alone() -> None:
    cut = load_backbone(function(freeze_below="blocks.2", batchnorm="reestimate"))
    assert [n for n in cut.trainable_names() if "running" in n] == [
        "blocks.2.bn.running_mean",
        "blocks.2.bn.running_var",
    ]
    before = cut.state()
    model = Model(cut, 2)
    reestimate_batchnorm(model, [cut.trunk(cut.prepare(IMAGES))])
    after = cut.state()
    assert torch.equal(after["bn.running_mean"], before["bn.running_mean"])
    assert not torch.equal(after["blocks.2.bn.running_mean"], before["blocks.2.bn.running_mean"])
    plain = Model(load_backbone(function("linear", image_size=None)), 2)
    assert reestimate_batchnorm(plain, [torch.zeros(2, 5)]) == 0


def test_a_vision_transformer_is_an_image_backbone(tmp_path: Path) -> None:
    folder = vit_folder(tmp_path / "vit")
    backbone = load_backbone(BackboneSpec(kind="transformers", name=str(folder)))
    assert backbone.modality == "image"
    assert backbone.feature_dim == 8
    assert backbone.prepare(IMAGES).shape == (3, 3, 16, 16)


def test_a_mismatched_torchvision_is_told_once_and_lived_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The import fails until the operators exist, as the real one does."""
    kept = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "torchvision"}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "from stockpot import compat\n"
        "if not compat._alive:\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compat, "_alive", [])
    made: list[str] = []
    library = types.SimpleNamespace(define=made.append)
    monkeypatch.setattr(torch.library, "Library", lambda name, kind: library)
    with caplog.at_level(logging.WARNING, logger="stockpot"):
        assert compat.ensure_torchvision()
        assert not compat.ensure_torchvision()
    assert len(caplog.records) == 1
    assert "install both together" in caplog.text
    assert [text.partition("(")[0] for text in made] == ["nms", "qnms"]
    sys.modules.pop("torchvision", None)


def test_other_failures_of_torchvision_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    for error in ("RuntimeError('something else')", "OSError('libc')"):
        (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {error}\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert not compat.ensure_torchvision()


def test_every_error_has_the_projects_root() -> None:
    assert issubclass(BackboneError, StockpotError)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, extra in (("timm", "vision"), ("transformers", "text")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=rf"stockpot\[{extra}\]"):
            load_backbone(BackboneSpec(kind=package, name="x"))


def test_weights_of_a_text_encoder_need_no_pooler(tmp_path: Path) -> None:
    folder, other = text_folder(tmp_path / "a"), text_folder(tmp_path / "b", seed=1)
    state = {
        f"bert.{name}": tensor
        for name, tensor in load_state(other).items()
        if not name.startswith("pooler.")
    }
    save_state(tmp_path / "w.safetensors", {**state, "classifier.bias": torch.zeros(2)})
    spec = BackboneSpec(kind="transformers", name=str(folder), weights="w.safetensors")
    backbone = load_backbone(spec, root=tmp_path)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(backbone.state()[name], state[f"bert.{name}"])


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "distilbert"])
def test_a_masked_language_model_is_one_base(tmp_path: Path, kind: str) -> None:
    """Its pooler is drawn at random by the library, at every load anew."""
    folder = masked_folder(tmp_path / "base", kind)
    specs = [BackboneSpec(kind="transformers", name=str(folder)) for _ in range(2)]
    first, second = map(load_backbone, specs)
    assert first.fingerprint == second.fingerprint
    assert not any(name.startswith("pooler") for name in first.trainable)
    if kind != "distilbert":
        spec = specs[0].model_copy(update={"pooling": "pooler"})
        with pytest.raises(BackboneError, match=r"lack 'pooler\.dense\.bias'"):
            load_backbone(spec)


def test_a_base_that_lacks_a_layer_is_refused_by_tensor(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "base")
    state = load_state(folder)
    save_state(
        folder / "model.safetensors",
        {name: tensor for name, tensor in state.items() if "layer.1.output" not in name},
    )
    with pytest.raises(BackboneError, match=r"lack 'encoder.layer.1.output.LayerNorm.bias'"):
        load_backbone(BackboneSpec(kind="transformers", name=str(folder)))


def test_the_package_names_what_it_has_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stockpot.backbones.nothing
