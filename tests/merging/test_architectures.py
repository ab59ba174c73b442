"""Merged folders of many architectures load whole, and compute what float64 weights compute.

The oracle is written here, in a few lines of float64, on the weights that the library itself loads
from the parents. So a tensor that was left out, renamed or merged by another rule shows.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stockpot.checkpoints import load_state, save_state
from stockpot.merging import merge

from .architectures import ARCHITECTURES, FAST, Architecture

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

METHODS = ("linear", "task_arithmetic", "ties", "passthrough")


def ties(base: np.ndarray, deltas: np.ndarray, density: float) -> np.ndarray:
    """TIES of one tensor: the largest part of each update, the sign of their sum, their mean."""
    flat = deltas.reshape(len(deltas), -1)
    keep = max(round(density * flat.shape[1]), 1)
    for row in flat:
        row[np.argsort(np.abs(row), kind="stable")[: flat.shape[1] - keep]] = 0
    sign = np.sign(flat.sum(0))
    agreeing = (np.sign(flat) == sign) & (flat != 0)
    count = np.maximum(agreeing.sum(0), 1)
    return base + ((flat * agreeing).sum(0) / count).reshape(base.shape)


def oracle(method: str, base, models) -> dict[str, torch.Tensor]:
    """Weights of the merge, from float64 arithmetic on states of modules."""
    merged = {}
    for name, tensor in models[0].items():
        if not tensor.is_floating_point():
            merged[name] = tensor
            continue
        wide = [state[name].double().numpy() for state in models]
        start = base[name].double().numpy()
        if method == "linear":
            value = np.mean(wide, axis=0)
        elif method == "task_arithmetic":
            value = start + 0.4 * sum(each - start for each in wide)
        elif method == "ties":
            value = ties(start, np.stack([each - start for each in wide]), 1.0)
        else:
            value = wide[0]
        merged[name] = torch.from_numpy(np.asarray(value)).float()
    return merged


def run(method: str, base: str, models: list[str], out) -> None:
    if method == "passthrough":
        recipe = out.with_suffix(".yaml")
        recipe.write_text(
            json.dumps({"merge_method": "passthrough", "models": [{"model": models[0]}]})
        )
        merge(recipe, output=out)
        return
    settings = {
        "linear": {},
        "task_arithmetic": {"base": base, "scale": 0.4},
        "ties": {"base": base, "density": 1.0},
    }
    merge(models, method=method, output=out, **settings[method])


def outputs(model, batch) -> torch.Tensor:
    with torch.no_grad():
        result = model(**batch)
    return next(v for v in result.values() if torch.is_tensor(v) and v.is_floating_point())


def one_state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(each, id=each.kind, marks=() if each.kind in FAST else pytest.mark.slow)
        for each in ARCHITECTURES
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_transformers(architecture: Architecture, tmp_path):
    paths = []
    for seed in range(3):
        model = architecture.build(0)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * seed * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / str(seed))
        paths.append(str(tmp_path / str(seed)))
    cls = getattr(transformers, architecture.kind)
    load = {"attn_implementation": "eager", "dtype": torch.float32}
    base, *models = (one_state(cls.from_pretrained(path, **load).eval()) for path in paths)
    batch = architecture.batch()
    for method in METHODS:
        out = tmp_path / method
        run(method, paths[0], paths[1:], out)
        merged, info = cls.from_pretrained(out, output_loading_info=True, **load)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[problem], (method, problem, info[problem])
        got = outputs(merged.eval(), batch)
        expected = cls.from_pretrained(paths[0], **load).eval()
        expected.load_state_dict(oracle(method, base, models))
        torch.testing.assert_close(got, outputs(expected, batch), rtol=1e-4, atol=1e-5)
        assert got.isfinite().all()
        assert got.std() > 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "resnet10t",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("mobilenetv3_small_050", "efficientnet_lite0", "convnext_atto", "regnety_002"),
                *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224"),
            )
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_timm(name, tmp_path):
    paths, states = [], []
    for seed in range(3):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=4)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * seed * torch.randn_like(parameter))
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_state(folder / "model.safetensors", network.state_dict())
        config = {"architecture": name, "num_classes": 4, "pretrained_cfg": {"num_classes": 4}}
        (folder / "config.json").write_text(json.dumps(config))
        paths.append(str(folder))
        states.append(one_state(network))
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    for method in METHODS:
        out = tmp_path / method
        run(method, paths[0], paths[1:], out)
        merged = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        expected = timm.create_model(name, num_classes=4).eval()
        expected.load_state_dict(oracle(method, states[0], states[1:]))
        assert set(load_state(out)) == set(expected.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(merged(image), expected(image), rtol=1e-4, atol=1e-5)
