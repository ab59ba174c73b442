"""Tangent components as contributions: they add up on one base, so that each comes out exactly."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoints.torch_io import save_state
from stockpot.community.contribution import Contribution
from stockpot.errors import InputError
from stockpot.registry import Registry, checkout
from stockpot.tangent.component import Component

SUM = "tangent.safetensors"


def load_component(registry: Registry, contribution: Contribution) -> Component:
    """The component that was contributed. Raises ``CheckpointError`` where it is damaged."""
    manifest = registry.manifest(contribution.model)
    with tempfile.TemporaryDirectory(prefix="stockpot-component-") as scratch:
        path = Path(scratch) / "component.safetensors"
        checkout(registry, manifest, path)
        return Component.load(path)


def write_sum(
    registry: Registry,
    members: Sequence[Contribution],
    folder: Path,
    parameters: Mapping[str, Any],
) -> None:
    """Write the weighted sum of components into ``folder``, from the components themselves.

    ``weights`` in ``parameters``: "uniform" (default), "sum" or "examples". Summed in float64 in
    the order of the components' digests and rounded to float32 once; nothing is ever subtracted.
    """
    from stockpot.tangent.composer import resolve_weights, weighted_sum

    unknown = sorted(set(parameters) - {"weights"})
    if unknown:
        raise InputError(f"a tangent sum takes weights only, not {unknown[0]}")
    loaded = [load_component(registry, each) for each in members]
    first = loaded[0]
    for each in loaded:
        each.check_base(first.base_digest, first.head_digest)
    order = sorted(loaded, key=lambda component: component.digest)
    weights = resolve_weights(order, parameters.get("weights", "uniform"))
    total = weighted_sum([component.tensors for component in order], weights)
    save_state(
        folder / SUM,
        {name: tensor.float() for name, tensor in sorted(total.items())},
        {"components": " ".join(component.digest for component in order)},
    )
