"""What is linearised: a module as a frozen trunk and the part above it, with names kept."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stockpot.backbones import Model
from stockpot.backbones.cut import cut_graph
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
        if isinstance(batch, Mapping):
            output = self.module(**batch)
        elif isinstance(batch, tuple):
            output = self.module(*batch)
        else:
            output = self.module(batch)
        return logits_of(output)


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
) -> Halves:
    """Find what is linearised.

    ``parameters``: "all", or names with ``*`` (of a stockpot ``Model`` those of ``Model.state``).
    ``from_block``: a module's name; what runs before it becomes the trunk. A ``Model`` brings its
    cut with it (``freeze_below``). ``head``: the name of the head, by default found.
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
        cut = cut_graph(module, from_block, readout=_logits)
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
    """Component name -> name inside ``upper``, for parameters that are the same object."""
    inside = {id(parameter): name for name, parameter in upper.named_parameters()}
    return {n: inside[id(p)] for n, p in named.items() if id(p) in inside}


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
