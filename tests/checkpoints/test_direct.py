"""Files written past the page cache hold what was written, in whatever order it came."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stockpot.checkpoints import direct, open_checkpoint, write_checkpoint, writer
from stockpot.checkpoints.direct import DirectFile
from stockpot.merging import merge


def _open(path: Path, size: int) -> DirectFile:
    path.touch()
    try:
        return DirectFile(path, size)
    except OSError:
        pytest.skip("the file system of the temporary folder has no direct writing")


def _written(path: Path, data: bytes, cuts: list[int], order: np.random.Generator) -> bytes:
    """The file after ``data`` was written in pieces that end at ``cuts``, in random order."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = list(itertools.pairwise(edges))
    order.shuffle(pieces)
    file = _open(path, len(data))
    try:
        for start, stop in pieces:
            file.write(memoryview(data)[start:stop], start)
        file.finish()
    finally:
        file.close()
    return path.read_bytes()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.integers(1, 200_000),
    cuts=st.lists(st.integers(0, 200_000), max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_order_of_pieces_gives_the_same_file(tmp_path, monkeypatch, size, cuts, seed):
    monkeypatch.setattr(direct, "SEGMENT", 8192)
    rng = np.random.default_rng(seed)
    data = rng.bytes(size)
    assert _written(tmp_path / "file", data, cuts, rng) == data


def test_more_half_full_segments_than_memory(tmp_path, monkeypatch):
    """The second half of every segment comes after the first half of all of them."""
    monkeypatch.setattr(direct, "SEGMENT", 8192)
    data = np.random.default_rng(0).bytes(100 * 8192 + 77)
    file = _open(tmp_path / "file", len(data))
    for half in (0, 4096):
        for start in range(half, len(data), 8192):
            file.write(memoryview(data)[start : min(start + 4096, len(data))], start)
    file.finish()
    file.close()
    assert (tmp_path / "file").read_bytes() == data


def test_several_threads(tmp_path):
    data = np.random.default_rng(0).bytes((9 << 20) + 5)
    file = _open(tmp_path / "file", len(data))

    def work(first: int) -> None:
        for start in range(first * 70_000, len(data), 3 * 70_000):
            file.write(memoryview(data)[start : start + 70_000], start)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.finish()
    file.close()
    assert (tmp_path / "file").read_bytes() == data


def test_a_full_disk_is_told_to_the_writer(tmp_path, monkeypatch):
    file = _open(tmp_path / "file", 40 << 20)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    file.write(memoryview(bytes(direct.SEGMENT)), 0)
    with pytest.raises(OSError, match="No space"):
        file.finish()
    with pytest.raises(OSError, match="No space"):
        file.write(memoryview(b"abc"), 0)
    file.close()


def test_closing_without_finishing_ends_the_thread(tmp_path):
    file = _open(tmp_path / "file", 1 << 20)
    file.write(memoryview(b"abc"), 0)
    file.close()
    assert not file._thread.is_alive()


@pytest.mark.parametrize("possible", [True, False])
def test_a_merge_has_the_same_bytes_either_way(tmp_path, monkeypatch, possible):
    """With direct writing, and where the file system refuses it."""
    rng = np.random.default_rng(0)
    states = [{f"{i}.w": rng.normal(size=(300, 333)).astype("f4") for i in range(9)} for _ in "ab"]
    for number, state in enumerate(states):
        write_checkpoint(tmp_path / f"{number}.safetensors", state)
    models = [tmp_path / f"{number}.safetensors" for number in range(2)]
    merge(models, output=tmp_path / "cached.safetensors")
    monkeypatch.setattr(writer, "_DIRECT_FROM", 0)
    if not possible:
        monkeypatch.delattr(os, "O_DIRECT")
    merge(models, output=tmp_path / "direct.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("cached", "direct")]
    assert files[0] == files[1]
    merge(models, output=tmp_path / "sharded", max_shard_size=1_000_000)
    with open_checkpoint(tmp_path / "sharded") as sharded, open_checkpoint(models[0]) as first:
        assert sharded.names == first.names


def test_memory_of_the_file_is_filled_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "SEGMENT", 8192)
    data = np.random.default_rng(0).integers(0, 256, 5 * 8192 + 77, dtype=np.uint8)
    file = _open(tmp_path / "file", data.size)
    for start in range(0, data.size, 5000):
        place = start
        for piece in file.room(start, min(5000, data.size - start)):
            assert place // 8192 == (place + piece.size - 1) // 8192
            piece[:] = data[place : place + piece.size]
            place += piece.size
    file.finish()
    file.close()
    assert (tmp_path / "file").read_bytes() == data.tobytes()


def test_a_piece_that_is_not_filled_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "SEGMENT", 8192)
    file = _open(tmp_path / "file", 100 * 8192)

    def fail(number: int) -> None:
        for _ in file.room(number * 8192, 8192):
            raise ValueError("broken")

    for number in range(40):
        with pytest.raises(ValueError, match="broken"):
            fail(number)
    for number in range(40, 100):
        file.write(memoryview(bytes([number]) * 8192), number * 8192)
    file.finish()
    file.close()
    assert (tmp_path / "file").read_bytes()[40 * 8192 :: 8192] == bytes(range(40, 100))


def test_tensors_at_odd_places(tmp_path, monkeypatch):
    from stockpot.checkpoints import TensorInfo, open_checkpoint
    from stockpot.checkpoints.writer import file_writer

    monkeypatch.setattr("stockpot.checkpoints.writer._DIRECT_FROM", 0)
    tensors = {
        "flags": TensorInfo("flags", (3,), "U8"),
        "weight": TensorInfo("weight", (700_000,), "F32"),
    }
    values = np.random.default_rng(0).normal(size=700_000).astype(np.float32)
    with file_writer(tmp_path / "odd.safetensors", tensors, {}) as writer:
        writer.write("flags", 0, np.array([1, 2, 3], np.uint8))
        place = 0
        for piece in writer.room("weight", 0, values.size):
            piece[:] = values[place : place + piece.size]
            place += piece.size
    with open_checkpoint(tmp_path / "odd.safetensors") as back:
        np.testing.assert_array_equal(back.read("weight"), values)
        np.testing.assert_array_equal(back.read("flags"), [1, 2, 3])
