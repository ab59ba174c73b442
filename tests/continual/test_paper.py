"""A shipped protocol of the paper runs whole: on drawn images, a random ResNet-50, few steps.

The three differ in their data and the number of tasks only (`test_recipe.py` reads them all).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stockpot.checkpoints.torch_io import save_state
from stockpot.continual import compare

PAPER = Path(__file__).parents[2] / "examples" / "tangent" / "paper"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    import timm

    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    save_state(folder / "resnet50.safetensors", timm.create_model("resnet50").state_dict())
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for label in range(10):
            home = folder / "data" / "pets" / part / f"class{label}"
            home.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (40, 40, 3)) + 19 * label
                Image.fromarray(pixels.astype(np.uint8)).save(home / f"{number}.jpg")
    return folder


@pytest.mark.slow
def test_a_protocol_runs_from_images_to_results(place: Path, tmp_path: Path) -> None:
    recipe = place / "pets.yaml"
    recipe.write_text((PAPER / "pets.yaml").read_text())
    small = [
        *(
            "task.size=32",
            "tangent.epochs=1",
            "nonlinear.epochs=1",
            "settings=[{mode: class, parts: 5, published: {tmc: 8.0, soup: 11.7}}]",
        ),
        *("features.dimension=32", "features.directions=1", "features.random_dimension=32"),
    ]
    results = compare(recipe, tmp_path / "out", changes=small).results.to_json()
    (setting,) = results["settings"]
    assert setting["tasks"] == 5
    found = {row["method"]: row for row in setting["methods"]}
    assert set(found) == set(results["recipe"]["methods"])
    assert found["statistics"]["notes"]["gap_to_joint"] < 1e-9
    assert [one["published"] for one in setting["published"]] == [8.0, 11.7]
