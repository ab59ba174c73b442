"""Add a model: blobs first, the manifest last. Killed before that, nothing was added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.errors import CheckpointError, InputError, NonFiniteError
from stockpot.provenance import Record
from stockpot.registry.contents import Contents, read_contents
from stockpot.registry.lossy import Option, parse_option
from stockpot.registry.manifest import File, Link, Manifest, parse_manifest
from stockpot.registry.parents import Guess, find_parents
from stockpot.registry.registry import Registry, model_key
from stockpot.registry.sketch import matrices, sketch
from stockpot.registry.storing import Tally, marked_blobs, store_bytes, store_files
from stockpot.registry.withdrawn import check_model


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


def add(
    registry: Registry,
    model: str | Path,
    *,
    name: str | None = None,
    kind: str | None = None,
    parents: Sequence[str] | None = None,
    record: Record | None = None,
    links: Sequence[Link] | None = None,
    lossy: str | None = None,
    infer: bool = True,
    note: str = "",
    allow_nonfinite: bool = False,
    threads: int | None = None,
    quiet: bool = True,
) -> Added:
    """Put a model into a registry.

    Args:
        model: folder, weights file or hub id; its ``stockpot.json`` is read.
        name: how to call it; by default what its record says, else the name of the folder.
        kind: one lower-case word ("base", "finetune", "merge", ...); by default the record's.
        parents: models of the registry it came from, the first being its base. Without them and
            without a record the nearest relatives are looked for (``infer``) and noted with how
            sure that is.
        record: provenance, instead of the folder's own. links: edges, instead of the record's.
        lossy: "int8", "sign" or "low-rank:R": approximate storage of the matrices' difference
            to the base. What comes out is another model; its manifest states the error.
        note: a sentence to keep with it.
        allow_nonfinite: store NaN and infinity instead of refusing them.
        threads: tensors coded at a time; by default the cores.

    Raises ``CheckpointError`` for what cannot be read (``NonFiniteError`` for NaN), ``InputError``
    for unknown parents or a model that was withdrawn, ``OutputError`` where the registry cannot be
    written.
    """
    option = parse_option(lossy) if lossy else None
    with read_contents(model) as contents:
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
            if infer and values is not None and not any(edge.model for edge in edges):
                guess = find_parents(registry, contents.tensors, values, contents.tokenizer)
                edges += guess.links
            base = _base(registry, edges, contents)
            if option is not None and base is None:
                raise InputError(
                    "approximate storage needs a base in the registry",
                    hint="name it with --parent",
                )
            marked, tally = marked_blobs(registry), Tally()
            files = store_files(
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
                manifest = replace(manifest, sketch=store_bytes(registry, kept, marked, tally))
            if option is not None:
                manifest = _state_loss(manifest, contents, option, tally)
            if guess is not None:
                said = kind or (known.kind if known is not None else None)
                manifest = _as_known(registry, manifest, said)
            return _publish(registry, manifest, tally, guess)


def _as_known(registry: Registry, manifest: Manifest, kind: str | None) -> Manifest:
    """The manifest that is here already, where all but the guessed parents is the same."""
    for row in registry.index.rows("digest = ?", (manifest.digest,)):
        other = registry.manifest(row.id)
        chosen = manifest.kind if kind else other.kind
        if replace(manifest, parents=other.parents, kind=chosen) == other:
            return other
    return manifest


def _publish(registry: Registry, manifest: Manifest, tally: Tally, guess: Guess | None) -> Added:
    """Everything is on the disk, and the manifest proved to be one that every reader can use,
    before it appears: that is the moment of adding.
    """
    check_model(registry, manifest)
    content, ident = manifest.to_bytes(), manifest.id
    try:
        parse_manifest(content, ident)
    except CheckpointError as error:
        raise InputError(f"{manifest.name[:80]!r} cannot be added: {error.message}") from error
    key = model_key(ident)
    registry.store.flush()
    new = not registry.store.exists(key)
    if new:
        registry.store.write(key, [content])
        registry.store.flush()
    registry.take_in(manifest)
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
        name=name or plain.get("name") or _short_name(contents.label),
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


def _short_name(label: str) -> str:
    """The last part of a path or hub id; of a file without its ending."""
    path = Path(label)
    return path.stem if path.is_file() else path.resolve().name.partition("@")[0]


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


def _state_loss(manifest: Manifest, contents: Contents, option: Option, tally: Tally) -> Manifest:
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
