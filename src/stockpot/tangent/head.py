"""The head all components of a base share: drawn once, saved, loaded for every component.

A head of zeros gives the blocks below no gradient, and heads that differ between components make
their sum meaningless; so one random head over all classes is kept beside the base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from stockpot.backbones import Model
from stockpot.backbones.names import check_shape
from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import CheckpointError, InputError
from stockpot.tangent.halves import find_head
from stockpot.tasks import named_generator


@torch.no_grad()
def draw_head(module: nn.Module, *, seed: int = 0, head: str | None = None) -> None:
    """Give the head of ``module`` random weights that depend on ``seed`` alone.

    ``nn.Linear``'s own distribution: weights and biases uniform within 1 / sqrt(inputs).
    Raises ``InputError`` where the head is no linear layer.
    """
    layer = head_of(module, head)
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"the head is {type(layer).__name__}, expected a linear layer",
            hint="name the last linear layer: head='...'",
        )
    bound = 1 / math.sqrt(layer.in_features)
    generator = named_generator(seed, "head")
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            drawn = generator.uniform(-bound, bound, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))


def save_head(
    path: str | Path, module: nn.Module, classes: Sequence[str], *, head: str | None = None
) -> Path:
    """Write the head and the names of its classes as one safetensors file; returns its path."""
    state = head_of(module, head).state_dict()
    if len(state["weight"]) != len(classes):
        raise InputError(
            f"the head has {len(state['weight'])} outputs, {len(classes)} classes are named"
        )
    save_state(path, state, {"classes": json.dumps(list(classes))})
    return Path(path)


def head_classes(path: str | Path) -> tuple[str, ...]:
    """Names of the classes of a saved head; ``CheckpointError`` for another kind of file."""
    with open_checkpoint(path) as checkpoint:
        text = checkpoint.metadata.get("classes")
    if text is None:
        raise CheckpointError(f"{path} is no saved head", hint="save_head writes one")
    return tuple(json.loads(text))


@torch.no_grad()
def load_head(path: str | Path, module: nn.Module, *, head: str | None = None) -> tuple[str, ...]:
    """Put a saved head into ``module``; returns the names of its classes.

    Raises ``CheckpointError`` for another kind of file, ``BackboneError`` for another shape.
    """
    classes = head_classes(path)
    own = head_of(module, head).state_dict(keep_vars=True)
    found = load_state(path)
    if sorted(found) != sorted(own):
        raise CheckpointError(f"{path} is no saved head", hint="save_head writes one")
    for name, tensor in found.items():
        check_shape(name, tensor, own[name], str(path))
        own[name].detach().copy_(tensor)
    return classes


def head_of(module: nn.Module, head: str | None = None) -> nn.Module:
    """The last layer: a stockpot model's, the one named, or the one that is found."""
    if isinstance(module, Model):
        return module.head
    return module.get_submodule(head or find_head(module))
