"""Images below a cut: after a withdrawal no pixel and no activation of the site is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from stockpot.tangent import evaluate, forget, train, verify
from stockpot.tangent.opened import open_run
from stockpot.tangent.rows import content_hashes
from stockpot.tasks.images import decode_image
from tests.tangent.core.test_command import run

NET = """\
import torch
from torch import nn


def net():
    generator = torch.Generator().manual_seed(7)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    layers.feature_dim, layers.input_shape = 4, (3, 16, 16)
    return layers
"""
SITES = ("east", "north", "south")


@pytest.fixture(params=["average", "statistics"])
def recipe(request, tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for site in SITES:
        for label, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "photos" / site / label
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = generator.integers(-50, 50, (16, 16, 3)) + level
                image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "net.py").write_text(NET)
    composer = {"kind": request.param}
    if request.param == "statistics":
        composer |= {"dimension": 16, "random_dimension": 16, "directions": 1, "blocks": 2}
    value = {
        "task": {"kind": "images", "path": "photos", "size": 16},
        "backbone": {"kind": "function", "name": "net.py:net", "freeze_below": "2"},
        "training": {"epochs": 2, "learning_rate": 0.01},
        "composer": composer,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def traces(folder: Path, photos: Path) -> list[Path]:
    """Files in ``folder`` that hold the pixels of a picture, as they are decoded."""
    from PIL import Image

    pictures = [np.asarray(Image.open(p).convert("RGB")).tobytes() for p in photos.rglob("*.png")]
    contents = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return [f for f, content in contents.items() if any(p in content for p in pictures)]


def test_no_pixel_of_a_site_that_withdrew_is_left(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(recipe, out, backend="serial", quiet=True)
    assert traces(out, tmp_path / "photos" / "south")
    before = evaluate(recipe, out, without=["south"])
    done = forget(recipe, out, ["south"], retrain=True, quiet=True)
    assert done.certificate.exact
    assert done.certificate.against_retrained.equal_components
    assert not traces(out, tmp_path / "photos" / "south")
    assert not list(out.rglob("activations.bin"))
    # Looking at it again leaves nothing either, while the site's data is still there.
    assert evaluate(recipe, out).by_domain == before.by_domain
    assert not traces(out, tmp_path / "photos" / "south")
    said = run("train", recipe, "-o", out, "--backend", "serial", code=2)
    assert "were forgotten on" in said
    assert not traces(out, tmp_path / "photos" / "south")
    # Without its data all holds, on another machine.
    shutil.rmtree(tmp_path / "photos" / "south")
    there = tmp_path / "there"
    there.mkdir()
    for name in ("out", "photos"):
        shutil.copytree(tmp_path / name, there / name)
    for name in ("net.py", "recipe.yaml"):
        shutil.copy(tmp_path / name, there / name)
    checked = verify(
        there / "out" / done.path.name,
        recipe=there / "recipe.yaml",
        run=there / "out",
        retrain=True,
        quiet=True,
    )
    assert checked.holds, [one for one in checked.checks if not one.holds]
    assert set(evaluate(recipe, out).by_domain) == {"east", "north"}
    train(recipe, out, backend="serial", quiet=True)


def test_one_picture_goes_by_its_file(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(recipe, out, backend="serial", quiet=True)
    division = open_run(recipe, out).division
    shard = next(shard for shard in division.shards if shard.name == "south")
    learnt = set(division.hashes[shard.train])
    photo = next(
        photo
        for photo in sorted((tmp_path / "photos" / "south").rglob("*.png"))
        if content_hashes(decode_image(photo.read_bytes(), 16, "stretch")[None])[0] in learnt
    )
    done = forget(recipe, out, ["south"], examples=[str(photo)], quiet=True)
    assert done.certificate.examples.count == 1
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(photo, alone)
    assert not traces(out, alone)
    photo.unlink()
    assert verify(done.path, recipe=recipe, run=out, retrain=True, quiet=True).holds
