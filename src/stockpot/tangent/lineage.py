"""Records of components and of their sums: parents by the content hashes that a registry uses.

A component's own ``base_digest`` names the base as it is in memory, without its head; a record
names the base's files. Both stay: the first binds the component, the second finds its base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint
from stockpot.files import digest
from stockpot.provenance import Parent, Record, RunModel, versions, write_models, write_record
from stockpot.tangent.component import Component
from stockpot.tangent.jobs import HEAD
from stockpot.tangent.recipe import TangentRecipe

# Numbers of rows: the fingerprint of the data stands for them.
_ROWS = ("rows", "validation")


def find_parents(base: RunModel, head: Path) -> tuple[Parent, Parent]:
    """The base and the head of all components, by content."""
    assert base.digest is not None
    with open_checkpoint(head) as checkpoint:
        found = checkpoint.digest()
    return Parent(base.name or base.source, base.digest, "base"), Parent("head", found, "head")


def write_lineage(
    output: Path,
    recipe: TangentRecipe,
    base: RunModel,
    parents: tuple[Parent, Parent],
    components: Sequence[RunModel],
) -> None:
    """The record of a folder of components, and the list of all models in it for a registry."""
    made = versions("torch")
    head = Record(
        kind="head",
        name="head",
        parents=parents[:1],
        recipe=recipe.head.model_dump(mode="json"),
        versions=made,
        digest=parents[1].digest,
    )
    whole = Record(
        kind="component",
        name=recipe.title,
        parents=parents,
        recipe=recipe.model_dump(mode="json"),
        data=data_of(components),
        versions=made,
    )
    write_models(output, [base, RunModel(HEAD, f"{recipe.title}: head", head), *components])
    write_record(output, whole)


def data_of(components: Sequence[RunModel]) -> str:
    """Hash of the data of all components, from their records."""
    return digest(sorted(one.record.data or "" for one in components if one.record is not None))


def component_record(
    component: Component, parents: Sequence[Parent], arguments: Mapping[str, Any]
) -> Record:
    """Where a component came from: its base and head, how it was made, what it was made on."""
    recipe = {name: value for name, value in arguments.items() if name not in _ROWS}
    return Record(
        kind="component",
        name=component.task,
        parents=tuple(parents),
        recipe=recipe,
        data=component.data_fingerprint,
        metrics=component.metrics,
        versions=versions("torch"),
        digest=content_digest(component),
    )


def sum_record(composed: Component, components: Sequence[Component]) -> Record:
    """Where the sum of components came from: each of them, with its weight."""
    known = {component.digest: content_digest(component) for component in components}
    return Record(
        kind="component",
        name=composed.task,
        parents=tuple(
            Parent(term["task"], known[term["digest"]], "component", term["weight"])
            for term in composed.settings["composed"]
        ),
        recipe={"composed": composed.settings["composed"]},
        data=composed.data_fingerprint,
        versions=versions("torch"),
        digest=content_digest(composed),
    )


def content_digest(component: Component) -> str:
    """The content hash of a component's tensors, as ``Checkpoint.digest`` has it."""
    return MemoryCheckpoint(component.tensors).digest()
