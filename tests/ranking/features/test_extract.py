"""Features are computed once, grow, survive a kill, and a broken model costs its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import load_backbone
from stockpot.errors import BackboneError, OutputError
from stockpot.ranking.features import Extracted, Extractor, Failed, FeatureCache, flat, sample_order
from stockpot.ranking.features import extract as module
from stockpot.ranking.features.cache import CHUNK
from stockpot.ranking.features.offline import network
from stockpot.ranking.features.revision import revision
from stockpot.ranking.gram import Moments
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from tests.backbones.networks import text_folder
from tests.training.tiny import array_task, image_task, text_task

NETWORKS = "tests.backbones.networks"
CNN = ModelEntry(kind="function", name=f"{NETWORKS}:cnn", image_size=16)


def extractor(task, tmp_path: Path, **changes) -> Extractor:
    return Extractor(task, sample_order(task), tmp_path / "cache", tmp_path, **changes)


def test_features_are_those_of_the_backbone_and_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = image_task(n=300)
    make = extractor(task, tmp_path)
    found = make("cnn", CNN, 100)
    assert isinstance(found, Extracted)
    assert not found.reused
    body = load_backbone(CNN.spec)
    with torch.no_grad():
        truth = body.module(body.prepare(task.inputs[found.rows])).numpy()
    assert found.arrays["features"].dtype == np.float16
    np.testing.assert_allclose(found.arrays["features"], truth, atol=2e-3 * np.abs(truth).max())
    assert found.facts["parameters"] == sum(p.numel() for p in body.network.parameters())
    assert found.facts["fingerprint"] == body.fingerprint
    monkeypatch.setattr(module, "open_model", lambda *a, **k: pytest.fail("was loaded again"))
    again = extractor(task, tmp_path)("cnn", CNN, 50)
    assert isinstance(again, Extracted)
    assert again.reused
    np.testing.assert_array_equal(again.arrays["features"], found.arrays["features"][:50])


def test_a_larger_sample_and_a_killed_run_keep_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = image_task(n=3 * CHUNK)
    make, reads = extractor(task, tmp_path), []
    true_read = module._Reader.read

    def read(self, raw):
        if len(reads) == 2 and not resumed:
            raise KeyboardInterrupt
        reads.append(len(raw))
        return true_read(self, raw)

    resumed: list[bool] = []
    monkeypatch.setattr(module._Reader, "read", read)
    make("cnn", CNN, 10)
    assert reads == [CHUNK]
    with pytest.raises(KeyboardInterrupt):
        make("cnn", CNN, 3 * CHUNK)
    resumed.append(True)
    found = make("cnn", CNN, 3 * CHUNK)
    assert reads == [CHUNK] * 3
    assert isinstance(found, Extracted)
    fresh = extractor(task, tmp_path / "other")("cnn", CNN, 3 * CHUNK)
    assert isinstance(fresh, Extracted)
    np.testing.assert_array_equal(found.arrays["features"], fresh.arrays["features"])


def test_text_layers_are_pooled_with_the_mask(tmp_path: Path) -> None:
    text_folder(tmp_path / "bert")
    task = text_task()
    entry = ModelEntry(kind="transformers", name="bert", max_length=12)
    found = extractor(task, tmp_path)("bert", entry, 40)
    assert isinstance(found, Extracted)
    assert found.arrays["layers"].shape == (40, 4, 8)
    body = load_backbone(entry.spec, root=tmp_path)
    texts = [task.inputs[row] for row in found.rows]
    truth_last, truth_mean, truth_cls = [], [], []
    with torch.no_grad():
        for text in texts:  # one by one: no padding to get wrong
            states = body.network(**body.prepare([text]), output_hidden_states=True).hidden_states
            truth_last.append(states[-1][0].mean(0).numpy())
            truth_mean.append(torch.stack(states).mean(0)[0].mean(0).numpy())
            truth_cls.append(states[-1][0, 0].numpy())
    for readout, truth in (
        ("last", truth_last),
        ("mean_of_layers", truth_mean),
        ("cls", truth_cls),
    ):
        np.testing.assert_allclose(flat(found.arrays, readout), np.stack(truth), atol=5e-3)


def test_moments_only(tmp_path: Path) -> None:
    task = image_task(n=300)
    make = extractor(task, tmp_path, keep="moments")
    first = make("cnn", CNN, CHUNK)
    assert isinstance(first, Extracted)
    found = make("cnn", CNN, 2 * CHUNK)
    assert isinstance(found, Extracted)
    assert found.arrays == {}
    again = extractor(task, tmp_path, keep="moments")("cnn", CNN, 2 * CHUNK)
    assert isinstance(again, Extracted)
    assert again.reused
    full = extractor(task, tmp_path)("cnn", CNN, 2 * CHUNK)
    assert isinstance(full, Extracted)
    truth = Moments(classes=2)
    truth.add(full.arrays["features"].astype(np.float32), task.labels[full.rows])
    for each in (found, again):
        assert each.moments is not None
        assert each.moments.rows == len(each.rows) == 2 * CHUNK
        np.testing.assert_allclose(each.moments.gram(), truth.gram(), rtol=5e-3, atol=1e-2)
    numbers = array_task("regression", n=150)
    linear = ModelEntry(kind="function", name=f"{NETWORKS}:linear")
    made = extractor(numbers, tmp_path / "r", keep="moments")("linear", linear, 150)
    assert isinstance(made, Extracted)
    assert made.moments is not None
    assert made.moments.columns == 1


def test_the_key_names_weights_code_task_and_preprocessing(tmp_path: Path) -> None:
    from stockpot.checkpoints.torch_io import save_state

    body = load_backbone(CNN.spec)
    save_state(tmp_path / "a.safetensors", body.state())
    entry = CNN.model_copy(update={"weights": "a.safetensors"})
    first = revision(entry, tmp_path)
    assert first == revision(entry, tmp_path)
    assert first != revision(CNN, tmp_path)
    assert first != revision(entry.model_copy(update={"image_size": 32}), tmp_path)
    # The name in tables and what is said about the model change nothing.
    assert first == revision(
        entry.model_copy(update={"id": "x", "metadata": {"family": "f"}}), tmp_path
    )
    state = body.state()
    name = next(iter(state))
    state[name] = state[name] + 1
    save_state(tmp_path / "a.safetensors", state)
    assert first != revision(entry, tmp_path)
    make = extractor(image_task(), tmp_path)
    other = extractor(image_task(n=42), tmp_path)
    assert make.open("a", CNN).folder != other.open("a", CNN).folder
    with pytest.raises(BackboneError, match="no weights file"):
        revision(CNN.model_copy(update={"weights": "none.pt"}), tmp_path)
    with pytest.raises(BackboneError, match="no module"):
        revision(CNN.model_copy(update={"name": "stockpot.nowhere:net"}), tmp_path)
    with pytest.raises(BackboneError, match="there is no file"):
        revision(CNN.model_copy(update={"name": "nowhere.py:net"}), tmp_path)


def test_a_failing_model_is_a_line_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Bad(nn.Module):\n"
        "    feature_dim = 2\n"
        "    input_shape = (3, 16, 16)\n"
        "    def __init__(self, how):\n"
        "        super().__init__()\n"
        "        self.how, self.scale = how, nn.Parameter(torch.ones(1))\n"
        "    def forward(self, x):\n"
        "        x = x.mean((2, 3)) * self.scale\n"
        "        if self.how == 'nan':\n"
        "            x = x * float('nan')\n"
        "        if self.how == 'raise' and len(x) > 2:\n"
        "            raise RuntimeError('out of something')\n"
        "        return x\n"
        "def bad(how):\n"
        "    return Bad(how)\n"
        "def boom():\n"
        "    raise ValueError('no such thing')\n"
    )
    task = image_task()
    make = extractor(task, tmp_path)
    bad = {
        "nan": (ModelEntry(kind="function", name="own.py:bad", options={"how": "nan"}), "finite"),
        "raise": (
            ModelEntry(kind="function", name="own.py:bad", options={"how": "raise"}),
            "RuntimeError: out of something",
        ),
        "boom": (ModelEntry(kind="function", name="own.py:boom"), "ValueError"),
        "text": (ModelEntry(kind="transformers", name="some/hub"), "not on this machine"),
        "timm": (
            ModelEntry(kind="timm", name="resnet18", options={"pretrained": True}),
            "not on this machine",
        ),
        "hub": (ModelEntry(kind="timm", name="hf-hub:some/hub"), "not on this machine"),
        "unknown": (
            ModelEntry(kind="timm", name="resnet1800", options={"pretrained": True}),
            "cannot build",
        ),
        "arrays": (ModelEntry(kind="function", name=f"{NETWORKS}:linear"), "takes array"),
    }
    for name, (entry, words) in bad.items():
        found = make(name, entry, 30)
        assert isinstance(found, Failed), name
        if name != "arrays":
            assert words in found.reason


def test_a_missing_package_is_a_line_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    entry = ModelEntry(kind="timm", name="resnet18", options={"pretrained": False})
    found = extractor(image_task(), tmp_path)("timm", entry, 10)
    assert isinstance(found, Failed)
    assert "package 'timm', which is not installed" in found.reason


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError):
        extractor(image_task(), tmp_path)("cnn", CNN, 10)


def test_features_of_somebody_else(tmp_path: Path) -> None:
    task = image_task(n=36)
    values = np.random.default_rng(0).normal(size=(36, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", features=values, logits=values[:, :3])
    np.savez(tmp_path / "c.npz", other=values)
    np.save(tmp_path / "short.npy", values[:7])
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    make = extractor(task, tmp_path)
    found = make("a", FeatureEntry(path="a.npy"), 20)
    assert isinstance(found, Extracted)
    np.testing.assert_array_equal(found.arrays["features"], values[found.rows])
    found = make("b", FeatureEntry(path="b.npz"), 20)
    assert isinstance(found, Extracted)
    assert found.arrays["logits"].shape == (20, 3)
    for name, words in (
        ("c.npz", "no array 'features'"),
        ("short.npy", "expected floats"),
        ("broken.npy", "no readable"),
        ("none.npy", "no readable"),
    ):
        failed = make(name, FeatureEntry(path=name), 20)
        assert isinstance(failed, Failed)
        assert words in failed.reason
    assert revision(FeatureEntry(path="a.npy"), tmp_path)
    with pytest.raises(BackboneError, match="no features file"):
        revision(FeatureEntry(path="none.npy"), tmp_path)


def test_logits_come_from_the_head_in_the_weights_file(tmp_path: Path) -> None:
    from stockpot.checkpoints.torch_io import save_state

    body = load_backbone(CNN.spec)
    rng = torch.Generator().manual_seed(0)
    head = torch.randn(7, 6, 1, 1, generator=rng)
    save_state(tmp_path / "w.safetensors", {**body.state(), "fc.weight": head})
    entry = CNN.model_copy(update={"weights": "w.safetensors", "head": "fc"})
    found = extractor(image_task(), tmp_path)("cnn", entry, 20)
    assert isinstance(found, Extracted)
    truth = found.arrays["features"].astype(np.float32) @ head.flatten(1).numpy().T
    np.testing.assert_allclose(found.arrays["logits"], truth, atol=0.02)
    for changes, words in (
        ({"head": "nothing"}, "no tensor 'nothing.weight'"),
        ({"weights": None}, "name the 'weights'"),
    ):
        failed = extractor(image_task(), tmp_path)("cnn", entry.model_copy(update=changes), 20)
        assert isinstance(failed, Failed)
        assert words in failed.reason
    save_state(tmp_path / "x.safetensors", {**body.state(), "fc.weight": torch.ones(7, 5)})
    failed = extractor(image_task(), tmp_path)(
        "cnn", entry.model_copy(update={"weights": "x.safetensors"}), 20
    )
    assert isinstance(failed, Failed)
    assert "takes 5 features" in failed.reason


def test_values_too_large_for_half_precision_are_kept_in_single(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "c")
    large = np.array([[1e6, 1.0]], dtype=np.float32)
    cache.add({"features": large}, 0.1)
    np.testing.assert_array_equal(cache.read(1)["features"], large)
    assert FeatureCache(tmp_path / "c").seconds == pytest.approx(0.1)


def test_the_hubs_client_is_offline_while_a_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = constants.HF_HUB_OFFLINE
    with network(allowed=False):
        assert constants.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert before == constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with network(allowed=False):
        pass
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    with network(allowed=True):
        assert before == constants.HF_HUB_OFFLINE
