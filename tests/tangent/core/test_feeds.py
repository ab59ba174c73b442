"""Plain modules train like stockpot models; their trunk is kept; heads are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.backbones import Activations, Model
from stockpot.errors import BackboneError, CheckpointError, InputError
from stockpot.tangent import AverageComposer, TangentModel, train_component
from stockpot.tangent.feeds import TensorFeed, cache_trunk
from stockpot.tangent.halves import find_head
from stockpot.tangent.head import draw_head, head_of, load_head, save_head
from stockpot.tangent.settings import TangentSettings
from tests.tangent.core.test_linear import bert, text_batch
from tests.tangent.core.tiny import Network, images, random_delta
from tests.training.tiny import cnn_backbone


def test_rows_of_any_kind() -> None:
    pair = (torch.arange(6).view(3, 2), {"x": torch.arange(3)})
    feed = TensorFeed(pair)
    feed.to(torch.device("cpu"))
    first, second = feed.batch(np.array([2, 0]))
    assert first.tolist() == [[4, 5], [0, 1]]
    assert second["x"].tolist() == [2, 0]
    assert len(feed) == 3
    with pytest.raises(InputError, match=r"\[2, 3\] rows"):
        TensorFeed({"a": torch.zeros(2), "b": torch.zeros(3)})
    for nothing in ([], {}, "text"):
        with pytest.raises(InputError):
            TensorFeed(nothing)


def test_a_kept_trunk_gives_the_same_outputs_and_is_read_again(tmp_path, monkeypatch) -> None:
    model = TangentModel(Network(), from_block="features.blocks.1")
    raw = TensorFeed(images(70))
    kept = cache_trunk(model, raw, tmp_path / "trunk", fingerprint="x")
    rows = np.array([3, 69, 0])
    delta = random_delta(model)
    one, two = model(raw.batch(rows), delta), model(kept.batch(rows), delta)
    assert torch.allclose(one, two, atol=5e-3)  # kept in 16 bits
    before = (tmp_path / "trunk" / "trunk.bin").stat().st_mtime_ns
    cache_trunk(model, raw, tmp_path / "trunk", fingerprint="x")
    assert (tmp_path / "trunk" / "trunk.bin").stat().st_mtime_ns == before
    cache_trunk(model, raw, tmp_path / "trunk", fingerprint="y")
    assert (tmp_path / "trunk" / "trunk.bin").stat().st_mtime_ns != before
    whole = TangentModel(Network())
    assert cache_trunk(whole, raw, tmp_path / "none", fingerprint="x") is raw


def test_activations_that_cannot_be_kept_are_refused(tmp_path) -> None:
    model = TangentModel(Network(), from_block="features.blocks.1")
    with pytest.raises(BackboneError, match="16 bits"):
        cache_trunk(model, TensorFeed(images(4) * 1e8), tmp_path / "trunk", fingerprint="")
    batch = text_batch()
    texts = TangentModel(bert(), from_block="bert.encoder.layer.2", example=batch)
    with pytest.raises(BackboneError, match="mask"):
        cache_trunk(texts, TensorFeed(batch), tmp_path / "trunk", fingerprint="")


def test_a_hugging_face_classifier_trains() -> None:
    batch = text_batch(rows=12)
    labels = np.arange(12) % 3
    model = TangentModel(bert(), from_block="bert.encoder.layer.2", example=batch)
    settings = TangentSettings(epochs=60, batch_size=6, learning_rate=0.05, schedule="cosine")
    made = train_component(
        model,
        TensorFeed(batch),
        labels,
        np.arange(12),
        task="texts",
        classes=["a", "b", "c"],
        fingerprint="x",
        settings=settings,
        validation=np.arange(12),
    )
    assert all(
        n.startswith(("bert.encoder.layer.2", "bert.pooler", "classif")) for n in made.tensors
    )
    assert made.metrics["validation_accuracy"] > 0.6
    assert AverageComposer(model).compose([made]).predict(batch).shape == (12, 3)


def test_heads_are_drawn_from_the_seed_and_kept(tmp_path) -> None:
    one, two = Network(), Network()
    draw_head(one, seed=5)
    draw_head(two, seed=5)
    assert torch.equal(one.head.weight, two.head.weight)
    assert float(one.head.weight.detach().abs().max()) <= 6**-0.5
    draw_head(two, seed=6)
    assert not torch.equal(one.head.weight, two.head.weight)
    path = save_head(tmp_path / "head.safetensors", one, list("abcd"))
    assert load_head(path, two) == ("a", "b", "c", "d")
    assert torch.equal(one.head.weight, two.head.weight)
    model = Model(cnn_backbone(), 4)
    assert head_of(model) is model.head
    load_head(path, model)  # the same shape
    with pytest.raises(BackboneError, match="shape"):
        load_head(path, Network(classes=5))
    with pytest.raises(InputError, match="2 classes"):
        save_head(path, one, ["a", "b"])
    from stockpot.checkpoints.torch_io import save_state

    save_state(path, one.head.state_dict())
    with pytest.raises(CheckpointError, match="no saved head"):
        load_head(path, one)


def test_the_head_is_found_or_asked_for() -> None:
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert find_head(plain) == "2"
    assert find_head(Network()) == "head"
    with pytest.raises(BackboneError, match="name it"):
        find_head(nn.Sequential(nn.Conv2d(3, 3, 1)))
    deep = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.LayerNorm(4)))
    with pytest.raises(InputError, match="LayerNorm"):
        draw_head(deep, head="1.1")
    model = TangentModel(plain, head="0")
    assert model.head == "0."


def test_patterns_cuts_and_names_that_do_not_fit_are_refused() -> None:
    network = Network()
    with pytest.raises(InputError, match="matches none"):
        TangentModel(network, parameters=["nothing.*"])
    with pytest.raises(BackboneError, match="no module 'nowhere'"):
        TangentModel(network, from_block="nowhere")
    with pytest.raises(BackboneError, match=r"freeze_below=.blocks\.2."):
        TangentModel(Model(cnn_backbone("blocks.1"), 2), from_block="blocks.2")
    with pytest.raises(InputError, match="on an example"):
        TangentModel(bert(), from_block="bert.encoder.layer.2")
    model = TangentModel(network, parameters="head.*")
    assert model.names == ("head.weight", "head.bias")
    with pytest.raises(InputError, match="no tangent for 'features"):
        model(images(), {"features.stem.weight": torch.zeros(6, 3, 3, 3)})
    with pytest.raises(InputError, match="no tangent for 'x'"):
        model.prepare({"x": torch.zeros(1)})
    with pytest.raises(BackboneError, match="shape"):
        model.prepare({"head.bias": torch.zeros(5)})
    with pytest.raises(BackboneError, match="expected one tensor"):
        TangentModel(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(8, 8))).native(images())


def test_weights_and_flags_of_the_module_stay_as_they_are() -> None:
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = TangentModel(network.train())
    delta = {name: tensor.requires_grad_() for name, tensor in random_delta(model).items()}
    model(images(), delta).sum().backward()
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(tensor.grad is not None for tensor in delta.values())
    assert not network.training
    empty = model(images(), {})
    assert torch.equal(empty, model.native(images()))
    assert isinstance(
        TangentModel(Network(), from_block="features.blocks.1").to("cpu").trunk(images()),
        Activations,
    )


@pytest.mark.parametrize("from_block", [None, "features.blocks.1"])
def test_training_mode_from_outside_changes_nothing(from_block) -> None:
    network = Network()
    model = TangentModel(network, from_block=from_block)
    delta = random_delta(model)
    outputs = model(images(), delta)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    assert torch.equal(model(images(), delta), outputs)
    network.train()
    model.native(images())
    network.train()
    model.functional(model.weights, images())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
