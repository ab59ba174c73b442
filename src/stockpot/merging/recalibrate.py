"""Re-estimate BatchNorm statistics of a merged model on some batches. Needs torch.

The running mean and variance of a merge are averages of statistics of other functions; they
describe no activations of the merged weights. Source: Izmailov et al. 2018, arXiv 1803.05407,
section 3.2.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import torch


def recalibrate(model: torch.nn.Module, batches: Iterable[Any]) -> int:
    """Replace running statistics by exact averages over ``batches``; returns the number of
    layers.

    ``batches`` hold inputs: tensors, tuples of positional or dicts of keyword arguments.
    Everything but BatchNorm runs in evaluation mode; modes and momenta are restored. Raises
    ``InputError`` without batches.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        # Momentum None makes torch take the plain average over all batches.
        layer.momentum = None
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                if isinstance(batch, dict):
                    model(**batch)
                elif isinstance(batch, tuple | list):
                    model(*batch)
                else:
                    model(batch)
                seen += 1
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
    if layers and not seen:
        raise InputError("no batches to re-estimate BatchNorm statistics on")
    return len(layers)


def recalibrate_output(output: Path, function: str) -> int:
    """Recalibrate a written merge with what ``package.module:function`` returns: (model,
    batches).

    The model gets the merged weights (those it has), and its statistics replace the output's.
    Returns the number of BatchNorm layers.
    """
    from stockpot.checkpoints.open import find_weights
    from stockpot.checkpoints.torch_io import load_state, save_state
    from stockpot.merging.output import renew_digest

    module_name, _, name = function.partition(":")
    try:
        model, batches = getattr(importlib.import_module(module_name), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"--recalibrate {function}: {error}",
            hint="expected package.module:function that returns (model, batches)",
        ) from error
    file = find_weights(output) if output.is_dir() else output
    if file.name.endswith(".index.json"):
        raise InputError("BatchNorm statistics are re-estimated in outputs of one file only")
    state = load_state(file)
    unknown = model.load_state_dict(state, strict=False).missing_keys
    if unknown:
        raise CheckpointError(f"{output} lacks '{unknown[0]}', which the model of {function} has")
    count = recalibrate(model, batches)
    fresh = model.state_dict()
    save_state(file, {key: fresh.get(key, value) for key, value in state.items()})
    renew_digest(output)
    return count
