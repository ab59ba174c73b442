"""A registry: models by content, named lines of versions, and the index over them."""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.errors import CheckpointError, InputError, OutputError
from stockpot.files import cache_folder
from stockpot.registry import blobs
from stockpot.registry.documents import seal, unseal
from stockpot.registry.index import Index, Row
from stockpot.registry.manifest import Manifest, parse_manifest
from stockpot.registry.reader import RegistryCheckpoint
from stockpot.registry.sketch import family_of, matrices
from stockpot.registry.store import LocalStore, ObjectStore, open_store

SCHEMA = 1
ABOUT = "registry.json"
_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{6,64}")
# A folder's time of change says nothing about writes within the clock's granularity.
_SETTLED = 2.0
_DEEPEST = 32


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
        if about.get("schema", 0) > SCHEMA:
            raise InputError(
                f"{self.label} has schema {about['schema']}, this stockpot reads up to {SCHEMA}",
                hint="upgrade stockpot",
            )
        self.index = Index(_index_path(self.store))
        self._seen: tuple[int, float] | None = None
        self._known: set[str] | None = None
        self.refresh()

    def close(self) -> None:
        """Close the index. The registry must not be used any more."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The index follows the manifests.

    def refresh(self) -> int:
        """Bring the index up to date with the manifests; the number of models it took in."""
        state = self._models_state()
        if state is not None and state == self._seen:
            return 0
        there = {key.removeprefix("models/").removesuffix(".json") for key in self._model_keys()}
        known = self.index.ids() if self._known is None else self._known
        new, gone = sorted(there - known), known - there
        if new or gone:
            described = [(self._read_manifest(model), model) for model in new]
            times = {model: self.store.stat(f"models/{model}.json")[1] for model in new}
            described.sort(key=lambda each: (times[each[1]], each[1]))
            with self.index.transaction():
                for model in gone:
                    self.index.remove(model)
                for manifest, model in described:
                    self.put_in_index(manifest, times[model])
        self._known = there
        settled = state is not None and time.time() - state[1] > _SETTLED
        self._seen = state if settled else None
        return len(new)

    def reindex(self) -> int:
        """Throw the index away and make it anew; the number of models."""
        with self.index.transaction():
            for model in self.index.ids():
                self.index.remove(model)
        self._seen = self._known = None
        return self.refresh()

    def put_in_index(self, manifest: Manifest, added: float, index: Index | None = None) -> None:
        """Enter a model whose manifest is written. Inside a transaction of the index."""
        index = self.index if index is None else index
        taken = matrices({name: each.info for name, each in manifest.tensors().items()})
        sketch = None
        if manifest.sketch is not None:
            try:
                sketch = self.blob(manifest.sketch).tobytes()
            except CheckpointError:
                sketch = None  # a damaged sketch hides a model from the search, no more
        index.insert(manifest, added, family_of(taken) if sketch else None, sketch)

    def _models_state(self) -> tuple[int, float] | None:
        if not isinstance(self.store, LocalStore):
            return None
        try:
            found = (self.store.root / "models").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime

    def _model_keys(self) -> list[str]:
        return [key for key in self.store.keys("models") if key.endswith(".json")]

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
        known = ", ".join(row.name for row in self.index.newest(4))
        raise InputError(
            f"{self.label} has no model '{model}'",
            hint=f"stockpot registry log lists them; the newest are {known}" if known else None,
        )

    def row(self, model: str) -> Row:
        """The index's row of a model."""
        return self.index.rows("id = ?", (self.find(model),))[0]

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
        """Take a model out; its blobs go with the next ``gc``. Returns its id.

        Raises ``InputError`` where a line points to it. Blobs that others are stored against stay.
        """
        ident = self.find(model)
        for line in self.lines():
            if any(version["model"] == ident for version in self.line(line)):
                raise InputError(f"model {ident[:12]} is a version of the line '{line}'")
        with self.store.lock(exclusive=False):
            self.store.delete(f"models/{ident}.json")
            self.store.flush()
        with self.index.transaction():
            self.index.remove(ident)
        self._seen = self._known = None
        return ident

    def _read_manifest(self, model: str) -> Manifest:
        try:
            raw = self.store.read(f"models/{model}.json")
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

    def lines(self) -> list[str]:
        """Names of all lines."""
        return sorted({key.split("/")[1] for key in self.store.keys("lines")})

    def line(self, name: str) -> list[dict[str, Any]]:
        """Versions of a line, oldest first: ``model``, ``time``, ``event``. Empty for none."""
        keys = [key for key in self.store.keys(f"lines/{name}") if key.endswith(".json")]
        return [unseal(self.store.read(key), key) for key in keys]

    def advance(
        self, name: str, model: str, event: dict[str, Any], *, after: int | None = None
    ) -> int:
        """Make ``model`` the newest version of a line; returns its number, from 1.

        ``after``: the number of versions that the caller knew of. Where somebody else was faster,
        nothing is written. Raises ``InputError`` for a bad name and ``OutputError`` for that.
        """
        if not _LINE.fullmatch(name):
            raise InputError(f"'{name}' is no name of a line: letters, digits, '.', '_' and '-'")
        ident = self.find(model)
        count = len(self.line(name)) if after is None else after
        version = {
            "schema": SCHEMA,
            "model": ident,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
        }
        try:
            self.store.write(version_key(name, count + 1), [seal(version)], exclusive=True)
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


def blob_key(name: str) -> str:
    """Where a blob lies."""
    return f"blobs/{name[:2]}/{name}"


def version_key(line: str, number: int) -> str:
    """Where a version of a line lies."""
    return f"lines/{line}/{number:08d}.json"


def _index_path(store: ObjectStore) -> Path:
    """Beside the manifests; for a remote or read-only registry in the user's cache."""
    if isinstance(store, LocalStore) and os.access(store.root, os.W_OK):
        return store.root / "registry.db"
    place = str(store.root) if isinstance(store, LocalStore) else store.label
    return cache_folder() / "registries" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.db"
