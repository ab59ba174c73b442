"""A deployed model says what the composed one says: as it is, exported, compiled, as ONNX."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from stockpot.compat import ensure_torchvision
from stockpot.errors import BackboneError, InputError
from stockpot.tangent import AverageComposer, Composed, TangentModel, deployable
from tests.tangent.core.test_linear import bert, text_batch
from tests.tangent.core.tiny import Network, component, images
from tests.tangent.statistics.tiny import composer, data

TINY = 1e-5
# What torch and onnxscript say about their own code.
own_code = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def timm_network(name: str, **options: Any) -> nn.Module:
    ensure_torchvision(quiet=True)
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options).eval()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    return nn.Sequential(*layers)


def vit() -> nn.Module:
    return timm_network(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=16, num_heads=2
    )


def resnet() -> nn.Module:
    return timm_network("resnet10t", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16))


def mobilenet() -> nn.Module:
    """Depthwise convolutions, squeeze and excitation, hard swish."""
    return timm_network("mobilenetv3_small_050")


def efficientnet() -> nn.Module:
    return timm_network("efficientnet_lite0")


def convnext() -> nn.Module:
    return timm_network("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


CASES = {
    "cnn with BatchNorm": (Network, lambda: images()),
    "mlp": (mlp, lambda: torch.from_numpy(data().inputs[:5])),
    "vit": (vit, lambda: images(size=16)),
    "resnet": (resnet, lambda: images(size=32)),
    "mobilenet": (mobilenet, lambda: images(size=32)),
    "efficientnet": (efficientnet, lambda: images(size=32)),
    "convnext": (convnext, lambda: images(size=32)),
    "bert": (bert, text_batch),
}


@functools.cache
def deployed(name: str) -> tuple[Composed, nn.Module, Any]:
    make, batch = CASES[name]
    model = TangentModel(make())
    composed = AverageComposer(model).compose([component(model, f"site-{i}", i) for i in range(2)])
    inputs = batch()
    return composed, deployable(composed, inputs), inputs


def gap(found: Any, composed: Composed, inputs: Any) -> float:
    expected = composed.predict(inputs).double()
    return float(
        (torch.as_tensor(found).detach().double() - expected).abs().max() / expected.abs().max()
    )


def fewer(inputs: Any, rows: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: value[:rows] for name, value in inputs.items()}
    return inputs[:rows]


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_module_with_a_state(name: str) -> None:
    composed, module, inputs = deployed(name)
    assert not module.training
    assert gap(module(inputs), composed, inputs) < TINY
    assert gap(module(fewer(inputs, 2)), composed, fewer(inputs, 2)) < TINY
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    deltas = [name for name in state if name.startswith("delta_")]
    assert len(deltas) == len(composed.state())
    # Without its deltas it is the base.
    module.load_state_dict({n: torch.zeros_like(t) if n in deltas else t for n, t in state.items()})
    model = composed.composer.model  # type: ignore[attr-defined]
    torch.testing.assert_close(module(inputs), model.native(inputs))
    module.load_state_dict(state)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_exported_and_read_again(name: str) -> None:
    composed, module, inputs = deployed(name)
    free = {0: Dim.DYNAMIC}
    shapes = dict.fromkeys(inputs, free) if isinstance(inputs, Mapping) else free
    file = io.BytesIO()
    torch.export.save(export(module, (inputs,), dynamic_shapes=(shapes,)), file)
    file.seek(0)
    again = torch.export.load(file).module()
    assert gap(again(inputs).detach(), composed, inputs) < TINY
    assert gap(again(fewer(inputs, 2)).detach(), composed, fewer(inputs, 2)) < TINY


@pytest.mark.slow
@own_code
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    composed, module, inputs = deployed(name)
    assert gap(torch.compile(module)(inputs).detach(), composed, inputs) < TINY


@pytest.mark.slow
@own_code
@pytest.mark.parametrize("name", CASES)
def test_as_onnx(name: str) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    composed, module, inputs = deployed(name)
    file = io.BytesIO()
    program = torch.onnx.export(module, (inputs,), dynamo=True, verbose=False)
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    values = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    names = [one.name for one in session.get_inputs()]
    fed = {key: value.numpy() for key, value in zip(names, values, strict=True)}
    assert gap(np.asarray(session.run(None, fed)[0]), composed, inputs) < TINY


class Sine(nn.Module):
    """An operator without a rule between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(torch.sin(self.below(values)))


def test_an_operator_without_a_rule_is_named() -> None:
    model = TangentModel(Sine())
    composed = AverageComposer(model).compose([component(model, "one")])
    with pytest.raises(BackboneError, match=r"aten\.sin"):
        deployable(composed, torch.zeros(2, 6))
    # Below the cut no derivative is taken: the operator may stay.
    model = TangentModel(Sine(), parameters=["head.*"])
    composed = AverageComposer(model).compose([component(model, "one")])
    deployable(composed, torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("kind", "parts"), [("plain", 1), ("random", 1), ("joined", 1), ("joined", 2)]
)
def test_statistics_are_features_and_a_linear_layer(kind: str, parts: int) -> None:
    made = composer(kind, parts=parts)
    inputs = torch.from_numpy(data().inputs[:9])
    rows = np.arange(100)
    one = made.component(data().feed, data().labels, rows, task="one", fingerprint="f")
    composed = made.compose([one])
    module = deployable(composed, inputs)
    assert gap(module(inputs).detach(), composed, inputs) < TINY
    assert isinstance(module.head, nn.Linear)
    shapes = ({0: Dim.DYNAMIC},)
    again = export(module, (inputs,), dynamic_shapes=shapes).module()
    assert gap(again(inputs[:4]).detach(), composed, inputs[:4]) < TINY


def test_sketched_gradients_are_refused() -> None:
    made = composer("tangent")
    rows = np.arange(100)
    one = made.component(data().feed, data().labels, rows, task="one", fingerprint="f")
    with pytest.raises(InputError, match="sketched gradients"):
        deployable(made.compose([one]), torch.from_numpy(data().inputs[:3]))
