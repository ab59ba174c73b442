"""Set a registry right: move what is damaged out of the way, and make the index anew."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.errors import StockpotError
from stockpot.registry.checking import Problem, verify
from stockpot.registry.registry import STRAY, Registry, Unusable, blob_key, model_key

ASIDE = "quarantine"


@dataclass(frozen=True)
class Repaired:
    """What ``repair`` did: entries that were ``moved`` below ``quarantine/``, unfinished writes
    that were ``cleaned``, ``models`` in the new index, and ``problems`` that are left: what a
    newer stockpot wrote, what is missing, and versions of lines that speak of it.
    """

    moved: tuple[Unusable, ...]
    cleaned: int
    models: int
    problems: tuple[Problem, ...]


def repair(registry: Registry, *, dry_run: bool = False, quiet: bool = True) -> Repaired:
    """Move damaged entries and strays aside, remove unfinished writes, make the index anew.

    Nothing is destroyed: what is moved lies under its own path in the folder ``quarantine``, and
    keeps the blobs that it names until it is deleted there. A model with a damaged blob can be
    added again afterwards. Entries of a newer schema, and those that the system refuses to read,
    stay. Raises ``StockpotError`` where others are writing. ``dry_run`` changes nothing and says
    what would be moved.
    """
    store = registry.store
    if dry_run:
        return Repaired(tuple(_to_move(registry, quiet)), 0, registry.index.count(), ())
    with store.lock(exclusive=True) as renew:
        moved = _to_move(registry, quiet)
        for entry in moved:
            renew()
            store.move(entry.key, f"{ASIDE}/{entry.key}")
        leftovers = store.leftovers()
        for key in leftovers:
            store.delete(key)
        store.flush()
        models = registry.reindex()
    left = verify(registry, quiet=quiet).problems
    return Repaired(tuple(moved), len(leftovers), models, left)


def _to_move(registry: Registry, quiet: bool) -> list[Unusable]:
    aside = [entry for entry in registry.quarantine() if entry.state not in ("newer", "unreadable")]
    lost = {entry.key for entry in aside}
    state = verify(registry, index=False, quiet=quiet)
    present = set(registry.store.keys("blobs"))
    for problem in state.problems:
        if problem.key in present and _is_damaged(registry, problem.key):
            aside.append(Unusable(problem.key, "damaged", problem.what))
    aside += [Unusable(key, "stray", STRAY) for key in state.strays if key in present]
    for folder in ("proposals", "reviews", "signatures"):
        for key, value in registry.documents(folder):
            if model_key(value["model"]) in lost:
                what = f"it speaks of model {value['model'][:12]}, which is damaged"
                aside.append(Unusable(key, "damaged", what))
    return aside


def _is_damaged(registry: Registry, key: str) -> bool:
    """Whether a blob that cannot be read is damaged itself, and not only one it builds on."""
    name = key.rsplit("/", 1)[-1]
    if key != blob_key(name):
        return True
    try:
        base = registry.blob_header(name).base
    except StockpotError:
        return True
    try:
        if base is not None:
            registry.blob(base)
    except StockpotError:
        return False
    return True
