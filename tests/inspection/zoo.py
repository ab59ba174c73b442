"""Tiny networks, and what can have happened to weights that claim to come from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

State = dict[str, np.ndarray]


def mlp() -> nn.Module:
    """Three layers; the last one is trained."""
    return nn.Sequential(
        nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40)
    )


def convolutions() -> nn.Module:
    """Convolutions with BatchNorm, one of them by channel."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, bias=False),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 48, 3),
    )


def transformer() -> nn.Module:
    """Three encoder layers without dropout."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def recurrent() -> nn.Module:
    """Two layers of an LSTM, and one linear layer."""
    return nn.ModuleDict({"lstm": nn.LSTM(24, 32, 2), "out": nn.Linear(32, 40)})


# Network, and how the names of what is trained begin.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "mlp": (mlp, ("4.",)),
    "convolutions": (convolutions, ("5.", "6.", "8.")),
    "transformer": (transformer, ("layers.2.",)),
    "recurrent": (recurrent, ("lstm.weight_ih_l1", "lstm.weight_hh_l1", "out.")),
}


def weights(build: Callable[[], nn.Module], seed: int) -> State:
    """A network of its own ancestry, after a training that gave all tensors some spread."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    state = {}
    for name, tensor in build().state_dict().items():
        values = tensor.numpy().copy()
        if tensor.is_floating_point() and values.ndim > 1:
            # Drawn here: the layers of nn.TransformerEncoder start as copies of one.
            values = draw.normal(size=values.shape).astype(np.float32) * values.std()
        elif tensor.is_floating_point():
            values = values + 0.1 * draw.normal(size=values.shape).astype(np.float32)
        state[name] = values
    return state


def moved(state: State, seed: int, far: float) -> State:
    """Every weight moved by ``far`` times the spread of its tensor."""
    draw = np.random.default_rng(seed)
    return {
        name: (values + far * values.std() * draw.normal(size=values.shape)).astype(values.dtype)
        if np.issubdtype(values.dtype, np.floating)
        else values
        for name, values in state.items()
    }


def permuted(state: State, names: list[str], seed: int) -> State:
    """Rows of these tensors in another order."""
    draw = np.random.default_rng(seed)
    return state | {name: state[name][draw.permutation(len(state[name]))] for name in names}


def shuffled_throughout(state: State, seed: int) -> State:
    """Rows and columns of every matrix in another order, as where all hidden units moved."""
    draw = np.random.default_rng(seed)
    return {
        name: values[draw.permutation(len(values))][:, draw.permutation(values.shape[1])]
        if values.ndim > 1
        else values
        for name, values in state.items()
    }
