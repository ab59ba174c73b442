"""Files that must be refused with one line that names them, by us and whatever libraries accept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.errors import CheckpointError, UnsafeFileError


def crafted(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def tensor(begin: int, end: int, shape=None, dtype="F32", **more) -> dict:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


EIGHT = b"\0" * 8
BAD = {
    "empty file": b"",
    "short": b"\x01\x02",
    "header longer than the file": crafted({}, length=500),
    "header beyond the limit": crafted({}, length=2**62),
    "a pickle": b"\x80\x04\x95" + b"x" * 100,
    "no JSON": crafted(b"{]"),
    "not UTF-8": crafted(b'{"\xff": 1}'),
    "leading space": crafted(b' {"a":1}'),
    "a list": crafted(b"[]"),
    "deep nesting": crafted(b'{"a":' * 100_000),
    "hole": crafted({"a": tensor(4, 8)}, EIGHT),
    "overlap": crafted({"a": tensor(0, 8), "b": tensor(4, 8)}, EIGHT),
    "trailing bytes": crafted({"a": tensor(0, 4)}, EIGHT),
    "missing bytes": crafted({"a": tensor(0, 16)}, EIGHT),
    "shape too large": crafted({"a": tensor(0, 8, [3])}, EIGHT),
    "overflow": crafted({"a": tensor(0, 8, [2**62, 2**62])}, EIGHT),
    "negative shape": crafted({"a": tensor(0, 8, [-2])}, EIGHT),
    "true as a number": crafted({"a": tensor(0, 4, [True])}, b"\0" * 4),
    "fraction in a shape": crafted({"a": tensor(0, 8, [2.0])}, EIGHT),
    "unknown type": crafted({"a": tensor(0, 8, dtype="F4")}, EIGHT),
    "type that is a number": crafted({"a": tensor(0, 8, dtype=3)}, EIGHT),
    "extra field": crafted({"a": tensor(0, 8, code="x")}, EIGHT),
    "missing field": crafted({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "metadata no table": crafted({"__metadata__": [1], "a": tensor(0, 8)}, EIGHT),
    "metadata no texts": crafted({"__metadata__": {"x": 1}, "a": tensor(0, 8)}, EIGHT),
    "a name twice": crafted(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        EIGHT,
    ),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_crafted_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 500
    assert "\n" not in caught.value.message


def test_what_is_odd_but_clear_is_read(tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(crafted({"../../etc/passwd": tensor(0, 8), "empty": tensor(8, 8, [0])}, EIGHT))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.names == ["../../etc/passwd", "empty"]
        assert checkpoint.read("empty").shape == (0,)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    write_checkpoint(inside / "one.safetensors", {"a": np.ones(2)})
    write_checkpoint(inside / "two.safetensors", {"b": np.ones(2)})
    write_checkpoint(tmp_path / "secret.safetensors", {"s": np.ones(2)})
    return inside


def index(folder, content):
    text = content if isinstance(content, str) else json.dumps({"weight_map": content})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder / "model.safetensors.index.json"


def test_shards_beside_their_index_are_read(folder):
    index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.names) == {"a", "b"}


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/../../secret.safetensors",
        "..",
        "",
        "C:\\x.safetensors",
        "..\\secret.safetensors",
        "one.bin",
        "one.safetensors\0",
    ],
)
def test_an_index_cannot_point_elsewhere(folder, shard):
    with pytest.raises(UnsafeFileError, match="shard"):
        open_checkpoint(index(folder, {"s": shard}))


def test_a_shard_cannot_be_a_link_to_elsewhere(folder):
    (folder / "three.safetensors").symlink_to(folder.parent / "secret.safetensors")
    with pytest.raises(UnsafeFileError, match="link"):
        open_checkpoint(index(folder, {"s": "three.safetensors"}))
    (folder / "model.safetensors").symlink_to(folder.parent / "secret.safetensors")
    with pytest.raises(UnsafeFileError, match="link"):
        open_checkpoint(folder)


def test_links_of_a_hub_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_checkpoint(blobs / "0123", {"a": np.ones(2)})
    (snapshot / "model.safetensors").symlink_to(blobs / "0123")
    with open_checkpoint(snapshot) as checkpoint:
        assert checkpoint.names == ["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": "one.safetensors", "x": "one.safetensors"}, "lacks it"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "lacks it|elsewhere"),
        ({"a": "two.safetensors", "b": "one.safetensors"}, "elsewhere"),
        ({"a": "one.safetensors", "c": "nothere.safetensors"}, "missing"),
        ({"a": 3}, "no file name"),
        ({}, "no weight_map"),
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "twice"),
        ("{", "no index"),
        ('{"other": 1}', "no index"),
        ("[]", "no index"),
    ],
)
def test_index_and_shards_must_agree(folder, content, words):
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(index(folder, content))


def test_a_shard_may_hold_nothing_that_is_not_listed(folder):
    write_checkpoint(folder / "one.safetensors", {"a": np.ones(2), "hidden": np.ones(1)})
    with pytest.raises(CheckpointError, match="hidden"):
        open_checkpoint(index(folder, {"a": "one.safetensors"}))


def test_no_tensor_may_be_in_two_shards(folder):
    write_checkpoint(folder / "two.safetensors", {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(CheckpointError, match=r"one.safetensors.*two.safetensors"):
        open_checkpoint(index(folder, {"a": "one.safetensors", "b": "two.safetensors"}))


def test_a_truncated_shard_is_named(folder):
    path = folder / "two.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"two.safetensors.*truncated"):
        open_checkpoint(index(folder, {"a": "one.safetensors", "b": "two.safetensors"}))
