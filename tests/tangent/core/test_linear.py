"""A linearised model is the derivative of its module: central differences and float64 agree."""

from __future__ import annotations

import pytest
import torch

from stockpot.compat import ensure_torchvision
from stockpot.tangent import TangentModel
from tests.tangent.core.tiny import Network, differences, images, random_delta


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("from_block", [None, "features.blocks.1"])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float64", 1e-8), ("float32", 2e-5), ("bfloat16", 0.05)]
)
def test_both_terms_agree_with_central_differences(from_block, precision, tolerance) -> None:
    network, inputs = Network(), images()
    model = TangentModel(network, from_block=from_block, precision=precision)
    delta = random_delta(model)
    native, change = differences(network, inputs, delta)
    one, two = model.terms(inputs, delta)
    assert relative(one, native) < tolerance
    assert relative(two, change) < tolerance
    assert torch.equal(model(inputs, delta), one + two)
    assert relative(model.native(inputs), native) < tolerance


def text_batch(rows: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[1, 4:] = 0
    ids = torch.randint(5, 15, (rows, length), generator=generator)
    return {"input_ids": ids, "attention_mask": mask}


def bert(**changes) -> torch.nn.Module:
    ensure_torchvision(quiet=True)
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=20,
        num_labels=3,
        **changes,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def vit() -> torch.nn.Module:
    ensure_torchvision(quiet=True)
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=12,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config)


def timm_model(name: str, **options) -> torch.nn.Module:
    ensure_torchvision(quiet=True)
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3, **options)


SMALL_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 2}
REAL = {
    "bert": (bert, text_batch, "bert.encoder.layer.2", "classifier."),
    "bert, eager": (
        lambda: bert(attn_implementation="eager"),
        text_batch,
        "bert.encoder.layer.1",
        "classifier.",
    ),
    "vit": (vit, lambda: {"pixel_values": images(3, size=16)}, None, "classifier."),
    "timm vit": (
        lambda: timm_model("vit_tiny_patch16_224", **SMALL_VIT),
        lambda: images(3, size=16),
        "blocks.2",
        "head.",
    ),
    "timm resnet": (
        # Branches that end in zeros put ReLU exactly on its kink, where no difference is right.
        lambda: timm_model("resnet10t", zero_init_last=False),
        lambda: images(3, size=32),
        "layer4",
        "fc.",
    ),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("cut", [False, True])
def test_models_of_the_libraries(name, cut, caplog) -> None:
    make, batch, block, head = REAL[name]
    network, inputs = make(), batch()
    block = block or vit_block(network)
    model = TangentModel(network, from_block=block if cut else None, example=inputs)
    assert model.head == head
    delta = random_delta(model, scale=0.03)
    assert f"{head}weight" in delta
    assert cut == model.has_trunk
    assert cut == (len(delta) < len(list(network.parameters())))
    native, change = differences(network, inputs, delta)
    one, two = model.terms(inputs, delta)
    assert relative(one, native) < 1e-4
    assert relative(two, change) < 1e-4
    crossing = model.trunk(inputs)
    assert torch.equal(model(crossing, delta), one + two)


def vit_block(network: torch.nn.Module) -> str:
    """Releases of transformers name a ViT's layers differently."""
    lists = [n for n, m in network.named_modules() if isinstance(m, torch.nn.ModuleList)]
    return f"{lists[0]}.2"
