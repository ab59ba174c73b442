"""All that training changes is reset, averaged, saved and loaded, whatever a network keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.backbones import BackboneSpec, Model, load_backbone, load_model
from stockpot.checkpoints.torch_io import load_state
from stockpot.recycling import Recycled, recycle
from stockpot.training import rows
from stockpot.training.rows import read_outputs
from tests.recycling.test_run import final_bytes, results
from tests.recycling.tiny import DIMENSIONS, recipe

ROOT = Path(__file__).parents[2]
ODD = [
    ("instance_norm", {}),
    ("spectral_norm", {}),
    ("old_spectral_norm", {}),
    ("running_mean", {}),
    ("hidden", {}),
    ("restless", {}),
    ("codebook", {}),
    ("recurrent", {}),
    ("batchnorm", {"batchnorm": "frozen"}),
    ("batchnorm", {"batchnorm": "reestimate"}),
    ("plain_batchnorm", {"batchnorm": "reestimate"}),
    ("layer_norm", {}),
]
NAMES = [" ".join([name, *options.values()]) for name, options in ODD]
every_oddity = pytest.mark.parametrize(("name", "options"), ODD, ids=NAMES)

# Members from all inits, averages along a run, towards the base, merged in training, and mixed.
PROTOCOLS = [
    "linear_probe",
    "erm",
    "moving_average",
    "swad",
    "wise_ft",
    "soup_uniform",
    "stock_2",
    "stock_periodic",
    "fusing",
    "ratatouille_uniform",
]


def spec(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "function", "name": f"tests.recycling.oddities:{name}", **options}


def odd_recipe(folder: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    value = recipe(
        folder,
        backbone=spec(name, options),
        protocols=PROTOCOLS,
        runs=2,
        final={"protocol": "ratatouille_uniform"},
    )
    value["training"].update(steps=6, evaluate_every=2, head_only_steps=1)
    value["periodic"]["every"] = 3
    return value


def run(folder: Path, output: str, value: dict[str, Any], **more: Any) -> Recycled:
    return recycle(value, folder / output, root=folder, quiet=True, **{"backend": "serial", **more})


def made_models(done: Recycled) -> dict[str, Path]:
    """Folders of the jobs that made one set of weights, by label."""
    return {
        json.loads((folder / "done.json").read_text())["label"]: folder
        for folder in (done.folder / "work" / "jobs").iterdir()
        if (folder / "model.safetensors").exists() and (folder / "outputs.npz").exists()
    }


def held_out_outputs(model: Model, folder: Path) -> np.ndarray:
    data = np.load(folder / "target.npz")
    model.eval()
    with torch.no_grad():
        batch = model.backbone.prepare(data["inputs"][data["domains"] == "south"])
        return model(batch).numpy()


@every_oddity
def test_what_is_saved_is_what_was_reported_and_no_job_leaves_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    value = odd_recipe(tmp_path, name, options)
    done = run(tmp_path, "out", value)

    # The kept folder, loaded: the very outputs that the results were made of.
    models = made_models(done)
    assert len(models) == len(PROTOCOLS) + 1  # and the probe
    label = "Model Ratatouille, uniform · south · trial 0"
    model, _ = load_model(done.model, root=ROOT)
    reported = read_outputs(models[label] / "outputs.npz")
    loaded = held_out_outputs(model, tmp_path)
    np.testing.assert_allclose(loaded, reported["test/south"], rtol=0, atol=1e-6)

    # So does every other outcome that is one set of weights.
    for folder in models.values():
        fresh = Model(load_backbone(BackboneSpec(**spec(name, options)), root=ROOT), 3)
        fresh.load_state(load_state(folder / "model.safetensors"))
        again = held_out_outputs(fresh, tmp_path)
        reported = read_outputs(folder / "outputs.npz")["test/south"]
        np.testing.assert_allclose(again, reported, rtol=0, atol=1e-6)

    # A network of its own for every job, as if each had a process of its own: the same bytes.
    real = rows.open_backbone

    def fresh_backbone(*arguments: Any) -> Any:
        rows._backbone.cache_clear()
        return real(*arguments)

    for module in ("training.rows", "recycling.jobs"):
        monkeypatch.setattr(f"stockpot.{module}.open_backbone", fresh_backbone)
    alone = run(tmp_path, "alone", value)
    assert final_bytes(done.folder) == final_bytes(alone.folder)
    assert results(done.folder) == results(alone.folder)


@pytest.mark.slow
@every_oddity
def test_two_processes_give_the_bytes_of_one(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    value = odd_recipe(tmp_path, name, options)
    run(tmp_path, "one", value)
    run(tmp_path, "two", value, backend="local", jobs=2)
    assert final_bytes(tmp_path / "one") == final_bytes(tmp_path / "two")
    assert results(tmp_path / "one") == results(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "options", "changing"),
    [
        ("running_mean", {}, {"mean", "steps"}),
        ("batchnorm", {"batchnorm": "frozen"}, set()),
        (
            "batchnorm",
            {"batchnorm": "reestimate"},
            {"num_batches_tracked", "running_mean", "running_var"},
        ),
        ("hidden", {}, {"scale", "mask"}),
        ("codebook", {}, {"codes", "counts"}),
        ("recurrent", {}, set()),
    ],
)
def test_the_trained_part_has_every_buffer_that_can_change(
    name: str, options: dict[str, Any], changing: set[str]
) -> None:
    model = Model(load_backbone(BackboneSpec(**spec(name, options)), root=ROOT), 3)
    start = model.state()
    buffers = {key for key in start if not model.is_weight(key)}
    assert {key.rpartition(".")[2] for key in buffers} == changing
    model.train()
    model(torch.randn(32, DIMENSIONS, generator=torch.Generator().manual_seed(0)))
    moved = {key for key, tensor in model.state().items() if not torch.equal(tensor, start[key])}
    assert {key.rpartition(".")[2] for key in moved} == changing - {"mask"}
    model.backbone.reset()
    assert all(torch.equal(tensor, start[key]) for key, tensor in model.state().items())
    if changing:
        model.load_state({key: start[key] for key in buffers}, partial=True)


def test_buffers_that_a_checkpoint_lacks_lie_beside_it_and_are_no_part_of_it(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, "out", odd_recipe(tmp_path, "hidden", {}))
    kept = load_state(done.model / "buffers.safetensors")
    assert set(kept) == {"2.scale"}  # the constant is the network's own
    weights = set(load_state(done.model / "model.safetensors"))
    assert not weights & {"2.scale", "2.mask"}
    models = json.loads((done.folder / "models.json").read_text())["models"]
    runs = [one for one in models if one["overlay"] and "best" in one["overlay"]]
    assert runs
    assert all(one["parts"]["buffers.safetensors"] == "buffer." for one in runs)
