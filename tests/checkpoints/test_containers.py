"""What trainers leave: read where it is one model, refused by name where it is not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, UnsafeFileError
from stockpot.merging import merge

PLAIN, SMOOTH = {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"), "DeepSpeed"),
        (("global_step10/mp_rank_00_model_states.pt",), "DeepSpeed"),
        (("rank0.pt", "rank1.pt"), "cut by ranks"),
    ],
)
def test_shares_of_tensors_are_refused_with_what_joins_them(tmp_path, files, said):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "key", ["ema", "state_dict_ema", "model_ema", "ema_state_dict", "avg_model"]
)
@pytest.mark.parametrize("plain", ["state_dict", "model", "module"])
def test_averaged_weights_beside_plain_ones_are_asked_for(tmp_path, key, plain):
    file = tmp_path / "last.ckpt"
    torch.save({plain: PLAIN, key: SMOOTH, "epoch": 3}, file)
    with pytest.raises(CheckpointError, match=f"'{plain}'.*'{key}'") as caught:
        open_checkpoint(file)
    for table, value in ((plain, 0.0), (key, 1.0)):
        assert f"{file}::{table}" in caught.value.hint
        with open_checkpoint(f"{file}::{table}") as checkpoint:
            assert checkpoint.read("w").tolist() == [[value] * 2] * 2
    assert merge([f"{file}::{plain}", f"{file}::{key}"]).state["w"].tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(CheckpointError, match="no table 'other'") as caught:
        open_checkpoint(f"{file}::other")
    assert plain in caught.value.hint


def test_what_lightning_and_deepspeed_write_for_one_model_is_read(tmp_path):
    lightning = {"state_dict": PLAIN, "callbacks": {}, "optimizer_states": [], "epoch": 1}
    torch.save(lightning, tmp_path / "epoch=1.ckpt")
    deepspeed = {"module": PLAIN, "param_shapes": [{"w": (2, 2)}], "dp_world_size": 1}
    torch.save(deepspeed, tmp_path / "mp_rank_00_model_states.pt")
    for name in ("epoch=1.ckpt", "mp_rank_00_model_states.pt"):
        with open_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.names == ["w"]


def test_the_shares_of_zero_3_are_refused(tmp_path):
    state = {"module": {"w": torch.zeros(0)}, "param_shapes": [{"w": (2, 2)}]}
    torch.save(state, tmp_path / "zero.pt")
    with pytest.raises(CheckpointError, match="ZeRO 3"):
        open_checkpoint(tmp_path / "zero.pt")


def save_pieces(folder: Path, tensor: torch.Tensor, cuts: list[tuple[slice, slice]]) -> None:
    """What ranks would write of which each holds a part of a matrix, in two files."""
    folder.mkdir()
    chunks, stored = [], {}
    for number, cut in enumerate(cuts):
        piece = tensor[cut].clone()
        offsets = torch.Size([cut[0].start, cut[1].start])
        file = folder / f"__{number % 2}_0.distcp"
        with file.open("ab") as handle:
            start = handle.tell()
            torch.save(piece, handle)
            info = filesystem._StorageInfo(file.name, start, handle.tell() - start)
        chunks.append(metadata.ChunkStorageMetadata(offsets, piece.shape))
        stored[metadata.MetadataIndex("model.w", offsets)] = info
    properties = metadata.TensorProperties.create_from_tensor(tensor)
    described = metadata.TensorStorageMetadata(properties, tensor.shape, chunks)
    whole = metadata.Metadata({"model.w": described}, {"model.w": ("model", "w")}, stored)
    (folder / ".metadata").write_bytes(pickle.dumps(whole))


CUTS = [(slice(r, r + 3), slice(c, c + 2)) for r in (0, 3) for c in (0, 2)]


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_a_distributed_checkpoint_is_read_as_torch_reads_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4, dtype=torch.bfloat16)).square().sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 3}
    dcp.save(saved, checkpoint_id=tmp_path / "pytorch_model_fsdp_0", no_dist=True)
    (tmp_path / "config.json").write_text("{}")
    read = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    dcp.load({"model": read}, checkpoint_id=tmp_path / "pytorch_model_fsdp_0", no_dist=True)
    for source in (tmp_path, tmp_path / "pytorch_model_fsdp_0"):
        with open_checkpoint(source) as checkpoint:
            assert checkpoint.names == list(read)
            assert checkpoint.home == tmp_path
            for name, value in read.items():
                assert checkpoint.read(name).tolist() == value.tolist()


def test_pieces_of_a_tensor_are_put_together(tmp_path):
    tensor = torch.randn(6, 4)
    save_pieces(tmp_path / "whole", tensor, CUTS)
    assert merge([tmp_path / "whole"]).state["w"].tolist() == tensor.tolist()
    save_pieces(tmp_path / "part", tensor, CUTS[:3])
    with pytest.raises(CheckpointError, match="pieces of 'w' are missing"):
        merge([tmp_path / "part"], output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    (tmp_path / "whole/__1_0.distcp").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="too short"):
        open_checkpoint(tmp_path / "whole")


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("content", [{"state_dict_metadata": Harm()}, Harm()])
def test_the_metadata_of_a_distributed_checkpoint_runs_no_code(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(UnsafeFileError, match="would run code when read"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", pickle.dumps({"a": 1})])
def test_damaged_metadata_are_refused(tmp_path, content):
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\.metadata"):
        open_checkpoint(tmp_path)


def test_deepspeed_of_one_rank_is_read_as_a_folder(tmp_path):
    deepspeed = {"module": PLAIN, "param_shapes": [{"w": (2, 2)}]}
    torch.save(deepspeed, tmp_path / "mp_rank_00_model_states.pt")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names == ["w"]
