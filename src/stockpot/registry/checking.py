"""Is everything there and undamaged? Each blob and manifest is read, decoded and hashed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stockpot.errors import StockpotError
from stockpot.progress import progress
from stockpot.registry.documents import (
    DOCUMENTS,
    is_entry,
    read_document,
    read_whole,
    unseal,
)
from stockpot.registry.index import Index
from stockpot.registry.manifest import LARGEST, Manifest, parse_manifest
from stockpot.registry.registry import ABOUT, INDEX, Registry
from stockpot.registry.store import LocalStore
from stockpot.system import usable_cores

_FOLDERS = ("models", "blobs", *DOCUMENTS, "tmp", "leases", "quarantine")
_BLOB = re.compile(r"[0-9a-f]{64}")
_FILES = (ABOUT, "lock", INDEX, f"{INDEX}-wal", f"{INDEX}-shm")


@dataclass(frozen=True)
class Problem:
    """Something damaged or missing, and the models that it hits (name and beginning of the id)."""

    key: str
    what: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class RegistryCheck:
    """The outcome of ``verify``. ``unused`` blobs belong to no model; ``gc`` removes them.

    ``strays`` are files that are no entries of a registry; they disturb nothing.
    """

    problems: tuple[Problem, ...]
    models: int
    blobs: int
    unused: int
    strays: tuple[str, ...] = ()


def verify(
    registry: Registry, *, threads: int | None = None, index: bool = True, quiet: bool = True
) -> RegistryCheck:
    """Check every byte of a registry. Finds any flipped bit, missing and misplaced files, and
    entries that cannot be used; goes on to the end whatever it finds.

    Nothing is changed. ``index``: compare the index with the manifests too. Memory: a few of the
    largest tensors.
    """
    store = registry.store
    problems: list[Problem] = []
    manifests: dict[str, Manifest] = {}
    listed, strays = _entries(registry)
    for key in listed["models"]:
        ident = key.removeprefix("models/").removesuffix(".json")
        try:
            manifests[ident] = parse_manifest(read_whole(store, key, LARGEST), ident)
        except (StockpotError, FileNotFoundError) as error:
            problems.append(Problem(key, _said(error), (ident[:12],)))
    users: dict[str, list[str]] = {}
    for ident, manifest in manifests.items():
        for blob in manifest.blobs():
            users.setdefault(blob, []).append(f"{manifest.name} {ident[:12]}")
    keys = listed["blobs"]
    there = {key.rsplit("/", 1)[-1] for key in keys}
    reached = reachable(registry, manifests.values())

    def check(key: str) -> Problem | None:
        name = key.rsplit("/", 1)[-1]
        hit = tuple(users.get(name, ()))
        if key != f"blobs/{name[:2]}/{name}":
            return Problem(key, "it lies in the wrong place", hit)
        try:
            registry.blob(name)
        except (StockpotError, OSError, MemoryError) as error:
            return Problem(key, _said(error), hit)
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
    problems += _check_documents(registry, manifests, listed)
    if index:
        problems += _check_index(registry, manifests)
    return RegistryCheck(
        tuple(problems), len(manifests), len(keys), len(there - reached), tuple(strays)
    )


def _entries(registry: Registry) -> tuple[dict[str, list[str]], list[str]]:
    """Keys of all entries by folder, and files that are none."""
    store = registry.store
    listed: dict[str, list[str]] = {folder: [] for folder in ("models", "blobs", *DOCUMENTS)}
    strays: list[str] = []
    for folder in listed:
        for key in store.keys(folder):
            misplaced = folder == "blobs" and _BLOB.fullmatch(key.rsplit("/", 1)[-1])
            (listed[folder] if misplaced or is_entry(key) else strays).append(key)
    if isinstance(store, LocalStore):
        names = sorted(path.name for path in store.root.iterdir())
        strays += [name for name in names if name not in (*_FOLDERS, *_FILES)]
    return listed, strays


def _said(error: BaseException) -> str:
    if isinstance(error, StockpotError):
        return error.message
    if isinstance(error, FileNotFoundError):
        return "it is gone, or a link to nothing"
    return str(error) or type(error).__name__


def reachable(
    registry: Registry,
    manifests: Iterable[Manifest],
    *,
    strict: bool = False,
    also: Iterable[str] = (),
) -> set[str]:
    """Names of the blobs that models need, and ``also``, with the bases of the differences among
    them.

    ``strict`` raises ``CheckpointError`` where a blob is missing or its header damaged, so that its
    base is unknown.
    """
    pending = {*also, *(blob for manifest in manifests for blob in manifest.blobs())}
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


def _check_documents(
    registry: Registry, manifests: Mapping[str, Manifest], listed: Mapping[str, list[str]]
) -> Iterator[Problem]:
    """Versions of lines and the like are whole, and speak of models that are here."""
    store = registry.store
    try:
        unseal(read_whole(store, ABOUT, LARGEST), ABOUT)
    except (StockpotError, FileNotFoundError) as error:
        yield Problem(ABOUT, _said(error), ())
    for key in [key for folder in DOCUMENTS for key in listed[folder]]:
        try:
            model = read_document(store, key).get("model")
        except (StockpotError, FileNotFoundError) as error:
            yield Problem(key, _said(error), ())
            continue
        if model is not None and model not in manifests:
            yield Problem(key, f"it speaks of model {model[:12]}, which is not here", ())


def _check_index(registry: Registry, manifests: Mapping[str, Manifest]) -> Iterator[Problem]:
    """The index says what the manifests say."""
    fresh = Index(None)
    try:
        with fresh.transaction():
            for manifest in manifests.values():
                registry.put_in_index(manifest, 0.0, index=fresh)
        same = fresh.content() == registry.index.content()
    except (sqlite3.DatabaseError, StockpotError):
        same = False
    fresh.close()
    if not same:
        yield Problem(INDEX, "the index differs from the manifests: run reindex", ())
