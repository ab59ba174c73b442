"""Hostile weights under every command that reads weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stockpot.checkpoints import open_checkpoint, write_checkpoint  # noqa: E402
from stockpot.checkpoints.torch_io import save_state  # noqa: E402
from stockpot.errors import CheckpointError  # noqa: E402
from stockpot.registry import Registry, add, init_registry  # noqa: E402
from tests.attacks.judge import refused  # noqa: E402
from tests.attacks.weights import PICKLES, TENSORS, rezipped, saved  # noqa: E402

Run = Callable[[Path, Path], list[object]]


def merge(root: Path, bad: Path) -> list[object]:
    return ["merge", root / "good", bad, "-o", root / "out"]


def inspect(root: Path, bad: Path) -> list[object]:
    return ["inspect", root / "good", bad]


def contribute(root: Path, bad: Path) -> list[object]:
    return ["contribute", bad, "-r", root / "registry"]


def add_model(root: Path, bad: Path) -> list[object]:
    return ["registry", "add", bad, "-r", root / "registry"]


def land(root: Path, bad: Path) -> list[object]:
    return ["registry", "land", bad, "-r", root / "registry"]


COMMANDS: dict[str, Run] = {
    "merge": merge,
    "inspect": inspect,
    "registry add": add_model,
    "registry land": land,
    "contribute": contribute,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    (root / "good").mkdir()
    write_checkpoint(root / "good" / "model.safetensors", {"a": np.ones(2, "f4")})
    with init_registry(root / "registry") as registry:
        add(registry, root / "good")
        registry.advance("main", "good", {"what": "add"})
    return root


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", TENSORS)
def test_safetensors(root: Path, command: str, case: str) -> None:
    bad = root / "bad.safetensors"
    bad.write_bytes(TENSORS[case])
    refused(root, *COMMANDS[command](root, bad), names="bad.safetensors")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", PICKLES)
def test_pytorch_files(root: Path, command: str, case: str) -> None:
    bad = root / "bad.pt"
    PICKLES[case](bad)
    refused(root, *COMMANDS[command](root, bad), names="bad.pt", changes=("registry/lock",))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "folder of a pipe"])
def test_what_is_no_file(root: Path, tmp_path: Path, command: str, kind: str) -> None:
    import os

    bad = tmp_path / "bad.safetensors"
    if kind == "device":
        bad.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(bad)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        bad.symlink_to("pipe")
    else:
        bad = tmp_path / "bad"
        bad.mkdir()
        os.mkfifo(bad / "model.safetensors")
    refused(tmp_path, *COMMANDS[command](root, bad), names="bad")


STATE = {"a.weight": np.arange(64, dtype="f4"), "b": np.ones(32, "f4")}


@pytest.mark.parametrize("method", ["stored", "deflated"])
def test_a_file_that_was_zipped_again_is_read_as_it_is(tmp_path: Path, method: str) -> None:
    import zipfile

    compression = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[method]
    rezipped(lambda records: None, compression=compression)(tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.names == list(STATE)
        for name, values in STATE.items():
            np.testing.assert_array_equal(checkpoint.read(name), values)


def test_every_kind_of_tensor_that_is_kept_comes_back(tmp_path: Path) -> None:
    """32 tensors of all types, mapped and read through: the same bits."""
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    kinds += [torch.float64, torch.int8]
    state = {
        f"{str(kind)[6:]}.{number}": torch.arange(number + 3).to(kind)
        for kind in kinds
        for number in range(4)
    }
    torch.save(state, tmp_path / "plain.pt")
    import io
    import zipfile

    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    save_state(tmp_path / "kept.safetensors", state)
    digests = set()
    for file in ("plain.pt", "deflated.pt", "kept.safetensors"):
        with open_checkpoint(tmp_path / file) as checkpoint:
            assert len(checkpoint) == 32
            digests.add(checkpoint.digest())
    assert len(digests) == 1
    assert io.BytesIO


def test_an_optimizer_beside_the_weights_is_left_out(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3}
    saved(state)(tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.names == ["a"]


def test_a_tensor_called_metadata_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="__metadata__"):
        write_checkpoint(tmp_path / "x.safetensors", {"__metadata__": np.ones(2)})
    with pytest.raises(CheckpointError, match="__metadata__"):
        save_state(tmp_path / "x.safetensors", {"__metadata__": torch.ones(2)})
    assert not list(tmp_path.iterdir())


CONFIGS = {
    "no JSON": "{",
    "nested deeply": "[" * 100_000,
    "a number of 5000 digits": '{"vocab_size": ' + "9" * 5000 + "}",
    "not UTF-8": b"{\xff}",
}


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("file", ["model.safetensors.index.json", "adapter_config.json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_json_beside_weights(
    root: Path, tmp_path: Path, command: str, file: str, case: str
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    text = CONFIGS[case]
    (bad / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    if file == "adapter_config.json":
        write_checkpoint(bad / "adapter_model.safetensors", {"a": np.ones(2)})
        if command in ("registry add", "registry land", "contribute"):
            pytest.skip("an adapter is stored as it is")
    refused(tmp_path, *COMMANDS[command](root, bad), names=file)


def test_nothing_came_into_the_registry(root: Path) -> None:
    """After all of the above."""
    with Registry(root / "registry") as registry:
        assert registry.index.count() == 1
        assert not registry.quarantine()
    assert json.loads((root / "registry" / "registry.json").read_text())["schema"] == 1
