"""What is written is read again, by us and by the libraries others use."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
import safetensors.torch
import torch

from stockpot.checkpoints import (
    MemoryCheckpoint,
    known_digests,
    open_checkpoint,
    write_checkpoint,
)
from stockpot.checkpoints.open import find_weights, weights_folder
from stockpot.checkpoints.safetensors_file import SafetensorsCheckpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.checkpoints.writer import folder_writer, split_shards
from stockpot.errors import CheckpointError, InputError, OutputError


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(4, 4, generator=generator)
    return {
        "bf16": torch.randn(5, 3, generator=generator).bfloat16(),
        "half": torch.randn(7, generator=generator).half(),
        "double": torch.randn(2, 2, 2, generator=generator).double(),
        "f8": torch.randn(3, generator=generator).to(torch.float8_e4m3fn),
        "counter": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "transposed": square.t(),
        "tied": square,
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert torch.equal(a[name].double(), b[name].double()), name


def test_a_state_survives_and_other_readers_agree(tmp_path, state):
    path = tmp_path / "state.safetensors"
    save_state(path, state, {"who": "me"})
    same(load_state(path), state)
    same(safetensors.torch.load_file(path), state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "who": "me"}
        assert checkpoint.names == list(state)
        assert "bf16" in checkpoint
        assert len(checkpoint) == len(state)
        assert checkpoint.read("bf16").dtype == np.float32


def test_files_of_other_writers_are_read(tmp_path, state):
    plain = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(plain, tmp_path / "theirs.safetensors")
    same(load_state(tmp_path / "theirs.safetensors"), state)


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_checkpoint(tmp_path / "w.safetensors", {"w": np.ones(3)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o644


def test_blocks_put_together_are_the_tensor(tmp_path):
    values = np.arange(1000, dtype=np.float32).reshape(10, 100)
    write_checkpoint(tmp_path / "w.safetensors", {"w": values}, dtypes={"w": "BF16"})
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint:
        blocks = list(checkpoint.blocks("w", 77))
        assert [len(block) for block in blocks] == [77] * 12 + [76]
        np.testing.assert_array_equal(np.concatenate(blocks).reshape(10, 100), checkpoint.read("w"))


@pytest.mark.parametrize("nesting", ["", "state_dict", "model", "model.state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_nested_as_training_scripts_do(tmp_path, state, nesting, legacy):
    if legacy:
        # That format knows no 8-bit floats.
        del state["f8"]
    content = dict(state)
    for key in reversed(nesting.split(".")) if nesting else ():
        content = {key: content, "epoch": 3, "best": None}
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    same(load_state(path), state)


def test_a_digest_depends_on_content_and_not_on_the_container(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    save_state(tmp_path / "b.safetensors", dict(reversed(state.items())))
    with (
        open_checkpoint(tmp_path / "a.pt") as a,
        open_checkpoint(tmp_path / "b.safetensors") as b,
    ):
        digest = a.digest()
        assert digest == b.digest() == MemoryCheckpoint(state).digest()
    state["counter"] = torch.tensor(4)
    assert MemoryCheckpoint(state).digest() != digest


def test_shards_are_written_and_read_as_transformers_names_them(tmp_path):
    state = {f"layer.{i}": np.full((10, 10), i, np.float32) for i in range(5)}
    infos = MemoryCheckpoint(state).tensors
    with folder_writer(tmp_path, infos, {"format": "pt"}, max_shard_size=900) as writer:
        for name in reversed(infos):
            writer.write(name, 50, state[name].reshape(-1)[50:])
            writer.write(name, 0, state[name].reshape(-1)[:50])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 500, "total_size": 2000}
    with open_checkpoint(tmp_path) as checkpoint:
        for name, values in state.items():
            np.testing.assert_array_equal(checkpoint.read(name), values)
    with open_checkpoint(tmp_path / "model.safetensors.index.json") as checkpoint:
        assert set(checkpoint.names) == set(state)


def test_a_tensor_larger_than_a_shard_is_alone():
    infos = MemoryCheckpoint({"a": np.ones(2), "b": np.ones(50), "c": np.ones(2)}).tensors
    assert [list(shard) for shard in split_shards(infos, 100)] == [["a"], ["b"], ["c"]]


def test_sharded_pytorch_files(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-1.bin")
    torch.save({"b": torch.ones(3)}, tmp_path / "pytorch_model-2.bin")
    index = {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    assert {name: t.numel() for name, t in load_state(tmp_path).items()} == {"a": 2, "b": 3}
    path.write_text(json.dumps({"weight_map": {**index, "c": "pytorch_model-1.bin"}}))
    with pytest.raises(CheckpointError, match="'c'"):
        open_checkpoint(tmp_path)


def test_which_file_of_a_folder_is_meant(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        find_weights(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="no weights file"):
        open_checkpoint(tmp_path / "notes.txt")
    write_checkpoint(tmp_path / "b.safetensors", {"w": np.ones(1)})
    assert find_weights(tmp_path).name == "b.safetensors"
    assert weights_folder(tmp_path / "b.safetensors") is None
    write_checkpoint(tmp_path / "a.safetensors", {"w": np.ones(1)})
    with pytest.raises(CheckpointError, match="several"):
        open_checkpoint(tmp_path)
    write_checkpoint(tmp_path / "model.safetensors", {"w": np.ones(1)})
    assert find_weights(tmp_path).name == "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    assert weights_folder(tmp_path / "b.safetensors") == tmp_path == weights_folder(tmp_path)


def test_memory_takes_arrays_only():
    with pytest.raises(CheckpointError, match="'lr'"):
        MemoryCheckpoint({"lr": 0.1})
    with pytest.raises(CheckpointError, match="complex"):
        MemoryCheckpoint({"w": np.zeros(2, np.complex64)})
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        MemoryCheckpoint({"w": np.zeros(2)}).info("x")
    checkpoint = MemoryCheckpoint({"w": np.zeros(2)})
    assert open_checkpoint(checkpoint) is checkpoint


def test_unstorable_arrays_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="complex"):
        write_checkpoint(tmp_path / "w.safetensors", {"w": np.zeros(2, np.complex64)})
    with pytest.raises(CheckpointError, match="'w'"):
        save_state(tmp_path / "w.safetensors", {"w": torch.zeros(2).to_sparse()})
    assert not list(tmp_path.iterdir())


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, {"w": np.ones(3)})

    class Broken(dict):
        def __getitem__(self, name):
            raise InputError("no")

    with pytest.raises(InputError):
        write_checkpoint(path, Broken(w=np.zeros(3), v=np.zeros(3)))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("w"), np.ones(3))


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_checkpoint(tmp_path / "file" / "w.safetensors", {"w": np.ones(3)})


def test_the_hub_is_asked_only_for_what_looks_like_an_id(tmp_path, monkeypatch):
    import stockpot.checkpoints.hub as hub

    asked = []

    def fetch(model_id):
        asked.append(model_id)
        write_checkpoint(tmp_path / "model.safetensors", {"w": np.ones(2)})
        return tmp_path

    monkeypatch.setattr(hub, "fetch_folder", fetch)
    with open_checkpoint("owner/name@main") as checkpoint:
        assert checkpoint.names == ["w"]
        assert checkpoint.label == "owner/name@main"
    assert weights_folder("owner/name") == tmp_path
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint("./owner/name")
    assert asked == ["owner/name@main", "owner/name"]


def test_an_unknown_hub_model_is_one_line(monkeypatch):
    import huggingface_hub

    from stockpot.checkpoints.hub import fetch_folder

    def offline(*args, **kwargs):
        raise OSError("no network\nmany lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="no network"):
        fetch_folder("owner/name")


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, {"w": np.ones(3)})
    counted = []
    hash_tensor = SafetensorsCheckpoint.tensor_digest

    def count(self, name):
        counted.append(name)
        return hash_tensor(self, name)

    monkeypatch.setattr(SafetensorsCheckpoint, "tensor_digest", count)

    def digest():
        with open_checkpoint(path) as checkpoint:
            return checkpoint.digest()

    first = digest()
    assert digest() == first
    assert len(counted) == 2, "a file of this moment may still change unseen"
    monkeypatch.setattr(known_digests, "_SETTLED", -1)
    assert [digest(), digest(), digest()] == [first] * 3
    assert len(counted) == 3
    write_checkpoint(path, {"w": np.zeros(3)})
    assert digest() != first
    write_checkpoint(path, {"w": np.ones(3)})
    assert digest() == first
    (kept,) = (known_digests._place([path]).parent).iterdir()
    kept.write_text("{}")
    assert digest() == first
    monkeypatch.setenv("STOCKPOT_CACHE", "/proc/nowhere")
    assert digest() == first
