"""The index: what the manifests say, in SQLite (WAL), for questions over thousands of models.

The manifests are the truth. The index can be thrown away, and is brought up to date whenever a
registry is opened; it knows names, digests, the family tree and the sketches of weights. Where it
cannot be opened (a full disk, another's lock), one in memory takes its place.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.databases import check_tables
from stockpot.errors import OutputError
from stockpot.registry.manifest import Link, Manifest

_VERSION = 2
_WAIT = 5.0  # seconds to wait for another's lock
_TABLES = """
CREATE TABLE models (
    num INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    digest TEXT NOT NULL, added REAL NOT NULL, bytes INTEGER NOT NULL, parameters INTEGER NOT NULL,
    tokenizer TEXT, family TEXT, sketch BLOB, note TEXT NOT NULL);
CREATE INDEX models_name ON models (name);
CREATE INDEX models_digest ON models (digest);
CREATE INDEX models_family ON models (family);
CREATE INDEX models_added ON models (added, num);
CREATE TABLE edges (
    child INTEGER NOT NULL, place INTEGER NOT NULL, parent INTEGER, digest TEXT NOT NULL,
    name TEXT NOT NULL, role TEXT NOT NULL, weight REAL, how TEXT NOT NULL, confidence REAL,
    PRIMARY KEY (child, place)) WITHOUT ROWID;
CREATE INDEX edges_parent ON edges (parent, child);
CREATE INDEX edges_digest ON edges (digest);
CREATE TABLE metrics (
    model INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (model, name))
    WITHOUT ROWID;
"""
_ANCESTORS = """
WITH RECURSIVE found(num) AS (
    SELECT parent FROM edges WHERE child = ?1 AND parent IS NOT NULL
    UNION SELECT edges.parent FROM edges JOIN found ON edges.child = found.num
          WHERE edges.parent IS NOT NULL)
SELECT num FROM found"""
_DESCENDANTS = """
WITH RECURSIVE found(num) AS (
    SELECT child FROM edges WHERE parent = ?1
    UNION SELECT edges.child FROM edges JOIN found ON edges.parent = found.num)
