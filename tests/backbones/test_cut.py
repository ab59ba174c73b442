"""The two halves of a cut network are the whole, and share its tensors under their own names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import BackboneSpec, Model, load_backbone
from stockpot.errors import BackboneError
from tests.backbones.networks import text_folder, vit_folder

HERE = "tests.backbones.networks"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def cnn_cut(below: str | None, function: str = "cnn"):
    return load_backbone(
        BackboneSpec(kind="function", name=f"{HERE}:{function}", freeze_below=below, image_size=16)
    )


@pytest.mark.parametrize("below", ["stem", "bn", "blocks.0", "blocks.1", "blocks.2.conv", "last"])
def test_trunk_and_upper_of_a_cnn_equal_the_whole(below: str) -> None:
    backbone = cnn_cut(below)
    batch = backbone.prepare(IMAGES)
    with torch.no_grad():
        whole = backbone.module(batch)
        halves = backbone.upper(backbone.trunk(batch))
    torch.testing.assert_close(halves, whole, rtol=1e-6, atol=1e-7)


def test_names_above_the_cut_are_the_networks_own() -> None:
    backbone = cnn_cut("blocks.2")
    expected = ["blocks.2.conv.weight", "blocks.2.bn.weight", "blocks.2.bn.bias"]
    assert backbone.trainable_names() == [*expected, "last.weight", "last.bias"]
    assert set(backbone.state()) == set(backbone.network.state_dict())


def test_only_what_is_above_the_cut_gets_a_gradient() -> None:
    backbone = cnn_cut("blocks.2")
    model = Model(backbone, 2)
    torch.nn.init.ones_(model.head.weight)
    model.train()
    with torch.no_grad():
        activations = backbone.trunk(backbone.prepare(IMAGES))
    model(activations).sum().backward()
    got = {n for n, p in backbone.network.named_parameters() if p.grad is not None}
    assert got == set(backbone.trainable_names())


def test_the_trunk_never_goes_into_training_mode() -> None:
    backbone = cnn_cut("blocks.2")
    model = Model(backbone, 2).train()
    assert model.training
    assert not backbone.network.blocks[1].bn.training
    assert not backbone.network.blocks[2].bn.training  # frozen statistics
    model.backbone.spec = model.backbone.spec.model_copy(update={"batchnorm": "reestimate"})
    model.train()
    assert backbone.network.blocks[2].bn.training
    assert not backbone.network.blocks[1].bn.training


def test_a_place_where_two_tensors_cross_is_refused_and_others_named() -> None:
    with pytest.raises(BackboneError, match=r"2 values, not one tensor.*last"):
        cnn_cut("join", "two_paths")
    with pytest.raises(BackboneError, match=r"go into 'blocks.2.bn'.*blocks.1, blocks.2, last"):
        cnn_cut("blocks.2.bn")  # inside a residual block the shortcut crosses as well


def test_an_unknown_module_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(BackboneError, match=r"no module 'block\.2'.*stem, bn, blocks, last"):
        cnn_cut("block.2")


def test_a_module_list_has_no_operation_of_its_own_but_its_items_do() -> None:
    assert cnn_cut("blocks").trainable_names() == cnn_cut("blocks.0").trainable_names()


def test_a_network_with_branches_on_data_cannot_be_cut() -> None:
    with pytest.raises(BackboneError, match=r"torch\.fx cannot follow"):
        cnn_cut("second", "untraceable")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    ("kind", "stack"),
    [
        ("bert", "encoder.layer"),
        ("roberta", "encoder.layer"),
        ("mpnet", "encoder.layer"),
        ("distilbert", "transformer.layer"),
    ],
)
def test_trunk_and_upper_of_a_text_encoder_equal_the_whole(
    tmp_path: Path, kind: str, stack: str, pooling: str
) -> None:
    folder = text_folder(tmp_path / kind, kind)
    for index in (0, 1, 2):
        backbone = load_backbone(
            BackboneSpec(
                kind="transformers",
                name=str(folder),
                freeze_below=f"{stack}.{index}",
                pooling=pooling,
            )
        )
        batch = backbone.prepare(["a b c d e", "good film", "f"])
        with torch.no_grad():
            whole = backbone.module(batch)
            halves = backbone.upper(backbone.trunk(batch))
        torch.testing.assert_close(halves, whole, rtol=1e-5, atol=1e-6)
        layers = {name.split(".")[2] for name in backbone.trainable if name.startswith(stack)}
        assert layers == {str(i) for i in range(index, 3)}
        assert all(name.startswith(f"{stack}.") for name in backbone.trainable)


def test_a_vision_transformer_is_cut_and_its_last_norm_trains(tmp_path: Path) -> None:
    folder = vit_folder(tmp_path / "vit")
    backbone = load_backbone(
        BackboneSpec(kind="transformers", name=str(folder), freeze_below="layers.2", pooling="cls")
    )
    batch = backbone.prepare(IMAGES)
    with torch.no_grad():
        whole = backbone.module(batch)
        halves = backbone.upper(backbone.trunk(batch))
    torch.testing.assert_close(halves, whole, rtol=1e-5, atol=1e-6)
    assert {name.split(".")[0] for name in backbone.trainable} == {"layers", "layernorm"}
    assert backbone.modality == "image"


def test_texts_cross_the_cut_with_their_mask(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "bert")
    backbone = load_backbone(
        BackboneSpec(kind="transformers", name=str(folder), freeze_below="encoder.layer.1")
    )
    crossing = backbone.trunk(backbone.prepare(["a b c", "a"]))
    assert crossing.mask is not None
    assert crossing.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert crossing.values.shape == (2, 5, 8)
