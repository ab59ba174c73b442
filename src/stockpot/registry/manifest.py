"""A manifest: everything a registry knows of one model, as canonical JSON named by its hash.

It holds no time and no place, so that adding the same model twice changes nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from stockpot.checkpoints.dtypes import STORAGE
from stockpot.checkpoints.header import TensorInfo
from stockpot.errors import CheckpointError
from stockpot.files import digest
from stockpot.provenance import check_parent
from stockpot.reading import parse_json
from stockpot.registry.documents import Document, NewerError
from stockpot.schema import fields

SCHEMA = 1
LARGEST = 256_000_000
"""Bytes of a manifest."""
_PATH = 1000
_SMALL = 1_000_000
_TENSORS = 1_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its description and the name of its blob."""

    info: TensorInfo
    blob: str


@dataclass(frozen=True)
class File:
    """One file of a model folder, by relative path.

    Weights: ``header`` is the blob of the file's first bytes (as they were written) and ``tensors``
    follow in the file's order; any other file: ``blob`` holds it.
    """

    path: str
    size: int
    blob: str | None = None
    header: str | None = None
    tensors: tuple[StoredTensor, ...] = ()


@dataclass(frozen=True)
class Link:
    """An edge to a parent.

    ``digest`` is the content hash of the parent's weights; ``model`` its manifest, where it is in
    the registry. ``how``: "recorded" (said by whoever made the model) or "inferred" (found by the
    geometry of the weights, with ``confidence`` from 0 to 1).
    """

    name: str
    digest: str
    role: str = "model"
    weight: float | None = None
    model: str | None = None
    how: str = "recorded"
    confidence: float | None = None


