"""Remove what no model needs, in two phases: mark now, sweep what has been marked for a while.

The sweep holds the registry alone, looks again at what models need at that moment, and spares
whatever has been written since it was marked. So a blob goes only if it was not needed twice, with
time between, and by nobody who is writing.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from stockpot.errors import CheckpointError, StockpotError
from stockpot.registry.checking import reachable
from stockpot.registry.documents import seal, unseal
from stockpot.registry.manifest import Manifest, parse_manifest
from stockpot.registry.registry import Registry, blob_key

GRACE = 24 * 3600.0


@dataclass(frozen=True)
class Collected:
    """What ``gc`` did: blobs ``marked`` now, ``removed`` blobs and their ``bytes``, and
    ``leftovers`` of interrupted writers that were removed.
    """

    marked: int
    removed: int
    bytes: int
    leftovers: int


def gc(registry: Registry, *, grace: float = GRACE, dry_run: bool = False) -> Collected:
    """Mark what no model needs, and sweep what was marked ``grace`` seconds ago and more.

    With ``grace`` 0 both phases happen at once. ``dry_run`` changes nothing and tells what is
    unused. Raises ``CheckpointError`` where a manifest or blob is damaged, since then nobody knows
    what is needed, and ``StockpotError`` where others are writing.
    """
    unused = _unused(registry)
    if dry_run:
        return Collected(
            len(unused), 0, sum(registry.store.stat(blob_key(b))[0] for b in unused), 0
        )
    store = registry.store
    if unused:
        mark = {"schema": 1, "time": time.time(), "blobs": sorted(unused)}
        store.write(f"gc/{uuid.uuid4().hex}.json", [seal(mark)], exclusive=True)
        store.flush()
    removed = size = 0
    with store.lock(exclusive=True) as renew:
        unused = _unused(registry)
        for key in store.keys("gc"):
            earlier = unseal(store.read(key), key)
            if time.time() - earlier["time"] < grace:
                continue
            for blob in earlier["blobs"]:
                renew()
                try:
                    nbytes, written = store.stat(blob_key(blob))
                except FileNotFoundError:
                    continue
                if blob in unused and written <= earlier["time"]:
                    store.delete(blob_key(blob))
                    removed, size = removed + 1, size + nbytes
            store.flush()
            store.delete(key)
        leftovers = store.leftovers()
        for key in leftovers:
            store.delete(key)
        store.flush()
    return Collected(len(unused), removed, size, len(leftovers))


def _unused(registry: Registry) -> set[str]:
    """Blobs that are there and that no model needs."""
    there = {key.rsplit("/", 1)[-1] for key in registry.store.keys("blobs")}
    try:
        return there - reachable(registry, _manifests(registry), strict=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"nothing was removed, because what is needed cannot be told: {error.message}",
            hint="stockpot registry verify",
        ) from error


def _manifests(registry: Registry) -> list[Manifest]:
    found = []
    for key in registry.store.keys("models"):
        ident = key.removeprefix("models/").removesuffix(".json")
        try:
            found.append(parse_manifest(registry.store.read(key), ident))
        except FileNotFoundError:
            raise StockpotError(f"{registry.label} changed meanwhile", hint="try again") from None
    return found
