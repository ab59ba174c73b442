"""What was derived from each shard's data, noted before it is made, so that all of it can go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from stockpot.files import write_json
from stockpot.reading import read_json
from stockpot.results import ResultPart, VerbResults

INVENTORY = "inventory.json"


class Derived(ResultPart):
    """Something that holds what was derived from ``shards``.

    ``path``: relative to the run's folder, absolute outside it; in a registry its ``id`` is the
    model's. ``kind``: component, features, block, composition, registry entry, ... ``digest``: of
    its content, where that is known. ``rule``: of a composition, by which it can be made again.
    """

    path: str
    kind: str
    shards: tuple[str, ...]
    digest: str | None = None
    id: str | None = None
    rule: str | None = None


class Inventory(VerbResults):
    """The file of what is noted."""

    derived: tuple[Derived, ...]


def read_inventory(run: Path) -> tuple[Derived, ...]:
    """All that was noted in a run's folder; nothing where it is of an older kind."""
    path = run / INVENTORY
    try:
        value = read_json(path)
    except FileNotFoundError:
        return ()
    return Inventory.read(value, f"the contents of {path}").derived


def write_inventory(run: Path, derived: Iterable[Derived]) -> None:
    """Replace what is noted."""
    write_json(run / INVENTORY, make_inventory(derived).to_json())


def make_inventory(derived: Iterable[Derived]) -> Inventory:
    """What ``write_inventory`` writes."""
    unique = {(one.path, one.id, one.shards): one for one in derived}
    ordered = sorted(unique.values(), key=lambda one: (one.path, one.id or "", one.shards))
    return Inventory(version=1, derived=tuple(ordered))


def record(run: Path, derived: Iterable[Derived]) -> None:
    """Note more; the same thing twice is noted once."""
    known = read_inventory(run)
    more = [*known, *derived]
    if len({*more}) > len({*known}):
        write_inventory(run, more)
