"""SQLite files that strangers may have written: no other tables, views or triggers than ours."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing


def check_tables(database: sqlite3.Connection, script: str) -> None:
    """Raise ``sqlite3.DatabaseError`` where a database is not as ``script`` makes an empty one.

    A view that counts without end answers to the name of a table, and a trigger writes what nobody
    asked for; a table of another shape is found before it is asked.
    """
    odd = _tables(database) ^ _expected(script)
    if odd:
        names = ", ".join(sorted({f"{kind} '{name}'" for kind, name, _ in odd})[:3])
        raise sqlite3.DatabaseError(f"it has other tables, views or triggers: {names}")


@functools.cache
def _expected(script: str) -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(script)
        return _tables(database)


def _tables(database: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    rows = database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return frozenset((kind, name, " ".join(text.split())) for kind, name, text in rows)
