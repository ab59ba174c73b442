"""What is linearised: a module as a frozen trunk and the part above it, with names kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.backbones import Model
from stockpot.backbones.cut import Cut, cut_graph, cut_stack, find_stack
from stockpot.backbones.model import PREFIX
from stockpot.errors import BackboneError, InputError

HEADS = ("head", "fc", "classifier", "score", "out_proj")


@dataclass(frozen=True)
class Halves:
    """``upper(trunk(batch)) == module(batch)``; without a trunk ``upper`` takes the batch itself.

    ``names``: name as a component writes it -> name of that parameter inside ``upper``, for the
    parameters that get a tangent. ``head``: the prefix of the head's names ("head.").
    ``state``: all weights and buffers under their component names.
    """

    module: nn.Module
    trunk: nn.Module | None
    upper: nn.Module
    names: Mapping[str, str]
    head: str
    state: Mapping[str, Tensor]


class Caller(nn.Module):
    """Calls a module with a prepared batch, whatever its kind, and reads its logits.

    A mapping goes in as keyword arguments, a tuple as positional ones, anything else as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Tensor:
        """(N, C)."""
        return logits_of(_call(self.module, batch))


class _ModelUpper(nn.Module):
    """A stockpot model above its cut, without dropout."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.featurizer = model.featurizer if model.upper is None else model.upper
        self.head = model.head

    def forward(self, batch: Any) -> Tensor:
        """(N, C)."""
        output: Tensor = self.head(self.featurizer(batch))
        return output


def logits_of(output: Any) -> Tensor:
    """The tensor (N, C) in what a module returned: itself, ``.logits``, or the first of a tuple."""
    if not isinstance(output, Tensor):
        first = output[0] if isinstance(output, tuple) and output else None
        output = getattr(output, "logits", first)
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BackboneError(
            f"the module returns {got}, expected one tensor (N, C)",
            hint="wrap it so that it returns logits, one row an example",
        )
    return output


def split_module(
    module: nn.Module,
    *,
    parameters: str | Sequence[str] = "all",
    from_block: str | None = None,
    head: str | None = None,
    example: Any = None,
) -> Halves:
    """Find what is linearised.

    ``parameters``: "all", or names with ``*`` (of a stockpot ``Model`` those of ``Model.state``).
    ``from_block``: a module's name; what runs before it becomes the trunk. A ``Model`` brings its
    cut with it (``freeze_below``). ``head``: the name of the head, by default found. ``example``: a
    batch, which a Hugging Face model with a head needs to be cut.
    Raises ``BackboneError`` for a module that cannot be cut, ``InputError`` for a pattern that
    matches nothing.
    """
    if isinstance(module, Model):
        return _split_model(module, parameters, from_block)
    prefix = f"{head or find_head(module)}."
    named = dict(module.named_parameters())
    trunk: nn.Module | None = None
    upper: nn.Module = Caller(module)
    if from_block is not None:
        cut = _cut(module, from_block, example)
        trunk, upper = cut.trunk, cut.upper
        named = {name: named[name] for name in named if name in cut.trainable}
    names = _select(_paths(named, upper), parameters)
    return Halves(module, trunk, upper, names, prefix, module.state_dict())


def find_head(module: nn.Module) -> str:
    """Name of the last layer: timm's classifier, one of the usual names, or the last linear one."""
    classifier = getattr(module, "get_classifier", None)
    if callable(classifier):
        layer = classifier()
        found: str = next((n for n, part in module.named_modules() if part is layer), "")
        if found:
            return found
    for name in HEADS:
        part = getattr(module, name, None)
        if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
            return name
    linear: list[str] = [
        name for name, part in module.named_modules() if isinstance(part, nn.Linear)
    ]
    if not linear or not linear[-1]:
        raise BackboneError(
            "the module has no linear layer that could be its head", hint="name it: head='...'"
        )
    return linear[-1]


def _cut(module: nn.Module, name: str, example: Any) -> Cut:
    """At a layer of a transformer inside ``module`` (``base_model`` in Hugging Face's words), or
    wherever one tensor crosses."""
    place = str(getattr(module, "base_model_prefix", ""))
    encoder = getattr(module, place, None) if place else None
    inner = name.removeprefix(f"{place}.")
    stack = find_stack(encoder, inner) if isinstance(encoder, nn.Module) else None
    if stack is None:
        try:
            return cut_graph(module, name, readout=_logits)
        except BackboneError as error:
            raise BackboneError(
                error.message.replace("freeze_below", "from_block"),
                hint="name another block, or give `parameters`: names need no cut",
            ) from error
    assert encoder is not None
    if example is None or (isinstance(example, Mapping) and not _maskable(example)):
        raise InputError(
            f"from_block '{name}': a transformer with its own head is cut on an example",
            hint="give example=..., a batch with attention_mask (texts) or pixel_values (images)",
        )
    cut = cut_stack(
        encoder, *stack, run=_call, readout=_logits, example=example, inside=(module, place)
    )
    with torch.no_grad():
        whole = logits_of(_call(module.eval(), example))
        gap = float((cut.upper(cut.trunk(example)) - whole).abs().max())
    if not gap <= 1e-4 * max(float(whole.abs().max()), 1e-30):
        raise BackboneError(
            f"from_block '{name}': the halves differ from the whole by {gap:.1e}",
            hint="use `parameters` with names instead: nothing is cut then",
        )
    return cut


def _maskable(example: Mapping[str, Any]) -> bool:
    return "attention_mask" in example or "pixel_values" in example


def _call(module: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, tuple) else module(batch)


def _logits(output: Any, mask: Tensor | None) -> Tensor:
    return logits_of(output)


def _split_model(model: Model, parameters: str | Sequence[str], from_block: str | None) -> Halves:
    backbone = model.backbone
    if from_block is not None and from_block != backbone.spec.freeze_below:
        raise BackboneError(
            f"from_block is '{from_block}', the backbone is cut at {backbone.spec.freeze_below!r}",
            hint=f"load the backbone with freeze_below='{from_block}'",
        )
    upper = _ModelUpper(model)
    network = {f"{PREFIX}{n}": p for n, p in backbone.network.named_parameters()}
    named = {n: p for n, p in network.items() if n.removeprefix(PREFIX) in backbone.trainable}
    named |= {f"head.{name}": p for name, p in model.head.named_parameters()}
    state = {f"{PREFIX}{n}": t for n, t in backbone.network.state_dict().items()}
    state |= {f"head.{n}": t for n, t in model.head.state_dict().items()}
    names = _select(_paths(named, upper), parameters)
    return Halves(model, backbone.trunk, upper, names, "head.", state)


def _paths(named: Mapping[str, nn.Parameter], upper: nn.Module) -> dict[str, str]:
    """Component name -> name inside ``upper``, for parameters that are the same object; quantised
    ones have no tangent."""
    inside = {id(parameter): name for name, parameter in upper.named_parameters()}
    return {n: inside[id(p)] for n, p in named.items() if id(p) in inside and p.is_floating_point()}


def _select(names: Mapping[str, str], parameters: str | Sequence[str]) -> dict[str, str]:
    if parameters == "all":
        return dict(names)
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(
                f"parameters: '{pattern}' matches none of the {len(names)} parameters",
                hint=f"names look like {', '.join(list(names)[-3:])}",
            )
    return {n: p for n, p in names.items() if any(fnmatch.fnmatchcase(n, q) for q in patterns)}
