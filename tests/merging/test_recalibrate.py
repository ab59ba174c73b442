"""BatchNorm statistics after a merge are those of the data again."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import CheckpointError, InputError
from stockpot.merging.recalibrate import recalibrate, recalibrate_output


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Dropout(), nn.Linear(8, 2)
    )


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_statistics_are_the_plain_average_over_the_batches(wrap):
    model = network().train()
    batches = [torch.randn(32, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    assert recalibrate(model, [wrap(batch) for batch in batches]) == 1
    hidden = [model[0](batch).detach() for batch in batches]
    layer = model[1]
    torch.testing.assert_close(layer.running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert layer.momentum == 0.3
    assert model.training
    assert layer.training
    assert layer.num_batches_tracked == 5


def test_no_batches_is_an_error_and_no_layers_is_none():
    with pytest.raises(InputError, match="no batches"):
        recalibrate(network(), [])
    assert recalibrate(nn.Linear(2, 2), []) == 0


def test_an_output_is_recalibrated_by_a_function_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)\n"
        "    return nn.Sequential(*layers), [torch.ones(16, 4)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    state = network().state_dict() | {"head.extra": torch.ones(2)}
    save_state(tmp_path / "m.safetensors", state)
    assert recalibrate_output(tmp_path / "m.safetensors", "mine:make") == 1
    after = load_state(tmp_path / "m.safetensors")
    hidden = state["0.weight"].sum(1) + state["0.bias"]
    torch.testing.assert_close(after["1.running_mean"], hidden)
    assert torch.equal(after["0.weight"], state["0.weight"])
    assert torch.equal(after["head.extra"], state["head.extra"])
    with pytest.raises(InputError, match="mine:other"):
        recalibrate_output(tmp_path / "m.safetensors", "mine:other")
    save_state(tmp_path / "n.safetensors", {"0.weight": state["0.weight"]})
    with pytest.raises(CheckpointError, match=r"lacks '0\.bias'"):
        recalibrate_output(tmp_path / "n.safetensors", "mine:make")
    del sys.modules["mine"]
