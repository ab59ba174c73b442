"""One version out of another and contributions to it: the bytes depend on nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.community.contribution import COMPONENT, Contribution
from stockpot.errors import InputError
from stockpot.merging import get_method, merge
from stockpot.provenance import FILE_NAME, Parent, Record, write_card, write_record
from stockpot.registry import Link, Manifest, Registry, add, checkout
from stockpot.registry.documents import Document

TANGENT = "tangent"


@dataclass(frozen=True)
class Round:
    """Contributions (ids) that came in together, by which method, and the version they made."""

    contributions: tuple[str, ...]
    method: str
    parameters: Mapping[str, Any]
    model: str

    def to_json(self) -> Document:
        own = {"contributions": list(self.contributions), "parameters": dict(self.parameters)}
        return {**vars(self), **own}


def parse_round(value: Mapping[str, Any]) -> Round:
    """Read what ``Round.to_json`` wrote."""
    return Round(
        tuple(value["contributions"]), value["method"], value["parameters"], value["model"]
    )


def combine(
    registry: Registry,
    line: str,
    number: int,
    before: str,
    members: Sequence[Contribution],
    method: str,
    parameters: Mapping[str, Any],
    *,
    earlier: Sequence[Contribution] = (),
) -> Manifest:
    """Make version ``number`` of a line from the version ``before`` and contributions to it.

    Contributions are taken in the order of their ids. ``earlier`` components take part in a tangent
    sum again. Companion files are those of ``before``. The model is in the registry afterwards; the
    line is not advanced.
    Raises ``InputError`` where a method needs contributions to this very version, ``MethodError``
    for the method and ``CheckpointError`` for tensors that do not fit.
    """
    members = sorted(members, key=lambda each: each.id)
    check_members(registry, before, members, method)
    base = registry.manifest(before)
    with tempfile.TemporaryDirectory(prefix="stockpot-combine-") as scratch:
        place = Path(scratch)
        checkout(registry, base, place / "before")
        if method == TANGENT:
            from stockpot.community.components import write_sum

            folder, digest = place / "before", base.digest
            every = sorted([*earlier, *members], key=lambda each: each.id)
            write_sum(registry, every, folder, parameters)
        else:
            folder = place / "after"
            digest = _merge(registry, base, members, method, parameters, place, folder)
        links = [Link(base.name, base.digest, "base", None, base.id)]
        links += [_link(registry.manifest(each.model)) for each in members]
        record = Record(
            kind="merge",
            name=f"{line}-{number}",
            parents=tuple(Parent(link.name, link.digest, link.role) for link in links),
            recipe={
                "method": method,
                "parameters": dict(parameters),
                "contributions": [each.id for each in members],
            },
            digest=digest,
        )
        write_record(folder, record)
        write_card(folder, record)
        return add(registry, folder, links=links, record=record).manifest


def _merge(
    registry: Registry,
    base: Manifest,
    members: Sequence[Contribution],
    method: str,
    parameters: Mapping[str, Any],
    scratch: Path,
    folder: Path,
) -> str:
    """Merge members into a new folder; the digest. ``scratch/before`` holds the base's files."""
    from stockpot.checkpoints import open_checkpoint

    folder.mkdir()
    for member in members:
        checkout(registry, member.model, scratch / member.id)
    merged = scratch / "merged.safetensors"
    merge(
        [str(scratch / member.id) for member in members],
        method=method,
        base=None if get_method(method).base == "none" else str(scratch / "before"),
        output=merged,
        hash_parents=False,
        **parameters,
    )
    _companions(base, scratch / "before", folder)
    shutil.move(merged, folder / "model.safetensors")
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        return checkpoint.digest()


def check_members(
    registry: Registry, before: str, members: Sequence[Contribution], method: str
) -> None:
    """Raise ``InputError`` where contributions cannot come in together by this method."""
    if not members:
        raise InputError("no contribution was given")
    names = [each.id for each in members]
    if len(set(names)) < len(names):
        raise InputError("a contribution was given twice")
    for each in members:
        if (each.kind == COMPONENT) != (method == TANGENT):
            raise InputError(
                f"{each.name} is a {each.kind}, which does not come in by '{method}'",
                hint=f"components come in by '{TANGENT}', fine-tunings by a merge method",
            )
    if method == TANGENT or get_method(method).base == "none":
        return
    for each in members:
        if each.base != before:
            raise InputError(
                f"{each.name} was fine-tuned from version {each.base[:12]}, the line is at "
                f"{before[:12]}: '{method}' needs the difference to this very version",
                hint="fine-tune it again from the newest version, or accept by 'linear'",
            )


def _companions(base: Manifest, source: Path, folder: Path) -> None:
    """Files beside the weights, as the version before had them; its history is written anew."""
    weights = {file.path for file in base.files if file.header is not None}
    for file in base.files:
        if file.path in weights or file.path in (FILE_NAME, "README.md"):
            continue
        if file.path.endswith(".index.json"):
            continue
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, folder / file.path)


def _link(manifest: Manifest) -> Link:
    return Link(manifest.name, manifest.digest, "model", None, manifest.id)
