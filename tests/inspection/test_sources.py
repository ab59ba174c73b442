"""Models are called what a person would call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.inspection import check_lineage, compare
from stockpot.inspection.sources import name_sources, short_name
from tests.inspection.models import fresh, tuned


def test_generic_names_give_way_to_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tuned-on-tweets" / "model"
    write_checkpoint(folder / "model.safetensors", {"w": np.ones((8, 8), np.float32)})
    assert short_name(folder / "model.safetensors") == "tuned-on-tweets"
    assert short_name(folder) == "tuned-on-tweets"
    assert short_name("owner/name") == "name"


def test_equal_names_are_told_apart() -> None:
    named = name_sources(["a/final", "b/final", {"w": np.ones(1)}, "b/final"])
    assert list(named) == ["a/final", "b/final", "model 3", "b/final (2)"]


def test_files_and_states_and_open_checkpoints_are_the_same_to_us(tmp_path: Path) -> None:
    base, other = fresh(0), tuned(fresh(0), 1)
    for name, state in (("base", base), ("other", other)):
        write_checkpoint(tmp_path / f"{name}.safetensors", state)
    files = [tmp_path / "base.safetensors", str(tmp_path / "other.safetensors")]
    from_files = compare(files)
    assert [model.name for model in from_files.models] == ["base.safetensors", "other.safetensors"]
    from_memory = compare({"base.safetensors": base, "other.safetensors": other})
    by_name = {layer.name: layer for layer in from_files.layers}
    assert all(by_name[layer.name] == layer for layer in from_memory.layers)
    with open_checkpoint(files[0]) as opened:
        assert compare([opened, files[1]]).to_json() == from_files.to_json()
        assert opened.read("head.bias").shape == (10,)  # left open for its owner
    assert check_lineage(*files).verdict == "same ancestor"


def test_base_and_model_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for place in ("old", "new"):
        write_checkpoint(tmp_path / place / "net.safetensors", fresh(0))
    found = compare([tmp_path / "new/net.safetensors"], base=tmp_path / "old/net.safetensors")
    assert [model.name for model in found.models] == ["net.safetensors (base)", "net.safetensors"]
