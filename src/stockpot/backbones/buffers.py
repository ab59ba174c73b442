"""Buffers: what a module keeps besides its weights, and which of it training can change.

Running statistics, power iterations of spectral norm, moving averages, codebooks, counters: any
forward pass in training mode may write them, and nothing says in advance which ones it will. So all
of them belong to the trained part, except those that cannot change: buffers below a frozen cut,
which never run in training mode, and those of BatchNorm layers that are kept in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stockpot.backbones.batchnorm import batchnorm_layers


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves, by name, also buffers that a checkpoint leaves out."""
    stored = network.state_dict(keep_vars=True)
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    return tensors | {n: b for n, b in network.named_buffers() if n not in tensors}


def changing_buffers(
    network: nn.Module, *, frozen_batchnorm: bool, above: frozenset[str] | None
) -> list[str]:
    """Names of the buffers that training can change, in the network's order.

    ``above``: names of what only runs above a frozen cut; None where there is no cut.
    """
    frozen = set(batchnorm_layers(network)) if frozen_batchnorm else set()
    return [
        name
        for name, _ in network.named_buffers()
        if name.rpartition(".")[0] not in frozen and (above is None or name in above)
    ]


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Whatever runs inside leaves no trace in the module's buffers.

    Some modules write them in evaluation mode as well (counters, moving averages), and then what a
    model says, and what is saved of it, would depend on how often it was looked at.
    """
    kept = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in kept:
                owner._buffers[name] = buffer
                buffer.copy_(value.to(buffer.device))
