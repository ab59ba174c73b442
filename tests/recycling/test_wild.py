"""Weights from the wild: what is trained has to descend from the base, and a doubt is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stockpot.checkpoints.torch_io import save_state
from stockpot.errors import InputError, RecipeError
from stockpot.recycling import recycle
from stockpot.recycling.recipe import parse_recipe
from stockpot.report import terminal_table
from stockpot.report.page import render
from tests.recycling.tiny import net, recipe

FROZEN = {"kind": "function", "name": "tests.recycling.tiny:net", "freeze_below": "2"}


def save_wild(tmp_path: Path, change: Any) -> dict[str, Any]:
    """Save the base's weights after ``change``; the auxiliary that names them."""
    state = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    save_state(tmp_path / "wild.safetensors", change(state))
    return {"name": "wild", "weights": "wild.safetensors"}


def strange(*names: str) -> Any:
    """A change that draws the tensors whose names begin so anew."""

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {
            name: torch.randn(t.shape, generator=generator) if name.startswith(names) else t
            for name, t in state.items()
        }

    return change


def refused(tmp_path: Path, auxiliary: dict[str, Any], **changes: Any) -> str:
    """The message, after which nothing lies in the output."""
    output = tmp_path / "out"
    value = recipe(tmp_path, auxiliaries=[auxiliary], **changes)
    with pytest.raises(InputError) as caught:
        recycle(value, output, root=tmp_path, backend="serial", quiet=True)
    assert not output.exists()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_stranger_above_the_frozen_layers_of_the_base_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, save_wild(tmp_path, strange("2.")), backbone=FROZEN)
    assert "wild.safetensors does not descend from the base" in message
    assert "over 1 layers" in message


def test_permuted_channels_are_refused(tmp_path: Path) -> None:
    def permute(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
        return {
            **state,
            "0.weight": state["0.weight"][order],
            "0.bias": state["0.bias"][order],
            "2.weight": state["2.weight"][:, order],
        }

    message = refused(tmp_path, save_wild(tmp_path, permute))
    assert "channels are permuted in 0.weight, 2.weight" in message


def test_a_doubt_is_refused_unless_the_recipe_accepts_it(tmp_path: Path) -> None:
    auxiliary = save_wild(tmp_path, strange("0."))
    message = refused(tmp_path, auxiliary)
    assert "auxiliary 'wild'" in message
    assert "1 of 2 layers" in message
    assert "accept_doubt: true" in message
    value = recipe(
        tmp_path,
        auxiliaries=[{**auxiliary, "accept_doubt": True}],
        protocols=["linear_probe", "soup_uniform", "ratatouille_uniform"],
    )
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    (evidence,) = done.results.to_json()["wild"]
    assert evidence["name"] == "wild"
    assert evidence["layers"] == 2
    assert "1 of 2 layers" in evidence["doubt"]
    shown = " ".join(terminal_table(done.results).split())
    assert f"Doubt accepted, wild: {evidence['doubt']}" in shown
    assert "Doubt accepted, wild:" in render(done.results)


def test_a_stranger_below_the_trained_layers_is_not_used_and_no_doubt(tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = strange("0.")(state)
        return {**state, "2.weight": state["2.weight"] + 0.01}

    auxiliary = save_wild(tmp_path, change)
    value = recipe(
        tmp_path,
        auxiliaries=[auxiliary],
        backbone=FROZEN,
        protocols=["linear_probe", "ratatouille_uniform"],
    )
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    (evidence,) = done.results.to_json()["wild"]
    assert (evidence["verdict"], evidence["layers"], evidence["doubt"]) == (
        "same ancestor",
        1,
        None,
    )
    assert "Doubt" not in terminal_table(done.results)


def test_accept_doubt_is_about_weights(tmp_path: Path) -> None:
    value = recipe(tmp_path, auxiliaries=[{"name": "turn", "rotation": True, "accept_doubt": True}])
    with pytest.raises(RecipeError, match="'accept_doubt' is about 'weights' from the wild"):
        parse_recipe(value)
