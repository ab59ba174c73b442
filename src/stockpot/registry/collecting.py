"""Remove what no model needs, in two phases: mark now, sweep what has been marked for a while.

The sweep holds the registry alone, looks again at what models need at that moment, and spares
whatever has been written since it was marked. So a blob goes only if it was not needed twice, with
time between, and by nobody who is writing.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

from stockpot.errors import CheckpointError, OutputError, StockpotError
from stockpot.registry.checking import reachable
from stockpot.registry.documents import Document, is_entry, read_whole, sealed
from stockpot.registry.manifest import LARGEST, Manifest, parse_manifest
from stockpot.registry.registry import Registry, blob_key

GRACE = 24 * 3600.0
_HASH = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Collected:
    """What ``gc`` did: blobs ``marked`` now, ``removed`` blobs and their ``bytes``, and
    ``leftovers`` of interrupted writers that were removed.

    ``spared``: why nothing was removed although something is unused; empty otherwise.
    """

    marked: int
    removed: int
    bytes: int
    leftovers: int
    spared: str = ""


def gc(registry: Registry, *, grace: float = GRACE, dry_run: bool = False) -> Collected:
    """Mark what no model needs, and sweep what was marked ``grace`` seconds ago and more.

    With ``grace`` 0 both phases happen at once. ``dry_run`` changes nothing and tells what is
    unused. An entry that is left aside (see ``Registry.quarantine``) keeps every blob that it
    names; where one is damaged, so that nobody knows what it needs, nothing is removed.
    Raises ``CheckpointError`` where a blob is damaged, since then nobody knows what it is stored
    against, and ``StockpotError`` where others are writing.
    """
    unused, spared = _unused(registry)
    if dry_run:
        sizes = sum(registry.store.stat(blob_key(blob))[0] for blob in unused)
        return Collected(len(unused), 0, sizes, 0, spared)
    store = registry.store
    marks: list[Document] = []
    if unused:
        mark = {"schema": 1, "time": time.time(), "blobs": sorted(unused)}
        key = f"gc/{uuid.uuid4().hex}.json"
        try:
            store.write(key, [sealed(key, mark)], exclusive=True)
            store.flush()
        except OutputError:  # a full disk: what is removed at once needs no mark
            if grace > 0:
                raise
            marks = [mark]
    removed = size = 0
    with store.lock(exclusive=True) as renew:
        unused, spared = _unused(registry)
        kept = list(registry.documents("gc"))
        for key, earlier in [*kept, *(("", mark) for mark in marks)]:
            if time.time() - earlier["time"] < grace or spared:
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
            if key:
                store.delete(key)
        leftovers = store.leftovers()
        for key in leftovers:
            store.delete(key)
        store.flush()
    return Collected(len(unused), removed, size, len(leftovers), spared)


def _unused(registry: Registry) -> tuple[set[str], str]:
    """Blobs that are there and that no model needs; and why none of them may go, or nothing."""
    there = {key.rsplit("/", 1)[-1] for key in registry.store.keys("blobs") if is_entry(key)}
    manifests, named, damaged = _manifests(registry)
    try:
        # A name that stands in an entry which is left aside may be of a blob or of anything.
        unused = there - reachable(registry, manifests, strict=True, also=named & there)
    except CheckpointError as error:
        raise CheckpointError(
            f"nothing was removed, because what is needed cannot be told: {error.message}",
            hint="stockpot registry verify",
        ) from error
    return unused, damaged[0] if unused and damaged else ""


def _manifests(registry: Registry) -> tuple[list[Manifest], set[str], list[str]]:
    """Manifests that can be used, hashes that stand in others, and which of those are damaged."""
    usable: list[Manifest] = []
    named: set[str] = set()
    damaged: list[str] = []
    for key in registry.store.keys("models"):
        ident = key.removeprefix("models/").removesuffix(".json")
        try:
            raw = read_whole(registry.store, key, LARGEST)
        except FileNotFoundError:
            if is_entry(key) and not registry.store.exists(key):
                raise StockpotError(
                    f"{registry.label} changed meanwhile", hint="try again"
                ) from None
            continue
        except CheckpointError as error:
            damaged += [error.message] if is_entry(key) else []
            continue
        try:
            usable.append(parse_manifest(raw, ident))
        except CheckpointError as error:
            named.update(match.decode() for match in _HASH.findall(raw))
            if is_entry(key) and hashlib.sha256(raw).hexdigest() != ident:
                damaged.append(error.message)
    for key in registry.store.keys("quarantine"):
        with suppress(StockpotError, FileNotFoundError):
            raw = read_whole(registry.store, key, LARGEST)
            named.update(match.decode() for match in _HASH.findall(raw))
    return usable, named, damaged
