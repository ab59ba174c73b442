"""What was withdrawn from a registry does not come back, under any name, unless readmitted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stockpot.community.contribution import contribute
from stockpot.community.rounds import accept
from stockpot.errors import InputError
from stockpot.registry import add, checkout
from stockpot.registry.checking import verify as verify_registry
from stockpot.registry.registry import Registry, init_registry
from stockpot.tangent import Component, forget
from stockpot.tangent.forgetting.inventory import Derived, record
from tests.tangent.forgetting.audited import World, south_again


def registry_with_south(world: World, place: Path) -> str:
    """A registry whose line has the base, and to which south was contributed; its model's id."""
    (base,) = (world.run / "work").glob("base-*.safetensors")
    with init_registry(place) as registry:
        registry.advance("main", add(registry, base).id, {"what": "start", "words": "start"})
        found = contribute(registry, world.run / "components" / "south.safetensors", name="south")
        entry = Derived(path=str(place), kind="registry entry", shards=("south",), id=found.model)
    record(world.run, [entry])
    return found.model


def test_what_was_withdrawn_from_a_registry_stays_out(world, tmp_path) -> None:
    south_again(world)
    place, backup = tmp_path / "registry", tmp_path / "backup"
    model = registry_with_south(world, place)
    shutil.copytree(place, backup)
    done = forget(world.recipe, world.run, ["south"], quiet=True)
    assert "registry entry" in {one.kind for one in done.certificate.erased}
    south = world.stolen / "components" / "south.safetensors"
    west = replace(Component.load(south), task="west", data_fingerprint="0" * 64)
    others = [west.save(tmp_path / "west.safetensors"), world.folder / "before-sum.safetensors"]
    with Registry(place) as registry:
        assert not verify_registry(registry).problems
        assert "south" not in {row.name for row in registry.index.rows()}
        for source in (south, *others):
            with pytest.raises(InputError, match="was withdrawn from"):
                contribute(registry, source)
        with pytest.raises(InputError, match="was withdrawn from"):
            add(registry, south)
    # Somebody puts back what a backup of the registry has.
    for folder in ("models", "proposals", "blobs"):
        shutil.copytree(backup / folder, place / folder, dirs_exist_ok=True)
    with Registry(place) as registry:
        with pytest.raises(InputError, match="was withdrawn from"):
            checkout(registry, model, tmp_path / "south.safetensors")
        with pytest.raises(InputError, match="was withdrawn from"):
            accept(registry, ["south"], method="tangent", force=True)
        assert not (tmp_path / "south.safetensors").exists()
        contribute(registry, south, name="south", readmit=True)
        checkout(registry, model, tmp_path / "south.safetensors")
        assert Component.load(tmp_path / "south.safetensors").task == "south"
