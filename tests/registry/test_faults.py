"""kill -9 at every write, writers side by side, flipped bits, and garbage collection."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import CheckpointError, StockpotError
from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.registry.checking import verify
from stockpot.registry.collecting import gc
from stockpot.registry.registry import blob_key
from stockpot.registry.store import LocalStore
from tests.registry.models import BASE, State, files, moved, write_model

SMALL: State = {name: BASE[name] for name in ("blocks.0.fc.weight", "head.bias")}
_WRITES = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir")


def killed_at(step: int, torn: bool, work: Callable[[], None]) -> bool:
    """Run ``work`` in a child that dies by SIGKILL before its ``step``-th write; True if it did.

    Every call that changes the disk counts, and the writes of the index. ``torn``: a write that is
    hit puts half of its bytes down first.
    """
    child = os.fork()
    if child == 0:
        done = 0

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **keywords: object) -> object:
                nonlocal done
                reads = name == "open" and not int(args[1]) & (os.O_WRONLY | os.O_RDWR)  # type: ignore[call-overload]
                if not reads:
                    if done == step:
                        if torn and name == "write":
                            real(args[0], memoryview(args[1])[: len(args[1]) // 2])  # type: ignore[arg-type]
                        die()
                    done += 1
                return real(*args, **keywords)

            return call

        for name in _WRITES:
            setattr(os, name, counted(name, getattr(os, name)))
        from stockpot.registry.index import Index

        Index.insert = counted("insert", Index.insert)  # type: ignore[method-assign, assignment]
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("torn", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kill_at_every_write_of_add_loses_nothing(tmp_path: Path, torn: bool) -> None:
    base = write_model(tmp_path / "base", SMALL)
    tuned = write_model(tmp_path / "tuned", moved(SMALL, 1))
    for name in ("vocab.txt", "config.json"):
        (tuned / name).unlink()
    with init_registry(tmp_path / "start") as registry:
        add(registry, base)
    step, survived = 0, False
    while not survived:
        place = tmp_path / "registry"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "start", place)

        def work(place: Path = place) -> None:
            with Registry(place) as registry:
                add(registry, tuned, parents=["base"], threads=1)

        survived = not killed_at(step, torn, work)
        with Registry(place) as registry:
            assert verify(registry, threads=1).problems == (), step
            names = {row.name for row in registry.index.rows()}
            assert names in ({"base"}, {"base", "tuned"}), step
            assert "tuned" in names or not survived
            done = add(registry, tuned, parents=["base"], threads=1)
            assert done.new == ("tuned" not in names)
            checkout(registry, "tuned", tmp_path / f"out{torn}{step}", threads=1)
            assert files(tmp_path / f"out{torn}{step}") == files(tuned), step
            collected = gc(registry, grace=0)
            assert collected.removed == 0, step  # adding again took up what was there
            assert registry.store.keys("tmp") == []
            assert verify(registry, threads=1).unused == 0
        step += 1
    assert step > 30


def test_kill_at_every_write_of_gc_keeps_what_is_needed(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", SMALL)
    tuned = write_model(tmp_path / "tuned", moved(SMALL, 1))
    with init_registry(tmp_path / "start") as registry:
        add(registry, base)
        add(registry, tuned, parents=["base"])
        add(registry, write_model(tmp_path / "gone", moved(SMALL, 2)), parents=["base"])
        registry.remove("gone")
    step, survived = 0, False
    while not survived:
        place = tmp_path / "registry"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "start", place)

        def work(place: Path = place) -> None:
            with Registry(place) as registry:
                gc(registry, grace=0)

        survived = not killed_at(step, False, work)
        with Registry(place) as registry:
            assert verify(registry, threads=1).problems == ()
            gc(registry, grace=0)
            assert verify(registry, threads=1).unused == 0
            for model in (base, tuned):
                checkout(registry, model.name, tmp_path / f"{model.name}{step}", threads=1)
                assert files(tmp_path / f"{model.name}{step}") == files(model)
        step += 1
    assert step > 8


_WRITER = """
import sys
from pathlib import Path
from stockpot.registry import Registry, add
place, models = sys.argv[1], sys.argv[2:]
for model in models:
    with Registry(place) as registry:
        add(registry, model, parents=["base"], threads=2)
