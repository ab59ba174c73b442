"""A registry: models by content, named lines of versions, and the index over them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.errors import CheckpointError, InputError, OutputError, StockpotError
from stockpot.files import cache_folder
from stockpot.registry import blobs
from stockpot.registry.documents import (
    DOCUMENTS,
    LINE_NAME,
    SCHEMA,
    Document,
    NewerError,
    is_entry,
    read_document,
    read_whole,
    seal,
    sealed,
    unseal,
)
from stockpot.registry.index import Index, Row
from stockpot.registry.manifest import LARGEST, Manifest, parse_manifest
from stockpot.registry.reader import RegistryCheckpoint
from stockpot.registry.sketch import family_of, matrices
from stockpot.registry.store import LocalStore, ObjectStore, open_store

ABOUT, INDEX = "registry.json", "registry.db"
STRAY = "it is no entry of a registry"
_LINE = re.compile(LINE_NAME)
_ID = re.compile(r"[0-9a-f]{6,64}")
# A folder's time of change says nothing about writes within the clock's granularity.
_SETTLED = 2.0
_DEEPEST = 32
# Of what stands where a file should: a link, a pipe, a socket.
_NO_FILE = (errno.ELOOP, errno.EINVAL, errno.ENXIO)


_PASSING = {
    *(errno.ENOSPC, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT),
}


@dataclass(frozen=True)
class Unusable:
    """An entry that is left aside, and why.

    ``state``: "damaged" (also: holding what none of its kind may), "newer" (written by a newer
    stockpot), "unreadable" (the system refuses to read it now: it may be sound) or "stray" (a file
    that is no entry).
    """

    key: str
    state: str
    what: str


class Registry:
    """An open registry. A context manager. One object serves one thread.

    Raises ``InputError`` where there is no registry at ``place`` (a folder or fsspec address).
    """

    def __init__(self, place: str | Path | ObjectStore) -> None:
        self.store = place if isinstance(place, ObjectStore) else open_store(place)
        self.label = self.store.label
        try:
            about = unseal(self.store.read(ABOUT), f"{self.label}/{ABOUT}")
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{self.label} holds no registry", hint=f"stockpot registry init {self.label}"
            ) from None
        if not isinstance(about.get("schema"), int) or about["schema"] > SCHEMA:
            raise InputError(
                f"{self.label} has schema {about.get('schema')}, this stockpot reads up to "
                f"{SCHEMA}",
                hint="upgrade stockpot",
            )
        self.index = Index(_index_path(self.store))
        self._seen: tuple[int, float] | None = None
        self._known: set[str] | None = None
        self._keys: set[str] = set()
        self._left: dict[str, Unusable] = {}
        self.refresh()

    @property
    def notice(self) -> str | None:
        """What the user should know of this opening: why the index is in memory."""
        return self.index.notice

    def close(self) -> None:
        """Close the index. The registry must not be used any more."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The index follows the manifests.

    def refresh(self) -> int:
        """Bring the index up to date with the manifests; the number of models it took in.

        Manifests that cannot be used are left aside, see ``quarantine``. An index that cannot be
        written is left aside as well, and made in memory.
        """
        state = self._models_state()
        if state is not None and state == self._seen:
            return 0
        there = {_ident(key) for key in self._model_keys()}
        try:
            taken = self._take_in(there)
        except (sqlite3.Error, OutputError) as error:
            self._known = None
            if isinstance(error.__cause__ or error, sqlite3.OperationalError):
                self.index.leave(error)
            else:
                self.index.renew()
            taken = self._take_in(there)
        self._known = there
        settled = state is not None and time.time() - state[1] > _SETTLED
        self._seen = state if settled else None
        return taken

    def _take_in(self, there: set[str]) -> int:
        """Index the manifests that are new among ``there``, forget those that are gone."""
        known = self.index.ids() if self._known is None else self._known
        described: list[tuple[float, str, Manifest, bytes | None]] = []
        self._left = {key: left for key, left in self._left.items() if _ident(key) in there}
        missing = known - there
        for model in sorted(there - known):
            key = model_key(model)
            try:
                manifest = self._read_manifest(model)
                sketch = self._sketch(manifest)
                described.append((self.store.stat(key)[1], model, manifest, sketch))
                self._left.pop(key, None)
            except (StockpotError, FileNotFoundError) as error:
                self._left[key] = _unusable(key, error)
        if described or missing:
            with self.index.transaction():
                for model in missing:
                    self.index.remove(model)
                for added, _, manifest, sketch in sorted(described, key=lambda item: item[:2]):
                    self._put_in_index(manifest, added, sketch)
        there -= {_ident(key) for key in self._left}
        return len(described)

    def reindex(self) -> int:
        """Throw the index away and make it anew; the number of models."""
        self.index.renew()
        self._seen = self._known = None
        self._left = {}
        return self.refresh()

    def put_in_index(self, manifest: Manifest, added: float, index: Index | None = None) -> None:
        """Enter a model whose manifest is written. Inside a transaction of the index.

        Raises ``CheckpointError`` where the disk does not give what the index needs.
        """
        self._put_in_index(manifest, added, self._sketch(manifest), index)

    def _put_in_index(
        self, manifest: Manifest, added: float, sketch: bytes | None, index: Index | None = None
    ) -> None:
        index = self.index if index is None else index
        taken = matrices({name: each.info for name, each in manifest.tensors().items()})
        index.insert(manifest, added, family_of(taken) if sketch else None, sketch)

    def _sketch(self, manifest: Manifest) -> bytes | None:
        """A model's sketch. A damaged one hides the model from the search, no more; one that the
        disk does not give now is a ``CheckpointError``: an index without it would stay wrong.
        """
        if manifest.sketch is None:
            return None
        try:
            return self.blob(manifest.sketch).tobytes()
        except CheckpointError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno not in _NO_FILE:
                raise
            return None

    def take_in(self, manifest: Manifest) -> None:
        """Index a model whose manifest has just been written. That never fails: an index that
        cannot be written now follows when it is opened next.
        """
        try:
            with self.index.transaction():
                self.put_in_index(manifest, self.store.stat(model_key(manifest.id))[1])
        except CheckpointError:
            self._seen = self._known = None
        except sqlite3.Error as error:
            self.index.leave(error)
            self._seen = self._known = None
            self.refresh()

    def quarantine(self) -> list[Unusable]:
        """All entries but blobs that are left aside, by key: damaged, newer, and strays."""
        self.refresh()
        left = dict(self._left)
        for folder in ("models", *DOCUMENTS):
            for key in self.store.keys(folder):
                if key not in self._keys and not is_entry(key):
                    left[key] = Unusable(key, "stray", STRAY)
                elif folder != "models":
                    try:
                        read_document(self.store, key)
                    except (StockpotError, FileNotFoundError) as error:
                        left[key] = _unusable(key, error)
        return [left[key] for key in sorted(left)]

    def _models_state(self) -> tuple[int, float] | None:
        if not isinstance(self.store, LocalStore):
            return None
        try:
            found = (self.store.root / "models").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime

    def _model_keys(self) -> set[str]:
        """Keys of manifests; the form of those of the last time is known."""
        known = self._keys
        self._keys = {key for key in self.store.keys("models") if key in known or is_entry(key)}
        return self._keys

    # Models.

    def manifest(self, model: str) -> Manifest:
        """The manifest of a model: by id or its first six digits and more, by digest, by name, or
        by line (``main``, ``main~2`` for two versions back). The newest of several of one name.

        Raises ``InputError`` for an unknown or ambiguous model.
        """
        return self._read_manifest(self.find(model))

    def find(self, model: str) -> str:
        """The id that ``model`` means, see :meth:`manifest`."""
        self.refresh()
        line, _, back = model.partition("~")
        if _LINE.fullmatch(line) and (back.isdigit() or not back):
            versions = self.line(line)
            if versions:
                if int(back or 0) >= len(versions):
                    raise InputError(f"line '{line}' has {len(versions)} versions, not '{model}'")
                return str(versions[-1 - int(back or 0)]["model"])
        if _ID.fullmatch(model):
            rows = self.index.rows("id GLOB ?1 OR digest GLOB ?1", (f"{model}*",))
            if len({row.digest for row in rows}) > 1:
                raise InputError(
                    f"'{model}' begins {len(rows)} models: "
                    + ", ".join(f"{row.name} {row.id[:12]}" for row in rows[:4]),
                    hint="give more digits",
                )
            if rows:
                return rows[-1].id
        rows = self.index.rows("name = ?", (model,))
        if rows:
            return rows[-1].id
        for key, left in self._left.items():
            if _ID.fullmatch(model) and _ident(key).startswith(model):
                raise InputError(f"model {model[:12]} is left aside: {left.what}")
        known = ", ".join(row.name for row in self.index.newest(4))
        raise InputError(
            f"{self.label} has no model '{model}'",
            hint=f"stockpot registry log lists them; the newest are {known}" if known else None,
        )

    def row(self, model: str) -> Row:
        """The index's row of a model."""
        ident = self.find(model)
        rows = self.index.rows("id = ?", (ident,))
        if not rows:
            raise InputError(
                f"model {ident[:12]} is missing or damaged", hint="stockpot registry verify"
            )
        return rows[0]

    def checkpoint(self, model: str | Manifest) -> RegistryCheckpoint:
        """The main weights of a model as a checkpoint; tensors are decoded when asked for."""
        manifest = model if isinstance(model, Manifest) else self.manifest(model)
        return RegistryCheckpoint(manifest, self.blob)

    def ancestors(self, model: str) -> list[Row]:
        """All models that this one came from, oldest first."""
        return self.index.by_number(self.index.ancestors(self.row(model).num))

    def descendants(self, model: str) -> list[Row]:
        """All models that came from this one, oldest first."""
        return self.index.by_number(self.index.descendants(self.row(model).num))

    def remove(self, model: str) -> str:
        """Take a model out, and with it proposals of it and their reviews; its blobs go with the
        next ``gc``. Returns its id.

        Raises ``InputError`` where a line points to it, or a version of a line was made of it.
        Blobs that others are stored against stay.
        """
        ident = self.find(model)
        proposed = {
            key.split("/")[1].removesuffix(".json")
            for key, value in self.documents("proposals")
            if value["model"] == ident
        }
        for line in self.lines():
            for version in self.line(line):
                if version["model"] == ident:
                    raise InputError(f"model {ident[:12]} is a version of the line '{line}'")
                if proposed & set(_members(version["event"])):
                    raise InputError(
                        f"model {ident[:12]} is part of version {version['number']} of the line "
                        f"'{line}'"
                    )
        with self.store.lock(exclusive=False):
            # What speaks of the model goes before it, so that nothing ever points to nothing.
            for proposal in sorted(proposed):
                self.store.delete(f"proposals/{proposal}.json")
            for folder in ("signatures", "reviews"):
                for key, value in self.documents(folder):
                    if value["model"] == ident:
                        self.store.delete(key)
            self.store.delete(model_key(ident))
            self.store.flush()
        self._seen = self._known = None
        self.refresh()
        return ident

    def _read_manifest(self, model: str) -> Manifest:
        try:
            raw = read_whole(self.store, model_key(model), LARGEST)
        except FileNotFoundError:
            raise InputError(f"{self.label} has no model {model[:12]}") from None
        return parse_manifest(raw, model)

    # Blobs.

    def blob(self, name: str, *, check: bool = True, depth: int = 0) -> Array:
        """The decoded bytes of a blob, uint8, read-only use. Raises ``CheckpointError``.

        ``depth`` counts the differences on the way here.
        """
        try:
            coded = self.store.read(blob_key(name))
        except FileNotFoundError:
            raise CheckpointError(
                f"blob {name[:12]} is missing in {self.label}",
                hint="stockpot registry verify lists what it hits",
            ) from None
        if depth > _DEEPEST:
            raise CheckpointError(f"blob {name[:12]} is the end of a chain that has no beginning")
        return blobs.unpack(
            coded, name, lambda base: self.blob(base, check=False, depth=depth + 1), check=check
        )

    def values(self, name: str, dtype: str) -> Array:
        """A blob as flat storage values of a type."""
        return self.blob(name).view(STORAGE[dtype])

    def blob_header(self, name: str) -> blobs.BlobHeader:
        """How a blob is coded, from its first bytes."""
        try:
            return blobs.read_header(self.store.read(blob_key(name), blobs.HEADER), name)
        except FileNotFoundError:
            raise CheckpointError(f"blob {name[:12]} is missing in {self.label}") from None

    # Lines: named sequences of versions. A version is written once and by one writer only.

    def documents(self, folder: str) -> Iterator[tuple[str, Document]]:
        """Keys and values of the documents in a folder that can be used, by key."""
        for key in self.store.keys(folder):
            if is_entry(key):
                with suppress(CheckpointError, FileNotFoundError):
                    yield key, read_document(self.store, key)

    def lines(self) -> list[str]:
        """Names of all lines that have a version."""
        keys = self.store.keys("lines")
        return sorted({key.split("/")[1] for key in keys if is_entry(key)})

    def line(self, name: str) -> list[Document]:
        """Versions of a line that can be used, oldest first: ``number`` (from 1), ``model``,
        ``time``, ``event``. Empty for none.
        """
        if not _LINE.fullmatch(name):
            return []
        versions = self.documents(f"lines/{name}")
        return [{"number": _number(key), **value} for key, value in versions]

    def last_version(self, name: str) -> int:
        """Number of the newest version of a line, whether it can be used or not; 0 for none."""
        keys = self.store.keys(f"lines/{name}")
        return max((_number(key) for key in keys if is_entry(key)), default=0)

    def advance(self, name: str, model: str, event: Document, *, after: int | None = None) -> int:
        """Make ``model`` the newest version of a line; returns its number, from 1.

        ``after``: the number of the last version that the caller knew of. Where somebody else was
        faster, nothing is written. Raises ``InputError`` for a bad name and ``OutputError`` for
        that.
        """
        if not _LINE.fullmatch(name):
            raise InputError(f"'{name}' is no name of a line: letters, digits, '.', '_' and '-'")
        ident = self.find(model)
        count = self.last_version(name) if after is None else after
        version = {
            "schema": SCHEMA,
            "model": ident,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
        }
        key = version_key(name, count + 1)
        content = sealed(key, version)
        try:
            self.store.write(key, [content], exclusive=True)
        except FileExistsError:
            raise OutputError(
                f"the line '{name}' got a version {count + 1} from somebody else meanwhile",
                hint="look at it and try again",
            ) from None
        self.store.flush()
        return count + 1


