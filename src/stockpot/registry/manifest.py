"""A manifest: everything a registry knows of one model, as canonical JSON named by its hash.

It holds no time and no place, so that adding the same model twice changes nothing.
"""

from __future__ import annotations

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

SCHEMA = 1
_HEX = re.compile(r"[0-9a-f]{64}")


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

    def to_json(self) -> dict[str, Any]:
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

    @property
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
    """Read a manifest and check it against its name.

    Raises ``CheckpointError`` for a damaged one, or one that names a file outside its folder.
    """
    import hashlib

    if hashlib.sha256(raw).hexdigest() != model:
        raise _damaged(model, "its content has another hash than its name")
    try:
        value = json.loads(raw)
        if value["schema"] > SCHEMA:
            raise _damaged(model, f"schema {value['schema']} is newer than this stockpot")
        return Manifest(
            kind=value["kind"],
            name=value["name"],
            digest=value["digest"],
            files=tuple(_parse_file(each) for each in value["files"]),
            main=tuple(value["main"]),
            parents=tuple(Link(**each) for each in value["parents"]),
            recipe=value["recipe"],
            data=value["data"],
            metrics=value["metrics"],
            versions=value["versions"],
            lossy=value["lossy"],
            tokenizer=value["tokenizer"],
            sketch=value["sketch"],
            note=value["note"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(model, f"{type(error).__name__} {error}") from error


def _file_json(file: File) -> dict[str, Any]:
    value: dict[str, Any] = {"path": file.path, "size": file.size}
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
    path = PurePosixPath(value["path"])
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in value["path"]:
        raise ValueError(f"the file {value['path']!r} leaves its folder")
    if "header" not in value:
        return File(value["path"], value["size"], blob=_hex(value["blob"]))
    tensors = []
    for name, dtype, shape, blob in value["tensors"]:
        if dtype not in STORAGE:
            raise ValueError(f"tensor '{name}' has the type {dtype!r}")
        tensors.append(StoredTensor(TensorInfo(name, tuple(shape), dtype), _hex(blob)))
    return File(value["path"], value["size"], header=_hex(value["header"]), tensors=tuple(tensors))


def _hex(text: str) -> str:
    if not _HEX.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a blob")
    return text


def _damaged(model: str, what: str) -> CheckpointError:
    return CheckpointError(f"the manifest of model {model[:12]} is damaged: {what}")
