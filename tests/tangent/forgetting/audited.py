"""A run whose site south withdrew, and what a hostile maintainer does to its folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.files import digest, write_json
from stockpot.tangent import Component, compose, forget, train
from tests.tangent.core.world import write_world


@dataclass(frozen=True)
class World:
    """A run after the removal of south: its folder, its recipe, and what south had left."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "out"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def certificate(self) -> Path:
        return self.run / "forgotten-south.json"

    @property
    def stolen(self) -> Path:
        """The run as it was before, which the maintainer kept."""
        return self.folder / "before"

    @property
    def removed(self) -> Component:
        return Component.load(self.stolen / "components" / "south.safetensors")

    @property
    def east(self) -> Path:
        return self.run / "components" / "east.safetensors"


def make_world(folder: Path, **changes: Any) -> World:
    """Train three sites, sum them, withdraw one, delete its rows, and keep all that was there."""
    folder.mkdir()
    recipe = write_world(folder, training={"epochs": 2, "learning_rate": 0.01}, **changes)
    train(recipe, folder / "out", backend="serial", quiet=True)
    compose([folder / "out"], folder / "sum.safetensors")
    shutil.copytree(folder / "out", folder / "before")
    shutil.copy(folder / "sum.safetensors", folder / "before-sum.safetensors")
    shutil.copy(folder / "data.npz", folder / "all.npz")
    key = folder / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(command, check=True)
    public = key.with_suffix(".pub").read_text().split()
    (folder / "signers").write_text(f"officer@example.org {public[0]} {public[1]}\n")
    forget(recipe, folder / "out", ["south"], retrain=True, sign=key, quiet=True)
    delete_rows(folder, "south")
    return World(folder)


def delete_rows(folder: Path, name: str) -> None:
    with np.load(folder / "data.npz") as stored:
        kept = stored["domains"] != name
        arrays = {key: stored[key][kept] for key in stored.files}
    np.savez(folder / "data.npz", **arrays)


def copy_to(path: str) -> Callable[[World], None]:
    def attack(world: World) -> None:
        target = world.run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.stolen / "components" / "south.safetensors", target)

    return attack


def save_as(path: str, change: Callable[[World], Component]) -> Callable[[World], None]:
    return lambda world: change(world).save(world.run / path) and None


def restore(path: str) -> Callable[[World], None]:
    def attack(world: World) -> None:
        old, new = world.stolen / path, world.run / path
        if old.is_dir():
            shutil.copytree(old, new, dirs_exist_ok=True)
        else:
            shutil.copy(old, new)

    return attack


def rewrite(path: Path, value: dict[str, Any]) -> None:
    """Write a forged certificate, with the hash that fits it."""
    content = {key: part for key, part in value.items() if key != "digest"}
    write_json(path, {**content, "digest": digest(content)})


def south_again(world: World) -> World:
    """The folder from before the removal, with all rows."""
    shutil.rmtree(world.run)
    shutil.copytree(world.stolen, world.run)
    shutil.copy(world.folder / "all.npz", world.folder / "data.npz")
    shutil.copy(world.folder / "before-sum.safetensors", world.folder / "sum.safetensors")
    inventory = world.run / "inventory.json"
    value = json.loads(inventory.read_text())
    for one in value["derived"]:
        if one["kind"] == "composition":  # of this folder, not of the one that it is a copy of
            one["path"] = str(world.folder / "sum.safetensors")
    write_json(inventory, value)
    return world
