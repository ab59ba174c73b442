"""Tangent components as contributions: they add up on one base, so that each comes out exactly.

A version with components is the start of its line with their sum beside it (``SUM``). It is
measured by its linearised features, ``phi(x) + J phi(x) . delta``: what the heads of components
say, which know their own classes alone, does not matter, as with any other version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.community.contribution import Contribution
from stockpot.errors import InputError
from stockpot.reading import parse_json
from stockpot.registry import Registry, checkout
from stockpot.tangent.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from stockpot.backbones import Backbone
    from stockpot.training import Feed

SUM = "tangent.safetensors"
_BATCH = 128


def load_component(registry: Registry, contribution: Contribution) -> Component:
    """The component that was contributed. Raises ``CheckpointError`` where it is damaged."""
    manifest = registry.manifest(contribution.model)
    with tempfile.TemporaryDirectory(prefix="stockpot-component-") as scratch:
        path = Path(scratch) / "component.safetensors"
        checkout(registry, manifest, path, withdrawn=True)
        return Component.load(path)


def stated_base(registry: Registry, contribution: Contribution) -> str | None:
    """Content hash of the base that a component's own record names; None where it has none."""
    from stockpot.provenance import HEADER_KEY, parse_record

    manifest = registry.manifest(contribution.model)
    with tempfile.TemporaryDirectory(prefix="stockpot-component-") as scratch:
        path = Path(scratch) / "component.safetensors"
        checkout(registry, manifest, path, withdrawn=True)
        with open_checkpoint(path) as checkpoint:
            text = checkpoint.metadata.get(HEADER_KEY)
    record = parse_record(parse_json(text), manifest.name) if text else None
    bases = [] if record is None else [p.digest for p in record.parents if p.role == "base"]
    return bases[0] if bases else None


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

    loaded = [load_component(registry, each) for each in members]
    order, total = add_up(loaded, parameters)
    about = {"components": " ".join(component.digest for component in order)}
    if order[0].kind != "delta":
        about["kind"] = order[0].kind
    save_state(folder / SUM, total, about)


def add_up(
    components: Sequence[Component], parameters: Mapping[str, Any]
) -> tuple[list[Component], dict[str, Tensor]]:
    """Components in the order of their digests, and their weighted sum, float32.

    Raises ``InputError`` for parameters other than ``weights`` and for kinds that do not add up,
    ``BaseMismatchError`` for components of different bases.
    """
    from stockpot.tangent.composer import resolve_weights, weighted_sum

    unknown = sorted(set(parameters) - {"weights"})
    if unknown:
        raise InputError(f"a tangent sum takes weights only, not {unknown[0]}")
    first = components[0]
    for each in components:
        each.check_base(first.base_digest, first.head_digest)
        if each.kind != first.kind:
            raise InputError(f"'{each.task}' holds {each.kind}, '{first.task}' {first.kind}")
    order = sorted(components, key=lambda component: component.digest)
    weights = resolve_weights(order, parameters.get("weights", "uniform"))
    total = weighted_sum([component.tensors for component in order], weights)
    return order, {name: tensor.float() for name, tensor in sorted(total.items())}


def read_delta(folder: Path) -> dict[str, Tensor] | None:
    """The sum of components in a version's folder; None where there is none that moves weights."""
    if not (folder / SUM).is_file():
        return None
    with open_checkpoint(folder / SUM) as checkpoint:
        if checkpoint.metadata.get("kind", "delta") != "delta":
            return None
    return load_state(folder / SUM)


def linear_features(
    backbone: Backbone, feed: Feed, rows: np.ndarray, delta: Mapping[str, Tensor]
) -> np.ndarray:
    """Features of the linearised backbone, phi(x) + J phi(x) . delta, float32 (N, D).

    Tensors of ``delta`` that are not the backbone's are its head's, and left out. Raises
    ``InputError`` where none is the backbone's.
    """
    import torch

    from stockpot.backbones import Model
    from stockpot.tangent.linear import TangentModel
    from stockpot.training.device import best_device
    from stockpot.training.predict import map_rows

    whole = Model(backbone, backbone.feature_dim)
    whole.set_head(torch.eye(backbone.feature_dim), torch.zeros(backbone.feature_dim))
    known = [name for name in TangentModel(whole).names if not name.startswith("head.")]
    named = {found: tensor for name, tensor in delta.items() if (found := same_name(name, known))}
    if not named:
        raise InputError(
            f"the components change '{next(iter(delta), '')}' and the like, the features have "
            f"'{next(iter(known), '')}': none of them is the same",
            hint="they were made for another architecture",
        )
    model = TangentModel(whole, parameters=list(named)).to(best_device())
    return map_rows(lambda batch: model(batch, named), feed, rows, model.device, _BATCH)


def same_name(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is ``name`` but for a wrapper's prefix; None for none."""
    for own in known:
        if own == name or own.endswith(f".{name}") or name.endswith(f".{own}"):
            return own
    return None