"""


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """Two write models that share most tensors, a third collects garbage all the time."""
    place = tmp_path / "registry"
    with init_registry(place) as registry:
        add(registry, write_model(tmp_path / "base", BASE))
    shared = moved(BASE, 7)
    groups = []
    for writer in range(2):
        group = []
        for number in range(6):
            state = {**shared, "head.bias": np.full(10, 10 * writer + number, "f4")}
            group.append(write_model(tmp_path / f"w{writer}n{number}", state))
        groups.append(group)
    running = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(place), *map(str, group)])
        for group in groups
    ]
    collected = 0
    with Registry(place) as registry:
        while any(process.poll() is None for process in running):
            gc(registry, grace=0)
            collected += 1
    assert [process.wait() for process in running] == [0, 0]
    assert collected > 0
    with Registry(place) as registry:
        assert verify(registry).problems == ()
        assert registry.index.count() == 13
        for model in (path for group in groups for path in group):
            checkout(registry, model.name, tmp_path / "out" / model.name)
            assert files(tmp_path / "out" / model.name) == files(model)


def test_of_two_that_advance_a_line_one_wins(tmp_path: Path) -> None:
    with init_registry(tmp_path / "r") as one, Registry(tmp_path / "r") as two:
        add(one, write_model(tmp_path / "m", SMALL))
        one.advance("main", "m", {"what": "one"}, after=0)
        with pytest.raises(StockpotError, match="somebody else"):
            two.advance("main", "m", {"what": "two"}, after=0)
        two.advance("main", "m", {"what": "two"}, after=1)
        assert [version["event"]["what"] for version in one.line("main")] == ["one", "two"]


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    with init_registry(place) as registry:
        add(registry, write_model(tmp_path / "base", SMALL))
        add(registry, write_model(tmp_path / "tuned", moved(SMALL, 1)), parents=["base"])
        registry.advance("main", "tuned", {"what": "start"})
        registry.advance("main", "base", {"what": "back"})
        assert verify(registry).problems == ()
    draw = np.random.default_rng(0)
    flipped = 0
    for path in sorted(place.rglob("*")):
        if (
            not path.is_file()
            or path.name in ("lock", "registry.json")
            or "registry.db" in path.name
        ):
            continue
        whole = path.read_bytes()
        header = draw.integers(0, min(len(whole), 72), 14)
        spots = {*header.tolist(), *draw.integers(0, len(whole), 6).tolist(), len(whole) - 1}
        for spot in sorted(spots):
            damaged = bytearray(whole)
            damaged[spot] ^= 1 << int(draw.integers(8))
            path.write_bytes(damaged)
            key = path.relative_to(place).as_posix()
            with Registry.__new__(Registry) as registry:
                _open_without_index(registry, place)
                problems = verify(registry, threads=1, index=False).problems
            assert any(problem.key == key for problem in problems), (key, spot)
            flipped += 1
        path.write_bytes(whole)
    assert flipped > 150
    with Registry(place) as registry:
        assert verify(registry).problems == ()


def _open_without_index(registry: Registry, place: Path) -> None:
    from stockpot.registry.index import Index

    registry.store = LocalStore(place)
    registry.label = str(place)
    registry.index = Index(None)


def test_a_flipped_bit_in_the_index_or_head_of_the_registry_is_found(tmp_path: Path) -> None:
    place = tmp_path / "registry"
    with init_registry(place) as registry:
        add(registry, write_model(tmp_path / "base", SMALL))
        registry.index._db.execute("UPDATE models SET name = 'other'")
        problems = verify(registry).problems
        assert [problem.key for problem in problems] == ["registry.db"]
        registry.reindex()
        assert verify(registry).problems == ()
    whole = (place / "registry.json").read_bytes()
    (place / "registry.json").write_bytes(whole.replace(b"registry", b"registrx"))
    with pytest.raises(CheckpointError, match="damaged"):
        Registry(place)


def test_missing_and_misplaced_files_are_found(tmp_path: Path) -> None:
    with init_registry(tmp_path / "r") as registry:
        done = add(registry, write_model(tmp_path / "m", SMALL))
        names = [stored.blob for stored in done.manifest.tensors().values()]
        root = registry.store.root  # type: ignore[attr-defined]
        (root / blob_key(names[0])).unlink()
        (root / blob_key(names[1])).rename(root / "blobs" / names[1])
        found = {problem.key: problem for problem in verify(registry).problems}
        assert "missing" in found[blob_key(names[0])].what
        assert "wrong place" in found[f"blobs/{names[1]}"].what
        assert any("m " in model for model in found[blob_key(names[0])].models)
        with pytest.raises(CheckpointError, match="is missing"):
            checkout(registry, "m", tmp_path / "out")
        with pytest.raises(CheckpointError, match="nothing was removed"):
            gc(registry, grace=0)


def test_gc_waits_and_keeps_the_bases_of_differences(tmp_path: Path) -> None:
    with init_registry(tmp_path / "r") as registry:
        base = write_model(tmp_path / "base", BASE)
        tuned = write_model(tmp_path / "tuned", moved(BASE, 1))
        add(registry, base)
        add(registry, tuned, parents=["base"])
        registry.remove("base")
        assert gc(registry, dry_run=True).marked > 0  # its vectors and files, not its matrices
        first = gc(registry, grace=3600)
        assert (first.marked > 0, first.removed) == (True, 0)
        # Between the phases somebody needs the blobs again.
        add(registry, base)
        assert gc(registry, grace=0).removed == 0
        registry.remove("base")
        time.sleep(0.02)
        assert gc(registry, grace=0).removed > 0
        assert verify(registry).problems == ()
        checkout(registry, "tuned", tmp_path / "out")
        assert files(tmp_path / "out") == files(tuned)
        add(registry, base)
        checkout(registry, "base", tmp_path / "out-base")
        assert files(tmp_path / "out-base") == files(base)


def test_gc_sweeps_alone(tmp_path: Path) -> None:
    with init_registry(tmp_path / "r") as registry:
        other = LocalStore(tmp_path / "r")
        import stockpot.registry.store as store

        wait, store._WAIT = store._WAIT, 0.05
        try:
            with other.lock(exclusive=False), pytest.raises(StockpotError, match="is writing"):
                gc(registry, grace=0)
            with other.lock(exclusive=True), pytest.raises(StockpotError, match="collected"):
                add(registry, write_model(tmp_path / "m", SMALL))
        finally:
            store._WAIT = wait
