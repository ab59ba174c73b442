"""What a base computes, beyond its weights: its layers' settings, and outputs on fixed inputs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.backbones import Backbone, Model
from stockpot.backbones.buffers import unchanged_buffers
from stockpot.checkpoints import MemoryCheckpoint
from stockpot.errors import BackboneError
from stockpot.files import digest
from stockpot.tasks import named_generator

Function = Mapping[str, Any]
"""``layers``: hash of the layers' types and settings; ``outputs``: a few numbers that came out for
fixed inputs, in float32, six digits each (none where no inputs are known); ``shape``: of one input,
for a module that does not know it itself."""

TOLERANCE = 1e-3
"""Largest difference of outputs, relative to the largest: machines and numbers of threads round
differently, by 1e-5 or so."""
_NUMBERS = 16
_ATTEMPTS = 8
_TEXTS = ["A short text.", "Another one: it is longer, has 2 numbers (17) and UPPER case."]
# What has no part in evaluation, or none in what is computed.
_SILENT = re.compile(r"(, )?(inplace|momentum)=[^,]*")


def describe_function(module: nn.Module, shape: Sequence[int] | None = None) -> Function:
    """What ``module`` computes: a stockpot model, or any module that takes one tensor of floats.

    ``shape``: of one input of a plain module; an attribute ``input_shape`` says the same. Weights
    may be of any type.
    """
    if isinstance(module, Model):
        return describe_backbone(module.backbone)
    shape = shape or getattr(module, "input_shape", None) or ()
    inputs = None
    if shape:
        noise = named_generator(0, "fixed inputs").standard_normal((2, *shape))
        inputs = torch.from_numpy(noise.astype(np.float32))
    outputs = [] if inputs is None else _outputs(module, inputs)
    return {"layers": digest(_layers(module)), "outputs": outputs, "shape": list(shape)}


def describe_backbone(backbone: Backbone) -> Function:
    """The same of a backbone without a head."""
    inputs = fixed_inputs(backbone)
    outputs = [] if inputs is None else _outputs(backbone.module, inputs)
    return {"layers": digest(_layers(backbone.network)), "outputs": outputs}


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs between two functions, in words; empty where they are the same.

    One that is not known, of a component that an older stockpot wrote, differs from none.
    """
    if not one or not other:
        return ""
    if one["layers"] != other["layers"]:
        return "the layers or their settings differ"
    first, second = (np.array(each["outputs"], dtype=np.float64) for each in (one, other))
    if not len(first) or not len(second):
        return ""
    if len(first) != len(second):
        return "its outputs have another size"
    gap = float(np.abs(first - second).max() / max(np.abs(first).max(), 1e-30))
    return "" if gap <= TOLERANCE else f"its outputs on fixed inputs differ by {gap:.2g} (relative)"


def fixed_inputs(backbone: Backbone) -> Any:
    """The same raw inputs everywhere, prepared as the backbone prepares any: texts, or noise of its
    own size; None where that is not known."""
    if backbone.modality == "text":
        return backbone.prepare(_TEXTS)
    example = backbone.example()
    if example is None:
        return None
    shape = tuple(example.shape[1:])
    generator = named_generator(0, "fixed inputs")
    if backbone.modality == "image":
        raw = generator.integers(0, 256, (2, *shape[1:], 3)).astype(np.uint8)
    else:
        raw = (3 * generator.standard_normal((4, *shape))).astype(np.float32)
    return backbone.prepare(raw)


def _outputs(module: nn.Module, inputs: Any) -> list[float]:
    from stockpot.tangent.halves import logits_of

    parameter = next(module.parameters(), torch.zeros(0))
    if parameter.dtype != torch.float32:
        module = copy.deepcopy(module).float()
    training = [part for part in module.modules() if part.training]
    module.eval()
    with torch.no_grad(), unchanged_buffers(module):
        outputs = logits_of(module(_on(inputs, parameter.device))).double().cpu()
    for part in training:
        part.training = True
    flat = outputs.flatten()
    chosen = flat[torch.linspace(0, len(flat) - 1, min(_NUMBERS, len(flat))).long()]
    return [float(f"{value:.6g}") for value in chosen.tolist()]


def _on(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: value.to(device) for name, value in inputs.items()}
    return inputs.to(device)


def _layers(network: nn.Module) -> Sequence[tuple[str, str, str]]:
    """Name, type and settings of PyTorch's own layers, dropout aside."""
    return [
        (name, type(part).__name__, _SILENT.sub("", part.extra_repr()))
        for name, part in network.named_modules()
        if type(part).__module__.startswith("torch.nn")
        and not list(part.children())
        and not isinstance(part, nn.Identity)
        and "Dropout" not in type(part).__name__
    ]


def same_numbers(state: Mapping[str, Tensor]) -> str:
    """Digest of a state by its numbers: the same in every type that holds them exactly.

    Numbers that float32 holds count as float32, so that weights which are stored in 16 bits have
    the digest of their float32 copy.
    """
    return MemoryCheckpoint({name: _narrowed(tensor) for name, tensor in state.items()}).digest()


def _narrowed(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or tensor.dtype == torch.float32:
        return tensor
    single = tensor.float()
    return tensor if tensor.dtype == torch.float64 and bool((single != tensor).any()) else single


@torch.no_grad()
def refuse_random(run: Callable[[], Tensor], owner: str) -> None:
    """``BackboneError`` where running twice on the same rows gives different outputs.

    Where random numbers were drawn, it runs a few times more: dropout may spare two rows.
    """
    state = torch.get_rng_state()
    first = run()
    attempts = 1 if torch.equal(state, torch.get_rng_state()) else _ATTEMPTS
    gaps = [float((run() - first).abs().max()) for _ in range(attempts)]
    torch.set_rng_state(state)
    limit = 1e-4 * max(float(first.abs().max()), 1e-30)
    if not max(gaps) <= limit:
        raise BackboneError(
            f"{owner} is not deterministic: the same rows gave outputs that differ by "
            f"{max(gaps):.2g}",
            hint="switch dropout and other random numbers off in its forward",
        )
