"""Stores: a folder, memory, and an S3 server on this machine."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from stockpot.errors import InputError, MissingDependencyError, StockpotError
from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.registry import store as stores
from stockpot.registry.checking import verify
from stockpot.registry.collecting import gc
from stockpot.registry.store import LocalStore, RemoteStore, open_store
from tests.registry.models import BASE, files, moved, write_model


@pytest.fixture(scope="module")
def server():
    """moto's S3 on loopback: a real HTTP server, spoken to by s3fs."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    running.start()
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{time.time_ns()}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/registry"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return str(tmp_path / "registry")
    if request.param == "memory":
        pytest.importorskip("fsspec")
        return f"memory://registry-{tmp_path.name}"
    return str(request.getfixturevalue("bucket"))


def test_stores_keep_keys(place: str) -> None:
    store = open_store(place)
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    store.write("a/b", [b"one", b"two"])
    store.write("a/c/d", [b""])
    store.flush()
    assert store.read("a/b") == b"onetwo"
    assert store.read("a/b", 4) == b"onet"
    assert store.keys("a") == ["a/b", "a/c/d"]
    assert store.keys("nothing") == []
    assert (store.exists("a/b"), store.exists("a/x")) == (True, False)
    size, written = store.stat("a/b")
    assert size == 6
    assert abs(time.time() - written) < 5
    with pytest.raises(FileExistsError):
        store.write("a/b", [b"three"], exclusive=True)
    store.write("a/b", [b"three"])
    assert store.read("a/b") == b"three"
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_of_many_exclusive_writers_one_succeeds(place: str) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        try:
            open_store(place).write("x/one", [b"%d" % number], exclusive=True)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert open_store(place).read("x/one") == b"%d" % won[0]


def test_locks_shut_out(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_WAIT", 0.3)
    one, two = open_store(place), open_store(place)
    with one.lock(exclusive=False), two.lock(exclusive=False) as renew:
        renew()
        with pytest.raises(StockpotError, match="is writing"), one.lock(exclusive=True):
            pass
    with one.lock(exclusive=True):
        for exclusive in (False, True):
            with pytest.raises(StockpotError, match="busy"), two.lock(exclusive=exclusive):
                pass
    with two.lock(exclusive=True):
        pass


def test_a_lease_of_the_dead_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    store = RemoteStore(f"memory://dead-{tmp_path.name}")
    store.write("leases/alone", [b"lease"])
    store.write("leases/writer-x", [b"lease"])
    monkeypatch.setattr(stores, "_WAIT", 0.3)
    with pytest.raises(StockpotError, match="busy"), store.lock(exclusive=False):
        pass
    monkeypatch.setattr(stores, "_LEASE", 0.05)
    time.sleep(0.1)
    assert store.leftovers() == ["leases/alone", "leases/writer-x"]
    monkeypatch.setattr(stores, "_LEASE", 0.4)
    time.sleep(0.4)
    with store.lock(exclusive=True) as renew:
        time.sleep(0.1)
        renew()


def test_a_registry_lives_anywhere(place: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", BASE)
    tuned = write_model(tmp_path / "tuned", moved(BASE, 1))
    with init_registry(place) as registry:
        add(registry, base)
    with Registry(place) as registry:
        done = add(registry, tuned, parents=["base"])
        registry.advance("main", "tuned", {"what": "start"})
        assert done.codecs["delta"] > 5
    with init_registry(place) as registry:
        assert registry.find("main") == done.id
        checkout(registry, "main", tmp_path / "out")
        assert files(tmp_path / "out") == files(tuned)
        assert verify(registry).problems == ()
        add(registry, write_model(tmp_path / "gone", moved(BASE, 2)), parents=["base"])
        registry.remove("gone")
        # Times of objects have whole seconds on S3.
        assert gc(registry, grace=3600).removed == 0
        time.sleep(1.1)
        assert gc(registry, grace=0).removed > 0
        assert verify(registry).problems == ()
        assert verify(registry).unused == 0


def test_unknown_places_are_said(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(StockpotError, match="nosuch"):
        open_store("nosuch://x/y")
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    with pytest.raises(InputError, match="holds no registry"):
        Registry(f"memory://empty-{tmp_path.name}")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"stockpot\[registry\]"):
        open_store("s3://bucket/x")


def test_a_read_only_registry_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path / "cache"))
    with init_registry(tmp_path / "r") as registry:
        add(registry, write_model(tmp_path / "m", BASE))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    for path in (tmp_path / "r").glob("registry.db*"):
        path.unlink()
    with Registry(tmp_path / "r") as registry:
        assert [row.name for row in registry.index.rows()] == ["m"]
    assert not (tmp_path / "r" / "registry.db").exists()