@dataclass(frozen=True)
class Manifest:
    """One model. ``id`` is the SHA-256 of its canonical JSON.

    ``digest`` is the content hash of the main weights (``Checkpoint.digest``), those of
    ``weights_file`` and its shards. ``lossy`` says how and how well approximate weights were
    stored: ``option``, ``error`` (relative error of the difference to the base), ``original`` (the
    digest of the exact weights). ``tokenizer`` is a hash of the tokenizer's files.
    """

    kind: str
    name: str
    digest: str
    files: tuple[File, ...]
    main: tuple[str, ...]
    parents: tuple[Link, ...] = ()
    recipe: Any = None
    data: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    lossy: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    sketch: str | None = None
    note: str = ""

    def to_json(self) -> Document:
        """A JSON value; canonical once its keys are sorted."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            "files": [_file_json(each) for each in self.files],
            "main": list(self.main),
            "parents": [dict(vars(each)) for each in self.parents],
            "recipe": self.recipe,
            "data": self.data,
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
            "lossy": None if self.lossy is None else dict(self.lossy),
            "tokenizer": self.tokenizer,
            "sketch": self.sketch,
            "note": self.note,
        }

    @functools.cached_property
    def id(self) -> str:
        return digest(self.to_json())

    def to_bytes(self) -> bytes:
        """The canonical form, of which ``id`` is the SHA-256."""
        return json.dumps(
            self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False
        ).encode()

    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors of the main weights by name."""
        main = set(self.main)
        return {
            stored.info.name: stored
            for file in self.files
            if file.path in main
            for stored in file.tensors
        }

    def blobs(self) -> Iterator[str]:
        """Names of all blobs that the model needs, without the bases of differences."""
        for file in self.files:
            if file.blob is not None:
                yield file.blob
            if file.header is not None:
                yield file.header
            for stored in file.tensors:
                yield stored.blob
        if self.sketch is not None:
            yield self.sketch

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the model."""
        return sum(file.size for file in self.files)


def parse_manifest(raw: bytes, model: str) -> Manifest:
    """Read a manifest and check it against its name and against what an index can hold.

    Raises ``CheckpointError`` for a damaged one, one with a value that is none of its field, or one
    that names a file outside its folder; ``NewerError`` for one of a newer schema.
    """
    return (_parse_small if len(raw) <= _SMALL else _parse)(raw, model)


def _parse(raw: bytes, model: str) -> Manifest:
    import hashlib

    if hashlib.sha256(raw).hexdigest() != model:
        raise _damaged(model, "its content has another hash than its name")
    try:
        value = parse_json(raw)
        if fields.count(value["schema"], "schema") > SCHEMA:
            raise NewerError(
                f"the manifest of model {model[:12]} has schema {value['schema']}, this stockpot "
                f"reads up to {SCHEMA}",
                hint="upgrade stockpot",
            )
        manifest = Manifest(
            kind=fields.kind(value["kind"]),
            name=fields.name(value["name"], "name"),
            digest=fields.hexadecimal(value["digest"], "digest"),
            files=tuple(_parse_file(item) for item in fields.items(value["files"], "files")),
            main=tuple(fields.items(value["main"], "main")),
            parents=tuple(_parse_link(item) for item in fields.items(value["parents"], "parents")),
            recipe=fields.plain(value["recipe"], "recipe"),
            data=fields.optional(fields.text, value["data"], "data"),
            metrics=fields.metrics(value["metrics"]),
            versions=fields.versions(value["versions"]),
            lossy=_parse_loss(value["lossy"]),
            tokenizer=fields.optional(fields.text, value["tokenizer"], "tokenizer"),
            sketch=fields.optional(fields.hexadecimal, value["sketch"], "sketch"),
            note=fields.text(value["note"], "note", fields.TEXT),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _damaged(model, what) from error
    _check_files(manifest, model)
    if manifest.id != model:
        raise _damaged(model, "it holds more than a manifest does")
    return manifest


# A command reads the manifest of a parent several times; the bytes are read anew each time.
_parse_small = functools.lru_cache(maxsize=32)(_parse)


def _parse_link(value: Any) -> Link:
    link = Link(**value)
    check_parent(link)
    fields.optional(fields.hexadecimal, link.model, "parents: model")
    if link.how not in ("recorded", "inferred"):
        raise ValueError(f"'parents: how' is {link.how!r:.40}, expected recorded or inferred")
    if link.confidence is not None:
        fields.number(link.confidence, "parents: confidence", 0.0, 1.0)
    return link


def _parse_loss(value: Any) -> Document | None:
    if value is None:
        return None
    fields.name(value["option"], "lossy: option")
    fields.number(value["error"], "lossy: error", 0.0)
    fields.number(value["worst_tensor"], "lossy: worst_tensor", 0.0)
    fields.hexadecimal(value["original"], "lossy: original")
    return dict(value)


def _check_files(manifest: Manifest, model: str) -> None:
    paths = [file.path for file in manifest.files]
    if len(set(paths)) < len(paths):
        raise _damaged(model, "it holds a file twice")
    weights = {file.path for file in manifest.files if file.header is not None}
    if not manifest.main or not set(manifest.main) <= weights:
        raise _damaged(model, f"its main weights {manifest.main!r:.80} are no weights files of it")
    names = [
        each.info.name
        for file in manifest.files
        if file.path in manifest.main
        for each in file.tensors
    ]
    if len(set(names)) < len(names):
        raise _damaged(model, "its main weights hold a tensor twice")
    if manifest.nbytes > fields.BIGGEST:
        raise _damaged(model, f"its files have {manifest.nbytes} bytes")


def _file_json(file: File) -> Document:
    value: Document = {"path": file.path, "size": file.size}
    if file.header is None:
        return {**value, "blob": file.blob}
    return {
        **value,
        "header": file.header,
        "tensors": [
            [each.info.name, each.info.dtype, list(each.info.shape), each.blob]
            for each in file.tensors
        ],
    }


def _parse_file(value: Mapping[str, Any]) -> File:
    name = fields.text(value["path"], "files: path", _PATH, least=1)
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name:
        raise ValueError(f"the file {name!r} leaves its folder")
    if name != path.as_posix() or "\n" in name or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"the file {name!r} is no plain path")
    size = fields.count(value["size"], "files: size")
    if "header" not in value:
        return File(name, size, blob=fields.hexadecimal(value["blob"], "files: blob"))
    tensors = [_parse_tensor(item) for item in fields.items(value["tensors"], "tensors", _TENSORS)]
    header = fields.hexadecimal(value["header"], "files: header")
    if sum(stored.info.nbytes for stored in tensors) > size:
        raise ValueError(f"the tensors of {name} need more than its {size} bytes")
    return File(name, size, header=header, tensors=tuple(tensors))


def _parse_tensor(value: Any) -> StoredTensor:
    name, dtype, shape, blob = value
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in STORAGE:
        raise ValueError(f"tensor {name!r:.80} has the type {dtype!r:.40}")
    what = f"shape of {name[:80]}"
    sizes = tuple(fields.count(size, what) for size in shape)
    return StoredTensor(TensorInfo(name, sizes, dtype), fields.hexadecimal(blob, "tensors: blob"))


def _damaged(model: str, what: str) -> CheckpointError:
    return CheckpointError(f"the manifest of model {model[:12]} is damaged: {what}")
