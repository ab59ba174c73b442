"""Find how a library's own class holds a backbone with a linear head, by trying and comparing.

``transformers`` has classes for sequence and image classification, timm networks have a classifier.
What they compute from the features differs by architecture: other layers in between, another token,
another mean. No table of architectures is kept here: each form of :mod:`~stockpot.backbones.layout`
is filled in and the outputs are compared with the model's; the first that agrees is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from stockpot.backbones.layout import FORMS, Layout
from stockpot.backbones.sources import Readout, Run
from stockpot.errors import BackboneError

TOLERANCE = 1e-5
"""Largest difference between the outputs of class and model, relative to the largest output."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Expression:
    """A class that computes what the model does: its name, the number of its outputs, its tensors,
    and where its head lies."""

    class_name: str
    outputs: int
    names: frozenset[str]
    layout: Layout


@dataclass(frozen=True)
class _Whole:
    """A library's class around a network: ``call(tensors, batch)`` gives its outputs.

    ``names``: what its ``save_pretrained`` writes. ``prefix`` stands before the network's names.
    """

    module: nn.Module
    names: frozenset[str]
    prefix: str
    call: Callable[[Mapping[str, Tensor], Any], Tensor]


def express(
    network: nn.Module,
    run: Run,
    readout: Readout,
    head: tuple[np.ndarray, np.ndarray],
    batch: Any,
    weights: Mapping[str, Tensor] | None = None,
) -> Expression | None:
    """The library's class for ``network`` with ``head`` (weight, bias) on its features.

    ``batch``: a prepared batch on which the outputs are compared. ``weights``: tensors to be used
    instead of the network's own. None where there is no such class, or none that agrees.
    """
    weight, bias = head
    whole = _build(network, len(bias))
    if whole is None:
        return None
    own = {**network.state_dict(), **(weights or {})}
    with torch.no_grad():
        mask = batch.get("attention_mask") if isinstance(batch, dict) else None
        try:
            output = run(lambda *a, **k: functional_call(network, own, a, k), batch)  # type: ignore[arg-type]
            features = readout(output, mask)
            expected = nn.functional.linear(
                features, torch.as_tensor(weight), torch.as_tensor(bias)
            )
        except (RuntimeError, BackboneError, AttributeError, TypeError, IndexError):
            return None  # this readout is not for this network
        inside = {f"{whole.prefix}{name}": tensor for name, tensor in own.items()}
        for layout in _layouts(whole, network, len(bias)):
            with suppress(BackboneError):
                placed = {n: torch.as_tensor(t) for n, t in layout.place(weight, bias).items()}
                tensors = {n: t for n, t in (inside | placed).items() if n in whole.names}
                if _agree(whole.call(tensors, batch), expected):
                    return Expression(type(whole.module).__name__, len(bias), whole.names, layout)
    return None


def _agree(outputs: Tensor, expected: Tensor) -> bool:
    if outputs.shape != expected.shape:
        return False
    scale = max(1.0, float(expected.abs().max()))
    return bool((outputs - expected).abs().max() <= TOLERANCE * scale)


def _layouts(whole: _Whole, network: nn.Module, outputs: int) -> Iterator[Layout]:
    """Layers that may hold the head: the class's own, and the backbone's pooler before them."""
    within = {f"{whole.prefix}{name}": layer for name, layer in _dense_layers(network)}
    outside = {n: layer for n, layer in _dense_layers(whole.module) if n not in within}
    pooler = f"{whole.prefix}pooler"
    before = outside | {
        n: x for n, x in within.items() if n == pooler or n.startswith(f"{pooler}.")
    }
    own = {f"{whole.prefix}{name}" for name, _ in network.named_parameters()}
    empty = {name for name, _ in whole.module.named_parameters()} - own
    for last, layer in outside.items():
        if layer.weight.shape[0] != outputs or layer.bias is None:
            continue
        shape = {"inputs": int(layer.weight.shape[1]), "kernel": layer.weight.ndim == 4}
        layouts = [Layout("linear", last, prefix=whole.prefix, **shape)]
        for form in FORMS[1:]:
            for dense, middle in before.items():
                if dense != last and middle.bias is not None and middle.weight.ndim == 2:
                    hidden = int(middle.weight.shape[0])
                    layouts.append(
                        Layout(form, last, prefix=whole.prefix, dense=dense, hidden=hidden, **shape)
                    )
        # A class with a further layer, such as a norm, would need values for that as well.
        yield from (layout for layout in layouts if empty <= set(layout.names))


def _dense_layers(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)
    ]


def _build(network: nn.Module, outputs: int) -> _Whole | None:
    home = type(network).__module__.partition(".")[0]
    if home == "transformers":
        return _transformers_class(network, outputs)
    if home == "timm":
        return _timm_network(network, outputs)
    return None


def _transformers_class(network: Any, outputs: int) -> _Whole | None:
    """The class's own layers without values ("meta"), around the network itself."""
    import transformers

    pixels = network.main_input_name == "pixel_values"
    auto: Any = (
        transformers.AutoModelForImageClassification
        if pixels
        else transformers.AutoModelForSequenceClassification
    )
    config = copy.deepcopy(network.config)
    config.num_labels = outputs
    config.problem_type = "regression" if outputs == 1 else "single_label_classification"
    try:
        with torch.device("meta"):
            module = auto.from_config(config)
    except Exception:  # an architecture without such a class, or one with settings of its own
        return None
    prefix = module.base_model_prefix
    if type(getattr(module, prefix, None)) is not type(network):
        return None
    names = frozenset(module.state_dict())
    module.eval()
    setattr(module, prefix, network)

    def call(tensors: Mapping[str, Tensor], batch: Any) -> Tensor:
        given = {"pixel_values": batch} if pixels else batch
        logits: Tensor = functional_call(module, dict(tensors), (), given).logits
        return logits

    return _Whole(module, names, f"{prefix}.", call)


def _timm_network(network: Any, outputs: int) -> _Whole | None:
    module = copy.deepcopy(network)
    try:
        module.reset_classifier(outputs)
    except Exception:  # a network without a classifier of the usual kind
        return None
    module.eval()
    return _Whole(
        module,
        frozenset(module.state_dict()),
        "",
        lambda tensors, batch: functional_call(module, dict(tensors), batch),
    )
