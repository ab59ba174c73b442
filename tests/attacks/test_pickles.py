"""Pickles that hold code: refused, and the code has not run."""

from __future__ import annotations

import pickle

import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, UnsafeFileError


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, legacy):
    target = tmp_path / "ran"
    path = tmp_path / "model.pt"
    content = {"w": torch.ones(2), "x": Payload(str(target))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeFileError, match=r"model.pt would run code"):
        open_checkpoint(path)
    assert not target.exists()


def test_a_plain_pickle_with_code_is_refused(tmp_path):
    target = tmp_path / "ran"
    (tmp_path / "model.bin").write_bytes(pickle.dumps(Payload(str(target))))
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        open_checkpoint(tmp_path / "model.bin")
    assert not target.exists()


def test_a_torchscript_program_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04broken", b"\x80\x04."])
def test_what_is_no_checkpoint_is_one_line(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt") as caught:
        open_checkpoint(tmp_path / "model.pt")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {"model": {"a": 1}}])
def test_a_file_without_a_table_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="no table of tensors"):
        open_checkpoint(tmp_path / "model.pt")
