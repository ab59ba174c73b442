"""What other commands write about their models is read."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import stockpot  # noqa: E402
from stockpot.checkpoints.torch_io import save_state  # noqa: E402
from stockpot.registry import add, init_registry  # noqa: E402
from tests.recycling.tiny import net, recipe  # noqa: E402


@pytest.mark.slow
def test_a_recycled_model_finds_its_base(tmp_path: Path) -> None:
    done = stockpot.recycle(
        recipe(tmp_path, protocols=["erm", "soup_uniform"], runs=2, auxiliaries=[]),
        root=tmp_path,
        output=tmp_path / "out",
    )
    (tmp_path / "base").mkdir()
    save_state(tmp_path / "base" / "model.safetensors", net().state_dict())
    with init_registry(tmp_path / "registry") as registry:
        add(registry, tmp_path / "base")
        found = add(registry, done.model).manifest
        assert {row.name for row in registry.ancestors(found.id)} == {"base"}
        assert [link.role for link in found.parents if link.model] == ["base"]
        assert found.recipe["title"] == "Tiny"
        assert found.data is not None
        assert 0.0 <= found.metrics["id_accuracy"] <= 1.0
        assert registry.checkpoint(found.id).digest() == found.digest