SELECT num FROM found"""


@dataclass(frozen=True)
class Row:
    """A model in the index. ``added`` is when its manifest was written (seconds since 1970)."""

    num: int
    id: str
    kind: str
    name: str
    digest: str
    added: float
    bytes: int
    parameters: int
    tokenizer: str | None
    family: str | None
    note: str


@dataclass(frozen=True)
class Edge:
    """From a parent to a child, both by their number; ``parent`` None where it is not here."""

    child: int
    parent: int | None
    digest: str
    name: str
    role: str
    weight: float | None
    how: str
    confidence: float | None


_ROW = "num, id, kind, name, digest, added, bytes, parameters, tokenizer, family, note"
_EDGE = "child, parent, digest, name, role, weight, how, confidence"


class Index:
    """One connection to the index of a registry, in memory without a path. For one thread.

    ``notice``: why it is in memory although it has a path, in words; None where it is not.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.notice: str | None = None
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                    raise OSError("it is no plain file")
            self._db = self._opened(path)
        except (sqlite3.Error, OSError) as error:
            self._db = _open(":memory:")
            self.notice = f"{path} is left aside ({error}): the index is made in memory this time"

    def _opened(self, path: Path | None) -> sqlite3.Connection:
        if path is None:
            return _open(":memory:")
        try:
            return _open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            # A damaged index is no loss: it is made anew from the manifests.
            _swap(path)
            return _open(path)

    def renew(self) -> None:
        """Throw away what is there, beside and swapped; an index in memory if that fails."""
        self._db.close()
        self.notice = None
        try:
            if self.path is not None:
                _swap(self.path)
            self._db = self._opened(self.path)
        except (sqlite3.Error, OSError) as error:
            self.leave(error)

    def leave(self, error: Exception) -> None:
        """Go on with an empty index in memory, because of ``error``."""
        self._db.close()
        self._db = _open(":memory:")
        self.notice = f"{self.path} is left aside ({error}): the index is made in memory this time"

    def _ask(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(
                f"the index {self.path} cannot be read: {error}", hint="stockpot registry reindex"
            ) from error

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside happen together or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def insert(
        self, manifest: Manifest, added: float, family: str | None, sketch: bytes | None
    ) -> None:
        """Put a model in; one that is there already stays as it is. Inside a transaction."""
        model = manifest.id
        parameters = sum(stored.info.size for stored in manifest.tensors().values())
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO models (id, kind, name, digest, added, bytes, parameters,"
            " tokenizer, family, sketch, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                model,
                manifest.kind,
                manifest.name,
                manifest.digest,
                added,
                manifest.nbytes,
                parameters,
                manifest.tokenizer,
                family,
                sketch,
                manifest.note,
            ),
        )
        if not cursor.rowcount:
            return
        num = cursor.lastrowid
        for place, link in enumerate(manifest.parents):
            self._db.execute(
                "INSERT INTO edges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    num,
                    place,
                    self._parent(link),
                    link.digest,
                    link.name,
                    link.role,
                    link.weight,
                    link.how,
                    link.confidence,
                ),
            )
        # Children that came before their parent.
        self._db.execute(
            "UPDATE edges SET parent = ? WHERE parent IS NULL AND digest = ? AND child != ?",
            (num, manifest.digest, num),
        )
        self._db.executemany(
            "INSERT INTO metrics VALUES (?, ?, ?)",
            [(num, name, float(value)) for name, value in manifest.metrics.items()],
        )

    def _parent(self, link: Link) -> int | None:
        found = None
        if link.model is not None:
            found = self._db.execute(
                "SELECT num FROM models WHERE id = ?", (link.model,)
            ).fetchone()
        if found is None and link.digest:
            found = self._db.execute(
                "SELECT num FROM models WHERE digest = ? ORDER BY num LIMIT 1", (link.digest,)
            ).fetchone()
        return None if found is None else int(found[0])

    def remove(self, model: str) -> None:
        """Forget a model; edges of its children stay, with their parent unknown."""
        found = self._db.execute("SELECT num FROM models WHERE id = ?", (model,)).fetchone()
        if found is None:
            return
        self._db.execute("UPDATE edges SET parent = NULL WHERE parent = ?", found)
        self._db.execute("DELETE FROM edges WHERE child = ?", found)
        self._db.execute("DELETE FROM metrics WHERE model = ?", found)
        self._db.execute("DELETE FROM models WHERE num = ?", found)

    def ids(self) -> set[str]:
        return {row[0] for row in self._ask("SELECT id FROM models")}

    def content(self) -> list[list[tuple[object, ...]]]:
        """All that is in the index, in an order that does not depend on how it came in."""
        parts = (
            "SELECT id, kind, name, digest, bytes, parameters, tokenizer, family, sketch, note"
            " FROM models ORDER BY id",
            "SELECT models.id, place, edges.digest, edges.name, role, weight, how, confidence"
            " FROM edges JOIN models ON models.num = child ORDER BY models.id, place",
            "SELECT models.id, metrics.name, value FROM metrics JOIN models ON models.num = model"
            " ORDER BY models.id, metrics.name",
        )
        return [self._ask(query) for query in parts]

    def count(self) -> int:
        return int(self._ask("SELECT count(*) FROM models")[0][0])

    def rows(self, where: str = "1", values: Sequence[object] = (), limit: int = -1) -> list[Row]:
        """Models that fulfil an SQL condition, in the order in which they were added."""
        query = f"SELECT {_ROW} FROM models WHERE {where} ORDER BY added, num LIMIT {int(limit)}"
        return [Row(*row) for row in self._ask(query, values)]

    def newest(self, limit: int) -> list[Row]:
        """The models added last, newest first."""
        query = f"SELECT {_ROW} FROM models ORDER BY added DESC, num DESC LIMIT ?"
        return [Row(*row) for row in self._ask(query, (limit,))]

    def by_number(self, numbers: Iterable[int]) -> list[Row]:
        """Models of these numbers, in the order in which they were added."""
        wanted = list(numbers)
        found: list[Row] = []
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            found += self.rows(f"num IN ({','.join('?' * len(some))})", some)
        return sorted(found, key=lambda row: (row.added, row.num))

    def ancestors(self, num: int) -> list[int]:
        """Numbers of all models that ``num`` came from."""
        return [row[0] for row in self._ask(_ANCESTORS, (num,))]

    def descendants(self, num: int) -> list[int]:
        """Numbers of all models that came from ``num``."""
        return [row[0] for row in self._ask(_DESCENDANTS, (num,))]

    def edges(self, numbers: Iterable[int] | None = None) -> list[Edge]:
        """Edges into these children (all by default), in their manifests' order."""
        if numbers is None:
            return [Edge(*row) for row in self._ask(f"SELECT {_EDGE} FROM edges")]
        wanted = list(numbers)
        found: list[Edge] = []
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            query = f"SELECT {_EDGE} FROM edges WHERE child IN ({','.join('?' * len(some))})"
            found += [Edge(*row) for row in self._ask(query, some)]
        return found

    def metrics(self, num: int) -> dict[str, float]:
        """The metrics of a model by name."""
        query = "SELECT name, value FROM metrics WHERE model = ? ORDER BY name"
        return dict(self._ask(query, (num,)))

    def families(self) -> dict[str, int]:
        """One model's number for every group of models with equal matrices."""
        query = "SELECT family, min(num) FROM models WHERE family IS NOT NULL GROUP BY family"
        return dict(self._ask(query))

    def sketches(self, family: str) -> tuple[list[int], list[bytes]]:
        """Numbers and sketches of the models of a family, in the order they were added."""
        query = "SELECT num, sketch FROM models WHERE family = ? ORDER BY num"
        found = self._ask(query, (family,))
        return [row[0] for row in found], [row[1] for row in found]


def _open(path: Path | str) -> sqlite3.Connection:
    """A connection; where the index is there already, nothing is written."""
    database = sqlite3.connect(path, timeout=_WAIT, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            database.execute("BEGIN IMMEDIATE")
            _make_tables(database)
            database.execute("COMMIT")
        check_tables(database, _TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
        return  # somebody else was faster
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    for (name,) in names.fetchall():
        database.execute(f'DROP TABLE "{name}"')
    for statement in _TABLES.split(";"):
        if statement.strip():
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {_VERSION}")


def _swap(path: Path) -> None:
    """Put an empty index where one was. Who has the old one open goes on with it."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _open(fresh).close()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(fresh, path)  # noqa: PTH105 (tests stop the process here)
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
