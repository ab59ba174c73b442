"""One bad entry of each kind in a registry of 50: every command works on the rest, ``verify`` names
it, the dashboard shows it, ``repair`` moves it, and a colleague with a fresh index sees the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from stockpot.checkpoints import write_checkpoint
from stockpot.community import contribute, refuse
from stockpot.files import digest
from stockpot.registry import Registry, add, init_registry
from stockpot.registry.checking import verify
from stockpot.registry.documents import seal
from stockpot.registry.store import open_store
from tests.attacks.judge import works
from tests.registry import test_store

server, bucket = test_store.server, test_store.bucket

MODELS = 50
Spoil = Callable[[Path], str]


def weights(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(size=(4, 4)).astype("f4")
    write_checkpoint(folder / "model.safetensors", {"a": values})
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fifty")
    with init_registry(root / "r") as registry:
        add(registry, weights(root / "m0", 0), infer=False)
        registry.advance("main", "m0", {"what": "add"})
        for number in range(1, MODELS - 2):
            add(registry, weights(root / f"m{number}", number), infer=False)
        for name in ("ada", "ben"):
            proposal = contribute(registry, weights(root / name, len(name) + hash(name) % 7 + 99))
            refuse(registry, proposal, "not now")
    shutil.rmtree(root / "r" / "tmp", ignore_errors=True)
    return root


@pytest.fixture
def place(registry: Path, tmp_path: Path) -> Path:
    shutil.copytree(registry / "r", tmp_path / "r")
    return tmp_path / "r"


# Entries by content: the hash is right, what it says is not.


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(place: Path) -> str:
        first = min((place / "models").iterdir())
        value = json.loads(first.read_text())
        change(value)
        raw = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        key = f"models/{hashlib.sha256(raw).hexdigest()}.json"
        (place / key).write_bytes(raw)
        return key

    return spoil


def set_to(**changes: Any) -> Spoil:
    return manifest(lambda value: value.update(changes))


def document(key: str, **changes: Any) -> Spoil:
    """A sealed document like the first one in its folder, with other values."""

    def spoil(place: Path) -> str:
        folder = place / key.split("/")[0]
        first = min(path for path in folder.rglob("*.json"))
        value = json.loads(first.read_text())
        del value["sha256"]
        value.update(changes)
        name = key.replace("ID", digest(value)[:16]).replace("SAME", first.parent.name)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(seal(value))
        return name

    return spoil


def written(key: str, content: bytes) -> Spoil:
    def spoil(place: Path) -> str:
        (place / key).parent.mkdir(parents=True, exist_ok=True)
        (place / key).write_bytes(content)
        return key

    return spoil


def flipped(pattern: str) -> Spoil:
    """A bit of an entry that is there, flipped."""

    def spoil(place: Path) -> str:
        path = min(path for path in place.glob(pattern) if path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        return path.relative_to(place).as_posix()

    return spoil


def special(key: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(place: Path) -> str:
        (place / key).parent.mkdir(parents=True, exist_ok=True)
        make(place / key)
        return key

    return spoil


HEX, ID = "0" * 64, "0" * 16
DEEP: Any = json.loads("[" * 300 + "]" * 300)
DAMAGED: dict[str, Spoil] = {
    "a metric that is a text": set_to(metrics={"acc": "high"}),
    "a metric that is true": set_to(metrics={"acc": True}),
    "a metric beyond all numbers": set_to(metrics={"acc": 10**400}),
    "metrics that are a list": set_to(metrics=[1]),
    "a name that is a number": set_to(name=3),
    "a name with an escape": set_to(name="a\x1b[2Jb"),
    "a name of half a character": set_to(name="\ud800"),
    "a name of a megabyte": set_to(name="x" * 1_000_000),
    "a note that is a table": set_to(note={}),
    "a parent that is a text": set_to(parents=["x"]),
    "a parent of another shape": set_to(parents=[{"name": "x", "digest": "y", "evil": 1}]),
    "a recipe nested deeply": set_to(recipe=DEEP),
    "a file that leaves its folder": manifest(lambda v: v["files"][0].update(path="../../x")),
    "a file with an absolute path": manifest(lambda v: v["files"][0].update(path="/tmp/x")),
    "a file of minus one byte": manifest(lambda v: v["files"][0].update(size=-1)),
    "a file of more bytes than there are": manifest(lambda v: v["files"][0].update(size=2**70)),
    "a tensor of endless shape": manifest(
        lambda v: v["files"][-1]["tensors"][0].__setitem__(2, [2**62, 2**62])
    ),
    "a tensor of an unknown type": manifest(
        lambda v: v["files"][-1]["tensors"][0].__setitem__(1, "Q9")
    ),
    "no files": set_to(files=[]),
    "weights that are not among its files": set_to(main=["other.safetensors"]),
    "no digest": set_to(digest=None),
    "a field that nobody knows": set_to(evil=1),
    "a manifest without fields": written(f"models/{hashlib.sha256(b'{}').hexdigest()}.json", b"{}"),
    "a manifest that is no JSON": written(f"models/{HEX}.json", b"hello"),
    "an empty manifest": written(f"models/{HEX}.json", b""),
    "a flipped bit in a manifest": flipped("models/*.json"),
    "a manifest that is a pipe": special(f"models/{HEX}.json", os.mkfifo),
    "a manifest that is a link": special(
        f"models/{HEX}.json", lambda path: path.symlink_to("/etc/passwd")
    ),
    "a manifest that is a device": special(
        f"models/{HEX}.json", lambda path: path.symlink_to("/dev/zero")
    ),
    "a version that is no JSON": written("lines/other/00000001.json", b"{"),
    "a version in Latin-1": written("lines/other/00000001.json", b'{"model": "\xe9"}'),
    "a version of no event": document("lines/other/00000001.json", event=[]),
    "a version of no model": document("lines/other/00000001.json", model=3),
    "a version with endless scores": document(
        "lines/other/00000001.json", event={"what": "x", "scores": {"t": {"mean": "high"}}}
    ),
    "a version nested deeply": document("lines/other/00000001.json", event={"what": DEEP}),
    "an accepted version of nothing": document(
        "lines/other/00000001.json", event={"what": "accept"}
    ),
    "a version that is a pipe": special("lines/other/00000001.json", os.mkfifo),
    "a proposal that is no JSON": written(f"proposals/{ID}.json", b"\xff\xfe"),
    "a proposal with other fields": document("proposals/ID.json", evil=1),
    "a proposal with a name of a number": document("proposals/ID.json", name=3),
    "a proposal with an escape in its note": document("proposals/ID.json", note="\x1b[2J"),
    "a proposal under another name": document(f"proposals/{ID}.json"),
    "a proposal that is a link": special(
        f"proposals/{ID}.json", lambda path: path.symlink_to("/etc/passwd")
    ),
    "a review that is no JSON": written(f"reviews/{ID}/000001.json", b"[]"),
    "a review that accepts what it refuses": document("reviews/SAME/000002.json", accepted=True),
    "a review with checks of text": document("reviews/SAME/000002.json", checks=["x"]),
    "a review of something else": document(f"reviews/{ID}/000001.json"),
    "a review that is a pipe": special(f"reviews/{ID}/000001.json", os.mkfifo),
    "a mark that is no JSON": written(f"gc/{'0' * 32}.json", b"{"),
    "a mark of paths": written(
        f"gc/{'0' * 32}.json", seal({"schema": 1, "time": 0.0, "blobs": ["../../etc/passwd"]})
    ),
}
STRAYS: dict[str, Spoil] = {
    "a copy of a manifest": written("models/copy.json", b"{}"),
    "a manifest with a suffix": written(f"models/{HEX}.json~", b"{}"),
    "a note of a file manager": written("models/.DS_Store", b"\0\1"),
    "thumbnails among the blobs": written("blobs/ab/Thumbs.db", b"\0\1"),
    "a folder of an editor": written("models/.idea/x.json", b"{}"),
    "a line with a bad name": written("lines/a b/00000001.json", b"{}"),
    "a version with a bad number": written("lines/main/2.json", b"{}"),
    "a backup of a version": written("lines/main/00000001.json.bak", b"{}"),
    "a copy of a proposal": written("proposals/copy (1).json", b"{}"),
    "a note among the reviews": written("reviews/README.md", b"hello"),
    "a text among the marks": written("gc/note.txt", b"hello"),
    "a folder that is a link": special("models/more", lambda path: path.symlink_to("/etc")),
}
NEWER: dict[str, Spoil] = {
    "a manifest of tomorrow": set_to(schema=9),
    "a version of tomorrow": document("lines/other/00000001.json", schema=9),
    "a proposal of tomorrow": document("proposals/ID.json", schema=9),
    "a review of tomorrow": document("reviews/SAME/000002.json", schema=9),
}


def use(place: Path, scratch: Path) -> None:
    """Every command that reads or writes a registry."""
    r = ["-r", place]
    assert "m1 " in works("registry", "log", "--limit", 60, *r)
    works("registry", "log", "--line", "main", *r)
    works("registry", "tree", *r)
    works("registry", "show", "m1", *r)
    works("registry", "diff", "m1", "m2", *r)
    works("registry", "checkout", "m1", "-o", scratch / "out", *r)
    works("registry", "add", weights(scratch / "new", 1234), "--no-infer", *r)
    works("contribute", weights(scratch / "cleo", 4321), *r)
    works("review", "cleo", "--refuse", "no", *r)
    works("registry", "gc", "--grace", 0, *r)
    works("registry", "remove", "new", "--yes", *r)
    works("registry", "reindex", *r)


def page(place: Path) -> str:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from stockpot.web import ServerSettings, make_app

    client = TestClient(make_app(ServerSettings(str(place), ())), base_url="http://127.0.0.1")
    assert client.get("/lines/main").status_code == 200
    answer = client.get("/")
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_entry(place: Path, case: str) -> None:
    key = DAMAGED[case](place)
    if case == "a flipped bit in a manifest":
        # It was whole when it was indexed; a colleague without an index sees it at once.
        works("registry", "reindex", "-r", place)
    said = works("registry", "log", "--limit", 60, "-r", place)
    assert key in said
    assert "m1 " in said
    works("registry", "show", "m1", "-r", place)
    assert key in page(place)
    assert key in works("registry", "verify", "-q", "-r", place, code=1)
    assert key in works("registry", "repair", "-q", "-r", place)
    assert not os.path.lexists(place / key)
    assert os.path.lexists(place / "quarantine" / key)
    assert "left aside" not in works("registry", "log", "-r", place)
    assert "as it was written" in works("registry", "verify", "-q", "-r", place)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*DAMAGED, *STRAYS, *NEWER])
def test_every_command_works_beside_it(place: Path, tmp_path: Path, case: str) -> None:
    {**DAMAGED, **STRAYS, **NEWER}[case](place)
    use(place, tmp_path)


@pytest.mark.parametrize("case", STRAYS)
def test_a_stray_file_disturbs_nothing(place: Path, case: str) -> None:
    key = STRAYS[case](place)
    assert key in works("registry", "verify", "-q", "-r", place)
    if not key.startswith("blobs"):
        assert key in works("registry", "log", "-r", place)
        assert key in page(place)
    works("registry", "repair", "-q", "-r", place)
    assert not os.path.lexists(place / key)
    assert key not in works("registry", "verify", "-q", "-r", place)


@pytest.mark.parametrize("case", NEWER)
def test_what_a_newer_version_wrote_stays(place: Path, case: str) -> None:
    key = NEWER[case](place)
    before = (place / key).read_bytes()
    assert key in works("registry", "log", "-r", place)
    assert "schema 9" in works("registry", "verify", "-q", "-r", place, code=1)
    works("registry", "repair", "-q", "-r", place, code=1)
    assert (place / key).read_bytes() == before


def test_all_of_them_at_once(place: Path, tmp_path: Path) -> None:
    cases = {**DAMAGED, **STRAYS}
    keys = set()
    for spoil in cases.values():
        try:
            keys.add(spoil(place))
        except (FileExistsError, ValueError, KeyError, TypeError):
            continue  # another case took that name, or has spoilt what this one would change
    use(place, tmp_path)
    with Registry(place) as registry:
        named = {entry.key for entry in registry.quarantine()}
        named |= set(verify(registry).strays)
    assert keys <= named
    works("registry", "repair", "-q", "-r", place)
    use(place, tmp_path / "again")
    assert "as it was written" in works("registry", "verify", "-q", "-r", place)


def test_a_new_colleague_has_the_same(registry: Path, tmp_path: Path) -> None:
    """A registry that cannot be written, such as one of others, indexed for the first time."""
    from stockpot.registry.index import Index

    shutil.copytree(registry / "r", tmp_path / "r")
    keys = {DAMAGED[case](tmp_path / "r") for case in list(DAMAGED)[:20]}
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / "r" / f"registry.db{suffix}").unlink(missing_ok=True)
    with Registry(tmp_path / "r") as fresh:
        assert fresh.index.count() == MODELS
        assert keys <= {entry.key for entry in fresh.quarantine()}
        memory = Index(None)
        fresh.index = memory
        assert fresh.reindex() == MODELS


def spoilt(place: Path, cases: list[str]) -> dict[str, bytes]:
    """Keys and bytes of bad entries, as far as an object store can hold them."""
    keys = {}
    for case in cases:
        try:
            key = {**DAMAGED, **STRAYS}[case](place)
        except (FileExistsError, ValueError, KeyError, TypeError):
            continue  # another case took that name, or has spoilt what this one would change
        if (place / key).is_file() and not (place / key).is_symlink():
            keys[key] = (place / key).read_bytes()
    return keys


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([*DAMAGED, *STRAYS], id="all"),
        *(pytest.param([case], id=case) for case in [*DAMAGED, *STRAYS]),
    ],
)
def test_a_new_colleague_on_s3(
    place: Path, tmp_path: Path, bucket: str, cases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a registry of 50 on S3 for the first time works on what is sound."""
    keys = spoilt(place, cases)
    if not keys:
        pytest.skip("an object store holds no pipes and links")
    store = open_store(bucket)
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("registry.db"):
            store.write(path.relative_to(place).as_posix(), [path.read_bytes()])
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "colleague"))
    assert "m1 " in works("registry", "log", "--limit", 60, "-r", bucket)
    works("registry", "checkout", "m1", "-o", tmp_path / "out", "-r", bucket)
    with Registry(bucket) as registry:
        left = {entry.key for entry in registry.quarantine()}
        checked = verify(registry)
        named = {problem.key for problem in checked.problems} | set(checked.strays)
    assert {key for key in keys if not key.startswith("blobs")} <= left
    assert set(keys) <= named
    works("registry", "repair", "-q", "-r", bucket)
    assert {key for key in keys if store.exists(key)} == set()
    assert "as it was written" in works("registry", "verify", "-q", "-r", bucket)


def test_a_lost_version_stops_only_what_needs_it(place: Path, tmp_path: Path) -> None:
    with Registry(place) as registry:
        registry.advance("main", "m1", {"what": "other"})
        registry.advance("main", "m2", {"what": "other"})
    (place / "lines" / "main" / "00000003.json").write_bytes(b"{")
    use(place, tmp_path)
    with Registry(place) as registry:
        assert [version["number"] for version in registry.line("main")] == [1, 2]
        assert registry.advance("main", "m3", {"what": "add"}) == 4
        assert [version["number"] for version in registry.line("main")] == [1, 2, 4]
