"""What trainers leave: read where it is one model, refused by name where it is not."""

from __future__ import annotations

import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError
from stockpot.merging import merge

PLAIN, SMOOTH = {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("__0_0.distcp", ".metadata"), "DCP"),
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
