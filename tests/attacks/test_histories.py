"""Hostile histories: result files, folders of results and stores, under every command that reads
them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.judge import refused, works

Make = Callable[[Path], object]
HEAD = b"model,a accuracy,b accuracy,c accuracy\n"
SOUND = HEAD + b"m,0.9,0.8,0.7\nn,0.8,0.7,0.6\n"


def written(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def cells(*rows: str) -> Make:
    return written(HEAD + "".join(f"{row}\n" for row in rows).encode())


FILES: dict[str, Make] = {
    "empty": written(b""),
    "a head alone": written(HEAD),
    "not UTF-8": written(SOUND + b"\xff\xfe,1,2,3\n"),
    "UTF-16": written(SOUND.decode().encode("utf-16")),
    "binary": written(bytes(range(256)) * 8),
    "a cell of 50 megabytes": written(HEAD + b"m," + b"9" * 50_000_000 + b",1,2\n"),
    "a quote without end": written(HEAD + b'm,"0.9,0.8,0.7\n' + b"n,1,2,3\n" * 40_000),
    "a hundred thousand columns": written(b"model" + b",a" * 100_000 + b"\nm,1\n"),
    "a column twice": written(b"model,a accuracy,a accuracy\nm,1,2\n"),
    "no columns of results": written(b"model\nm\nn\n"),
    "a number that is a text": cells("m,high,0.8,0.7"),
    "infinity": cells("m,inf,0.8,0.7"),
    "a number beyond all numbers": cells("m,1e999,0.8,0.7"),
    "a number of 5000 digits": cells(f"m,{'9' * 5000},0.8,0.7"),
    "a number in hexadecimal": cells("m,0x1p4,0.8,0.7"),
    "a number with an escape": cells("m,\x1b[31m1,0.8,0.7"),
    "a column with an escape": written(HEAD[:-1] + b",d\x1b[2J accuracy\nm,1,1,1,1\n"),
    "a formula": cells("m,=cmd|' /C calc'!A0,0.8,0.7"),
    "fractions beside per cent": cells("m,0.9,0.8,0.7", "n,80,0.7,0.6", "o,70,1,1", "p,0.5,1,1"),
    "no names": cells(",0.9,0.8,0.7"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a folder of nothing": lambda path: path.mkdir(),
    "a store of nothing": written(b"SQLite format 3\0"),
    "a store that is cut short": lambda path: store(path, lambda _: None, cut=5000),
    "a store of others": lambda path: store(path, lambda run: run("DROP TABLE results")),
    "a store of tomorrow": lambda path: store(path, lambda run: run("PRAGMA user_version=9")),
    "a store of another shape": lambda path: store(
        path, lambda run: (run("DROP TABLE results"), run("CREATE TABLE results (x)"))
    ),
    "a store whose facts are no JSON": lambda path: store(
        path, lambda run: run("UPDATE models SET facts = '{'")
    ),
    "a store whose facts are nested deeply": lambda path: store(
        path, lambda run: run("UPDATE models SET facts = ?", ("[" * 100_000,))
    ),
    "a store whose facts are a list": lambda path: store(
        path, lambda run: run("UPDATE models SET facts = '[1]'")
    ),
    "a store of texts": lambda path: store(
        path, lambda run: run("UPDATE results SET value = 'high'")
    ),
    "a store of tasks that nobody names": lambda path: store(
        path, lambda run: run("DELETE FROM tasks")
    ),
    "a store that holds infinity": lambda path: store(
        path, lambda run: run("UPDATE results SET value = 9e999")
    ),
    "a store that counts without end": lambda path: store(
        path,
        lambda run: (
            run("ALTER TABLE results RENAME TO old"),
            run(
                "CREATE VIEW results AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 "
                "FROM n) SELECT 'm' || i AS model, 'a' AS task, 'accuracy' AS metric, 'own' AS "
                "source, '' AS run, 1.0 AS value, 0 AS lower, NULL AS aside, 0.0 AS added FROM n"
            ),
        ),
    ),
}


def store(path: Path, change: Callable[..., object], cut: int | None = None) -> None:
    """A sound store with a change by SQL."""
    from stockpot.ranking.history import Store

    with Store.open(path) as made:
        for model in "mno":
            for task in "abc":
                made.add(model, task, "accuracy", 0.5)
    connection = sqlite3.connect(path)
    change(connection.execute)
    connection.commit()
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])


COMMANDS = {
    "history import": lambda root: ["history", "import", root / "store.db", root / "bad.csv"],
    "history show": lambda root: ["history", "show", root / "bad.csv"],
    "history evaluate": lambda root: ["history", "evaluate", root / "bad.csv"],
    "rank": lambda root: [
        *("rank", root / "task.yaml", "--zoo", root / "zoo.yaml", "--history", root / "bad.csv"),
        *("-o", root / "out"),
    ],
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=pytest.mark.slow if number > 1 else ())
        for number, name in enumerate(COMMANDS)
    ],
)
@pytest.mark.parametrize("case", FILES)
def test_histories(tmp_path: Path, case: str, command: str) -> None:
    if case.startswith("a store") and command == "history import":
        pytest.skip("a store is what is imported into: see below")
    FILES[case](tmp_path / "bad.csv")
    (tmp_path / "data.csv").write_text(
        "text,label,domain\n" + "".join(f"{w} {i},{w},x\n" for i in range(9) for w in "pq")
    )
    (tmp_path / "task.yaml").write_text("kind: text\npath: data.csv\n")
    (tmp_path / "zoo.yaml").write_text(
        "models:\n  - {kind: timm, name: resnet18}\n  - {kind: timm, name: resnet34}\n"
    )
    refused(tmp_path, *COMMANDS[command](tmp_path), names="bad.csv")


STORES = [case for case in FILES if case.startswith(("a store", "a link", "a pipe", "a device"))]


@pytest.mark.parametrize("case", [case for case in STORES if "link to nothing" not in case])
def test_a_store_that_is_added_to(tmp_path: Path, case: str) -> None:
    if case in ("a store of texts", "a store that holds infinity") or "nobody names" in case:
        pytest.skip("what is added is sound; reading says what is not")
    if "facts" in case or "without end" in case:
        pytest.skip("facts of others are not read")
    FILES[case](tmp_path / "bad.csv")
    refused(tmp_path, "history", "add", tmp_path / "bad.csv", "m", "a", "0.5", names="bad.csv")


SAID = {
    "a model with an escape": ("m\x1b[2J", "a", "0.5"),
    "a task of two lines": ("m", "a\nb", "0.5"),
    "a model that turns around": ("m\u202e", "a", "0.5"),
    "an endless model": ("m" * 100_000, "a", "0.5"),
    "a model without a name": (" ", "a", "0.5"),
    "NaN": ("m", "a", "nan"),
    "infinity": ("m", "a", "inf"),
    "more than all": ("m", "a", "101"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_said_of_a_result_is_checked(tmp_path: Path, case: str) -> None:
    refused(tmp_path, "history", "add", tmp_path / "store.db", *SAID[case], names="")


def test_names_of_others_do_not_write_on_the_terminal(tmp_path: Path) -> None:
    odd = "c\x1b[2J\u202e"
    store(tmp_path / "odd.db", lambda run: run("UPDATE results SET model = ? || model", (odd,)))
    said = works("history", "show", tmp_path / "odd.db")
    assert "c\\x1b[2J\\u202em" in said
    assert not {"\x1b", "\u202e"} & set(said)
