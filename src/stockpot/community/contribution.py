"""A contribution: somebody's fine-tuning of a version of a line, put up for review."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.files import digest
from stockpot.registry import Link, Registry, add
from stockpot.registry.documents import Document, sealed
from stockpot.registry.withdrawn import check_withdrawn
from stockpot.registry.withdrawn import readmit as readmit_to

SCHEMA = 1
FINETUNE, COMPONENT = "finetune", "component"


@dataclass(frozen=True)
class Contribution:
    """``model`` was fine-tuned from ``base`` (ids in the registry) and is proposed for ``line``.

    ``kind``: "finetune", or "component" for a tangent component. ``id`` is the hash of the rest, so
    that proposing the same thing twice is one contribution.
    """

    line: str
    model: str
    base: str
    name: str
    author: str
    note: str
    kind: str

    @property
    def digest(self) -> str:
        """Hash of all that it says."""
        return digest(self.to_json())

    @property
    def id(self) -> str:
        return self.digest[:16]

    def to_json(self) -> Document:
        return {"schema": SCHEMA, **vars(self)}


def contribute(
    registry: Registry,
    model: str | Path,
    *,
    line: str = "main",
    base: str | None = None,
    name: str | None = None,
    author: str = "",
    note: str = "",
    readmit: bool = False,
    quiet: bool = True,
) -> Contribution:
    """Put a fine-tuning (or a tangent component) of a version of ``line`` up for review.

    ``base``: the version it was fine-tuned from, by default the newest. ``readmit``: take a tangent
    component that was forgotten in the folder that it lies in, or withdrawn from here. Weights
    with NaN or infinity are refused here (``NonFiniteError``); the rest is for ``review``. Raises
    ``InputError`` for a line or base that is not there.
    """
    if _is_component(Path(model)):
        _refuse_forgotten(registry, Path(model), readmit)
    versions = [version["model"] for version in registry.line(line)]
    if not versions:
        raise InputError(
            f"there is no line '{line}' to contribute to",
            hint=f"stockpot registry add BASE --line {line}",
        )
    origin = registry.find(base or line)
    if origin not in versions:
        raise InputError(
            f"'{base}' is no version of the line '{line}'",
            hint="fine-tune from one of them: stockpot registry log --line " + line,
        )
    parent = registry.manifest(origin)
    link = Link(parent.name, parent.digest, "base", None, origin)
    kind = COMPONENT if _is_component(Path(model)) else FINETUNE
    # What is said of it is checked before its weights are stored.
    _sealed(Contribution(line, origin, origin, name or "model", author, note, kind))
    done = add(registry, model, name=name, kind=kind, links=[link], note=note, quiet=quiet)
    proposal = Contribution(line, done.id, origin, done.manifest.name, author, note, kind)
    registry.store.write(_key(proposal), [_sealed(proposal)])
    registry.store.flush()
    return proposal


def _key(proposal: Contribution) -> str:
    return f"proposals/{proposal.id}.json"


def _sealed(proposal: Contribution) -> bytes:
    return sealed(_key(proposal), proposal.to_json())


def contributions(registry: Registry, line: str | None = None) -> list[Contribution]:
    """All contributions (to a line) that can be used, by name."""
    found = [_parsed(value) for _, value in registry.documents("proposals")]
    kept = [each for each in found if line is None or each.line == line]
    return sorted(kept, key=lambda each: (each.name, each.id))


def find_contribution(registry: Registry, wanted: str) -> Contribution:
    """A contribution by id (its first six digits and more) or by name.

    Raises ``InputError`` for none or several.
    """
    every = contributions(registry)
    found = [
        each
        for each in every
        if each.name == wanted or (len(wanted) >= 6 and each.id.startswith(wanted))
    ]
    if len(found) != 1:
        names = ", ".join(f"{each.name} {each.id[:8]}" for each in (found or every)[:6])
        raise InputError(
            f"{'several contributions are' if found else 'no contribution is'} called '{wanted}'",
            hint=f"there are {names}" if names else "stockpot contribute puts one up",
        )
    return found[0]


def _parsed(value: Mapping[str, Any]) -> Contribution:
    return Contribution(**{key: value[key] for key in value if key != "schema"})


class KnownContributions(dict[str, Contribution]):
    """All contributions by id. Asked for another one, it raises ``InputError``."""

    def __init__(self, registry: Registry) -> None:
        super().__init__({proposal.id: proposal for proposal in contributions(registry)})

    def __missing__(self, ident: str) -> Contribution:
        raise InputError(
            f"contribution {ident} is missing or damaged: what it is part of cannot be made",
            hint="stockpot registry verify",
        )


def _is_component(source: Path) -> bool:
    """Whether a file is a tangent component: its header says so."""
    if source.suffix != ".safetensors" or not source.is_file():
        return False
    from stockpot.checkpoints import open_checkpoint

    with open_checkpoint(source) as checkpoint:
        return {"component", "digest"} <= checkpoint.metadata.keys()


def _refuse_forgotten(registry: Registry, source: Path, take_back: bool) -> None:
    """``InputError`` for a tangent component that was forgotten in the folder of its run, or
    withdrawn from ``registry``, or was summed of one; with ``take_back`` it is welcome again."""
    from stockpot.tangent.component import Component
    from stockpot.tangent.forgetting.tombstones import Tombstones
    from stockpot.tangent.lineage import content_digest
    from stockpot.tangent.run import run_of
    from stockpot.tangent.summing import terms_of

    component = Component.load(source)
    terms = {str(term["digest"]) for term in terms_of(component)}
    digests = {component.digest, content_digest(component), *terms}
    if take_back:
        readmit_to(registry, digests)
        return
    folder = run_of(source)
    stones = Tombstones.read(folder if folder.is_dir() else folder.parent)
    if stones:
        stones.check([component], folder)
    check_withdrawn(registry, component.task, digests)