def init_registry(place: str | Path) -> Registry:
    """Make a registry at a folder or fsspec address and open it; one that is there is opened.

    Raises ``OutputError`` where the folder holds something else.
    """
    store = open_store(place)
    if not store.exists(ABOUT):
        if isinstance(store, LocalStore) and store.root.exists() and not _is_free(store.root):
            raise OutputError(f"{store.label} is not empty", hint="choose an empty or new folder")
        about = {"schema": SCHEMA, "kind": "stockpot registry"}
        # Of two that make it at once one writes, and both find the same.
        with suppress(FileExistsError):
            store.write(ABOUT, [seal(about)], exclusive=True)
        store.flush()
    return Registry(store)


def _is_free(root: Path) -> bool:
    """Whether a folder is empty, but for what an interrupted ``init`` leaves."""
    return root.is_dir() and all(each.name == "tmp" for each in root.iterdir())


def models_of(versions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Models of a line's versions, the first at 0; nothing for one that cannot be used."""
    numbered = {version["number"]: version["model"] for version in versions}
    return [numbered.get(number, "") for number in range(1, max(numbered, default=0) + 1)]


def model_key(model: str) -> str:
    """Where a manifest lies."""
    return f"models/{model}.json"


def blob_key(name: str) -> str:
    """Where a blob lies."""
    return f"blobs/{name[:2]}/{name}"


def version_key(line: str, number: int) -> str:
    """Where a version of a line lies."""
    return f"lines/{line}/{number:08d}.json"


def _index_path(store: ObjectStore) -> Path:
    """Beside the manifests; for a remote or read-only registry in the user's cache."""
    if isinstance(store, LocalStore) and os.access(store.root, os.W_OK):
        return store.root / INDEX
    place = str(store.root) if isinstance(store, LocalStore) else store.label
    return cache_folder() / "registries" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.db"


def _ident(key: str) -> str:
    return key[len("models/") : -len(".json")]


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[-1].removesuffix(".json"))


def _members(event: Mapping[str, Any]) -> Iterator[str]:
    """Contributions that a version was made of."""
    yield from event.get("contributions", ())
    for turn in event.get("rounds", ()):
        yield from turn["contributions"]


def _unusable(key: str, error: Exception) -> Unusable:
    if isinstance(error, FileNotFoundError):
        return Unusable(key, "damaged", "it is gone, or a link to nothing")
    said = error.message if isinstance(error, StockpotError) else str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    if cause is not None and cause.errno in _PASSING:
        return Unusable(key, "unreadable", said)
    return Unusable(key, "newer" if isinstance(error, NewerError) else "damaged", said)
