"""Add a model: blobs first, the manifest last. Killed before that, nothing was added."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.dtypes import STORAGE, Array, widen
from stockpot.errors import InputError, NonFiniteError
from stockpot.progress import progress
from stockpot.provenance import Record
from stockpot.registry import blobs, lossy
from stockpot.registry.contents import Contents, WeightsFile, read_contents
from stockpot.registry.documents import unseal
from stockpot.registry.manifest import File, Link, Manifest, Stored
from stockpot.registry.parents import Guess, find_parents
from stockpot.registry.registry import Registry, blob_key
from stockpot.registry.sketch import family_of, matrices, sketch

# A difference is decoded after its base: longer chains make reading slow.
_CHAIN = 2


@dataclass(frozen=True)
class Added:
    """What ``add`` did. ``new`` is False where the very model was there already.

    ``bytes`` of the model's files, of which ``stored`` were written (``reused`` blobs were there).
    ``guess``: what the geometry of the weights says about the parents, where nobody recorded them.
    """

    id: str
    manifest: Manifest
    new: bool
    bytes: int
    stored: int
    reused: int
    codecs: Mapping[str, int]
    guess: Guess | None


@dataclass
class _Tally:
    """What the threads of one ``add`` have done so far."""

    stored: int = 0
    reused: int = 0
    codecs: dict[str, int] = field(default_factory=dict)
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    worst: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def add(
    registry: Registry,
    source: str | Path,
    *,
    name: str | None = None,
    kind: str | None = None,
    parents: Sequence[str] | None = None,
    record: Record | None = None,
    links: Sequence[Link] | None = None,
    store_lossy: str | None = None,
    infer: bool = True,
    note: str = "",
    allow_nonfinite: bool = False,
    threads: int | None = None,
    quiet: bool = True,
) -> Added:
    """Put a model into a registry.

    Args:
        source: model folder, weights file or hub id; its ``stockpot.json`` is read.
        name: how to call it; by default what its record says, else the name of the folder.
        kind: one lower-case word ("base", "finetune", "merge", ...); by default the record's.
        parents: models of the registry it came from, the first being its base. Without them and
            without a record the nearest relatives are looked for (``infer``) and noted with how
            sure that is.
        record: provenance, instead of the folder's own. links: edges, instead of the record's.
        store_lossy: "int8", "sign" or "low-rank:R": approximate storage of the matrices' difference
            to the base. What comes out is another model; its manifest states the error.
        note: a sentence to keep with it.
        allow_nonfinite: store NaN and infinity instead of refusing them.
        threads: tensors coded at a time; by default the cores.

    Raises ``CheckpointError`` for what cannot be read (``NonFiniteError`` for NaN), ``InputError``
    for unknown parents, ``OutputError`` where the registry cannot be written.
    """
    option = lossy.parse_option(store_lossy) if store_lossy else None
    with read_contents(source) as contents:
        known = record if record is not None else contents.record
        if not allow_nonfinite:
            _check_finite(contents)
        with registry.store.lock(exclusive=False) as renew:
            registry.refresh()
            taken = matrices(contents.tensors)
            main = {info.name: file for file in contents.weights for info in file.tensors}
            values = sketch(taken, lambda each: main[each].checkpoint.raw(each)) if taken else None
            edges = tuple(links) if links is not None else _links(registry, known, parents)
            guess = None
            if not edges and infer and values is not None:
                guess = find_parents(registry, contents.tensors, values, contents.tokenizer)
                edges = guess.links
            base = _base(registry, edges, contents)
            if option is not None and base is None:
                raise InputError(
                    "approximate storage needs a base in the registry",
                    hint="name it with --parent",
                )
            marked, tally = marked_blobs(registry), _Tally()
            files = _store_files(
                registry, contents, base, option, marked, tally, threads, renew, quiet
            )
            manifest = _manifest(contents, files, known, edges, name, kind, note)
            if option is None and known is not None and known.digest not in (None, manifest.digest):
                raise InputError(
                    f"{contents.label}: its provenance record speaks of other weights "
                    f"({known.digest[:12]}, these are {manifest.digest[:12]})",
                    hint="remove stockpot.json, or repair the weights",
                )
            if values is not None:
                if option is not None:
                    values = _stored_sketch(registry, manifest)
                kept = values.astype("<f4").tobytes()
                manifest = replace(manifest, sketch=_store_bytes(registry, kept, marked, tally))
            if option is not None:
                manifest = _state_loss(manifest, contents, option, tally)
            if guess is not None:
                manifest = _as_known(registry, manifest, kind or (known and known.kind))
            return _publish(registry, manifest, tally, guess)


def _as_known(registry: Registry, manifest: Manifest, kind: str | None) -> Manifest:
    """The manifest that is here already, where all but the guessed parents is the same."""
    for row in registry.index.rows("digest = ?", (manifest.digest,)):
        other = registry.manifest(row.id)
        chosen = manifest.kind if kind else other.kind
        if replace(manifest, parents=other.parents, kind=chosen) == other:
            return other
    return manifest


def _publish(registry: Registry, manifest: Manifest, tally: _Tally, guess: Guess | None) -> Added:
    """Everything is on the disk before the manifest appears: that is the moment of adding."""
    ident = manifest.id
    key = f"models/{ident}.json"
    registry.store.flush()
    new = not registry.store.exists(key)
    if new:
        registry.store.write(key, [manifest.to_bytes()])
        registry.store.flush()
    with registry.index.transaction():
        registry.put_in_index(manifest, registry.store.stat(key)[1])
    return Added(
        ident,
        manifest,
        new,
        manifest.nbytes,
        tally.stored,
        tally.reused,
        dict(sorted(tally.codecs.items())),
        guess,
    )


def _manifest(
    contents: Contents,
    files: Sequence[File],
    record: Record | None,
    edges: Sequence[Link],
    name: str | None,
    kind: str | None,
    note: str,
) -> Manifest:
    stored = {
        each.info.name: each
        for file in files
        if file.path in contents.main
        for each in file.tensors
    }
    digests = {each: bytes.fromhex(tensor.blob) for each, tensor in stored.items()}
    digest = join_digests({each: tensor.info for each, tensor in stored.items()}, digests)
    fallback = "finetune" if edges else "base"
    plain = record.to_json() if record is not None else {}
    return Manifest(
        kind=kind or plain.get("kind") or fallback,
        name=name or plain.get("name") or Path(contents.label).resolve().stem,
        digest=digest,
        files=tuple(files),
        main=contents.main,
        parents=tuple(edges),
        recipe=plain.get("recipe"),
        data=plain.get("data"),
        metrics=plain.get("metrics", {}),
        versions=plain.get("versions", {}),
        tokenizer=contents.tokenizer,
        note=note,
    )


def _check_finite(contents: Contents) -> None:
    for file in contents.weights:
        for info in file.tensors:
            place = file.checkpoint.first_nonfinite(info.name, 0, info.size)
            if place is not None:
                index = [int(i) for i in np.unravel_index(place, info.shape)] if info.shape else []
                raise NonFiniteError(
                    f"{contents.label}: tensor '{info.name}' holds NaN or infinity at {index}",
                    hint="repair the model, or keep it as it is with --allow-nonfinite",
                )


def _links(
    registry: Registry, record: Record | None, parents: Sequence[str] | None
) -> tuple[Link, ...]:
    """Edges as the caller says, else as the record does; parents that are here get their id."""
    if parents:
        links = []
        for place, wanted in enumerate(parents):
            found = registry.manifest(wanted)
            role = "base" if place == 0 else "model"
            links.append(Link(found.name, found.digest, role, None, found.id))
        return tuple(links)
    if record is None:
        return ()
    links = []
    for parent in record.parents:
        rows = registry.index.rows("digest = ?", (parent.digest,), 1) if parent.digest else []
        model = rows[0].id if rows else None
        links.append(Link(parent.name, parent.digest, parent.role, parent.weight, model))
    return tuple(links)


def _base(registry: Registry, edges: Sequence[Link], contents: Contents) -> Manifest | None:
    """The registered parent against which differences are stored: most tensors in common."""
    ours = {(info.name, info.shape, info.dtype) for info in contents.tensors.values()}
    best: tuple[int, Manifest] | None = None
    for link in edges:
        if link.model is None:
            continue
        manifest = registry.manifest(link.model)
        theirs = {(n, s.info.shape, s.info.dtype) for n, s in manifest.tensors().items()}
        common = len(ours & theirs)
        if common and (best is None or common > best[0]):
            best = common, manifest
    return best[1] if best else None


def _store_files(
    registry: Registry,
    contents: Contents,
    base: Manifest | None,
    option: lossy.Option | None,
    marked: set[str],
    tally: _Tally,
    threads: int | None,
    renew: Callable[[], None],
    quiet: bool,
) -> list[File]:
    origin = {} if base is None else base.tensors()
    files = [
        File(
            place,
            path.stat().st_size,
            blob=_store_bytes(registry, path.read_bytes(), marked, tally),
        )
        for place, path in contents.others.items()
    ]
    total = sum(info.nbytes for file in contents.weights for info in file.tensors)
    workers = max(1, threads if threads is not None else len(os.sched_getaffinity(0)))
    with (
        progress("storing", total, quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        for file in contents.weights:
            inexact = option if file.path in contents.main else None

            def one(info: TensorInfo, file: WeightsFile = file, how: Any = inexact) -> Stored:
                partner = origin.get(info.name) if file.path in contents.main else None
                if partner is not None and partner.info != info:
                    partner = None
                return _store_tensor(registry, file, info, partner, how, marked, tally)

            stored = []
            for tensor in pool.map(one, file.tensors):
                stored.append(tensor)
                advance(tensor.info.nbytes)
                renew()
            header = _store_bytes(registry, file.header, marked, tally)
            files.append(File(file.path, file.size, header=header, tensors=tuple(stored)))
    return sorted(files, key=lambda each: each.path)


def _store_tensor(
    registry: Registry,
    file: WeightsFile,
    info: TensorInfo,
    partner: Stored | None,
    option: lossy.Option | None,
    marked: set[str],
    tally: _Tally,
) -> Stored:
    data = file.checkpoint.raw(info.name)
    rows = info.shape[0] if len(info.shape) > 1 else 1
    if (
        option is not None
        and partner is not None
        and lossy.applies(option, info.dtype, rows, info.size)
    ):
        against = _chain(registry, partner.blob, info.dtype)
        parts, approximate = blobs.pack_lossy(option, data, info.dtype, rows, against)
        _note_loss(tally, data, approximate, registry.values(partner.blob, info.dtype), info.dtype)
        result = blobs.name_of(approximate.view(np.uint8))
        if not _is_here(registry, result, marked, tally):
            _write_blob(registry, result, parts, tally)
        return Stored(info, result)
    result = blobs.name_of(blobs.bits(data).view(np.uint8))
    if not _is_here(registry, result, marked, tally):
        near = None if partner is None else _chain(registry, partner.blob, info.dtype)
        _write_blob(registry, result, blobs.pack(data, info.dtype, rows, near), tally)
    return Stored(info, result)


def _is_here(registry: Registry, name: str, marked: set[str], tally: _Tally) -> bool:
    """Whether a blob is there and will stay: one that ``gc`` has marked is written again."""
    key = blob_key(name)
    if not registry.store.exists(key):
        return False
    if name in marked:
        registry.store.write(key, [registry.store.read(key)])
    with tally.lock:
        tally.reused += 1
    return True


def _chain(registry: Registry, name: str, dtype: str) -> tuple[str, Array]:
    """A blob to store a difference against: this one, or where its chain is too long, its base."""
    depth, origins = 0, [name]
    while (base := registry.blob_header(origins[-1]).base) is not None:
        origins.append(base)
        depth += 1
    chosen = origins[0] if depth < _CHAIN else origins[depth - _CHAIN + 1]
    return chosen, registry.values(chosen, dtype)


def _store_bytes(registry: Registry, data: bytes, marked: set[str], tally: _Tally) -> str:
    name = blobs.name_of(data)
    if not _is_here(registry, name, marked, tally):
        _write_blob(registry, name, blobs.pack_raw(data), tally)
    return name


def _write_blob(registry: Registry, name: str, parts: Sequence[bytes], tally: _Tally) -> None:
    # A blob is never written over: what others are stored against keeps its coding.
    with suppress(FileExistsError):
        registry.store.write(blob_key(name), parts, exclusive=True)
    kind = blobs.CODECS[blobs.read_header(parts[0], name).codec]
    with tally.lock:
        tally.stored += sum(map(len, parts))
        tally.codecs[kind] = tally.codecs.get(kind, 0) + 1


def marked_blobs(registry: Registry) -> set[str]:
    """Blobs that a running ``gc`` is about to remove: they are written again when needed."""
    found: set[str] = set()
    for key in registry.store.keys("gc"):
        try:
            found.update(unseal(registry.store.read(key), key)["blobs"])
        except FileNotFoundError:
            continue
    return found


def _note_loss(tally: _Tally, exact: Array, stored: Array, base: Array, dtype: str) -> None:
    """Sum up squared errors and squared differences to the base, in float64."""
    wide = [widen(each, dtype).astype(np.float64) for each in (exact, stored, base)]
    error = float(np.square(wide[1] - wide[0]).sum())
    change = float(np.square(wide[0] - wide[2]).sum())
    with tally.lock:
        tally.squares[0] += error
        tally.squares[1] += change
        if change > 0:
            tally.worst = max(tally.worst, (error / change) ** 0.5)


def _state_loss(
    manifest: Manifest, contents: Contents, option: lossy.Option, tally: _Tally
) -> Manifest:
    error, change = tally.squares
    digests = {
        info.name: file.checkpoint.tensor_digest(info.name)
        for file in contents.weights
        if file.path in contents.main
        for info in file.tensors
    }
    stated = {
        "option": str(option),
        "error": (error / change) ** 0.5 if change else 0.0,
        "worst_tensor": tally.worst,
        "original": join_digests(contents.tensors, digests),
    }
    return replace(manifest, lossy=stated)


def _stored_sketch(registry: Registry, manifest: Manifest) -> Array:
    stored = manifest.tensors()
    taken = matrices({name: each.info for name, each in stored.items()})
    return sketch(
        taken, lambda name: registry.blob(stored[name].blob).view(STORAGE[stored[name].info.dtype])
    )


def family(contents: Contents) -> str | None:
    """The family of a model that is not in the registry yet."""
    return family_of(matrices(contents.tensors))
