"""Averages of whole states: weights are mixed, and what cannot be mixed follows one rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from stockpot.backbones.backbone import State
from stockpot.errors import InputError

Combine = Callable[[list[State]], Mapping[str, Tensor]]


def mix(states: Sequence[Mapping[str, Tensor]], combine: Combine, *, lead: int = 0) -> State:
    """One state of several: ``combine`` gets those tensors of ``states`` that differ.

    A tensor that all share stays as it is, to the bit. Whole numbers and truth values (counters
    such as BatchNorm's ``num_batches_tracked``) have no average: they are those of
    ``states[lead]``, all from one state, so that they fit each other.
    Raises ``InputError`` naming a tensor that some states lack.
    """
    first = states[lead]
    for other in states:
        if other.keys() != first.keys():
            name = min(other.keys() ^ first.keys())
            raise InputError(f"cannot average: tensor '{name}' is in some models only")
    differ = [
        name
        for name, tensor in first.items()
        if tensor.is_floating_point() and not all(torch.equal(tensor, s[name]) for s in states)
    ]
    mixed = combine([{name: s[name] for name in differ} for s in states]) if differ else {}
    return {name: mixed.get(name, tensor) for name, tensor in first.items()}
