"""Is everything there and undamaged? Each blob and manifest is read, decoded and hashed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stockpot.errors import StockpotError
from stockpot.progress import progress
from stockpot.registry.documents import unseal
from stockpot.registry.index import Index
from stockpot.registry.manifest import Manifest, parse_manifest
from stockpot.registry.registry import ABOUT, Registry
from stockpot.system import usable_cores

# Folders of sealed documents.
DOCUMENTS = ("lines", "proposals", "reviews", "tasks", "gc")


@dataclass(frozen=True)
class Problem:
    """Something damaged or missing, and the models that it hits (name and beginning of the id)."""

    key: str
    what: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class RegistryCheck:
    """The outcome of ``verify``. ``unused`` blobs belong to no model; ``gc`` removes them."""

    problems: tuple[Problem, ...]
    models: int
    blobs: int
    unused: int


def verify(
    registry: Registry, *, threads: int | None = None, index: bool = True, quiet: bool = True
) -> RegistryCheck:
    """Check every byte of a registry. Finds any flipped bit, missing and misplaced files.

    Nothing is changed. ``index``: compare the index with the manifests too. Memory: a few of the
    largest tensors.
    """
    store = registry.store
    problems: list[Problem] = []
    manifests: dict[str, Manifest] = {}
    for key in store.keys("models"):
        ident = key.removeprefix("models/").removesuffix(".json")
        try:
            manifests[ident] = parse_manifest(store.read(key), ident)
        except StockpotError as error:
            problems.append(Problem(key, error.message, (ident[:12],)))
    users: dict[str, list[str]] = {}
    for ident, manifest in manifests.items():
        for blob in manifest.blobs():
            users.setdefault(blob, []).append(f"{manifest.name} {ident[:12]}")
    keys = store.keys("blobs")
    there = {key.rsplit("/", 1)[-1] for key in keys}
    reached = reachable(registry, manifests.values())

    def check(key: str) -> Problem | None:
        name = key.rsplit("/", 1)[-1]
        hit = tuple(users.get(name, ()))
        if key != f"blobs/{name[:2]}/{name}":
            return Problem(key, "it lies in the wrong place", hit)
        try:
            registry.blob(name)
        except StockpotError as error:
            return Problem(key, error.message, hit)
        return None

    workers = max(1, threads if threads is not None else usable_cores())
    with progress("verifying", len(keys), quiet=quiet) as advance, ThreadPoolExecutor(workers) as p:
        for found in p.map(check, keys):
            advance()
            if found is not None:
                problems.append(found)
    problems += [
        Problem(f"blobs/{name[:2]}/{name}", "it is missing", tuple(users.get(name, ())))
        for name in sorted(reached - there)
    ]
    problems += _check_documents(registry, manifests)
    if index:
        problems += _check_index(registry, manifests)
    return RegistryCheck(tuple(problems), len(manifests), len(keys), len(there - reached))


def reachable(
    registry: Registry, manifests: Iterable[Manifest], *, strict: bool = False
) -> set[str]:
    """Names of the blobs that models need, with the bases of the differences among them.

    ``strict`` raises ``CheckpointError`` where a blob is missing or its header damaged, so that its
    base is unknown.
    """
    pending = {blob for manifest in manifests for blob in manifest.blobs()}
    found: set[str] = set()
    while pending:
        name = pending.pop()
        found.add(name)
        try:
            base = registry.blob_header(name).base
        except StockpotError:
            if strict:
                raise
            continue
        if base is not None and base not in found:
            pending.add(base)
    return found


def _check_documents(registry: Registry, manifests: Mapping[str, Manifest]) -> Iterator[Problem]:
    """Versions of lines and the like are whole, and speak of models that are here."""
    store = registry.store
    for key in [ABOUT, *(key for folder in DOCUMENTS for key in store.keys(folder))]:
        try:
            model = unseal(store.read(key), key).get("model")
        except (StockpotError, FileNotFoundError) as error:
            yield Problem(key, str(error), ())
            continue
        if model is not None and model not in manifests:
            yield Problem(key, f"it speaks of model {model[:12]}, which is not here", ())


def _check_index(registry: Registry, manifests: Mapping[str, Manifest]) -> Iterator[Problem]:
    """The index says what the manifests say."""
    fresh = Index(None)
    with fresh.transaction():
        for manifest in manifests.values():
            registry.put_in_index(manifest, 0.0, index=fresh)
    try:
        same = fresh.content() == registry.index.content()
    except sqlite3.DatabaseError:
        same = False
    fresh.close()
    if not same:
        yield Problem("registry.db", "the index differs from the manifests: run reindex", ())
