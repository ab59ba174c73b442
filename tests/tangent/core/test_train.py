"""Training a component: deterministic, resumable, and blind to what it cannot learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import Model
from stockpot.errors import InputError, StockpotError
from stockpot.tangent import AverageComposer, TangentModel, train_component
from stockpot.tangent.fitting import predict_delta
from stockpot.tangent.head import draw_head
from stockpot.tangent.settings import TangentSettings
from stockpot.training import build_feed
from tests.training.tiny import cnn_backbone, image_task

SETTINGS = TangentSettings(epochs=20, batch_size=8, learning_rate=0.01, norm_penalty=1e-5)


def make(below: str | None = "blocks.1", folder: Path | None = None):
    task = image_task()
    backbone = cnn_backbone(below)
    network = Model(backbone, len(task.classes))
    draw_head(network, seed=3)
    feed = build_feed(task, backbone, folder=folder or Path("unused"), augmentation=False)
    return task, TangentModel(network), feed


def train(data, model, feed, rows=None, **changes):
    rows = np.arange(len(data)) if rows is None else rows
    arguments = {"task": "all", "classes": data.classes, "fingerprint": data.fingerprint}
    arguments |= {"settings": SETTINGS, **changes}
    return train_component(model, feed, data.labels, rows, **arguments)


@pytest.mark.parametrize("below", [None, "blocks.1"])
def test_it_learns_and_gives_the_same_bytes_again(below, tmp_path) -> None:
    task, model, feed = make(below, tmp_path)
    rows = np.arange(len(task))
    one = train(task, model, feed, validation=rows)
    assert one.metrics["validation_accuracy"] == 1.0
    assert one.classes == task.classes
    assert one.examples == len(task)
    two = train(*make(below, tmp_path), validation=rows)
    assert one.digest == two.digest
    outputs = predict_delta(model, one.tensors, feed, rows)
    composed = AverageComposer(model).compose([one])
    assert np.array_equal(outputs, composed.predict(feed.batch(rows)).numpy())
    assert (below is None) == ("featurizer.stem.weight" in one.tensors)


def test_an_interrupted_run_goes_on_with_the_same_bytes(tmp_path, monkeypatch) -> None:
    import stockpot.tangent.fitting as module

    whole = train(*make())
    saves = []

    class KilledError(Exception):
        pass

    class Run(module._Run):
        def save(self, path: Path) -> None:
            super().save(path)
            saves.append(self.step)
            if len(saves) == 3:
                raise KilledError

    monkeypatch.setattr(module, "_Run", Run)
    with pytest.raises(KilledError):
        train(*make(), scratch=tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "component.pt").exists()
    again = train(*make(), scratch=tmp_path)
    assert again.digest == whole.digest
    assert not (tmp_path / "component.pt").exists()


def test_a_saved_run_of_other_settings_is_not_continued(tmp_path) -> None:
    run = run_of(*make())
    run.advance()
    run.save(tmp_path / "component.pt")
    other = SETTINGS.model_copy(update={"learning_rate": 0.02})
    fresh = train(*make(), settings=other)
    assert train(*make(), settings=other, scratch=tmp_path).digest == fresh.digest


def run_of(task, model, feed):
    from stockpot.tangent.fitting import _Run

    return _Run(model, feed, task.labels, np.arange(len(task)), "all", SETTINGS, 0)


def test_a_head_of_zeros_is_refused_before_training() -> None:
    task = image_task()
    backbone = cnn_backbone(None)
    model = TangentModel(Model(backbone, 2))  # a stockpot model's head starts at zero
    feed = build_feed(task, backbone, folder=Path("unused"), augmentation=False)
    with pytest.raises(InputError, match="because the head is zero"):
        train(task, model, feed)


def test_with_the_head_alone_zeros_are_no_trap() -> None:
    task = image_task()
    backbone = cnn_backbone(None)
    model = TangentModel(Model(backbone, 2), parameters=["head.*"])
    feed = build_feed(task, backbone, folder=Path("unused"), augmentation=False)
    made = train(task, model, feed)
    assert sorted(made.tensors) == ["head.bias", "head.weight"]


def test_a_single_class_is_warned_about(caplog) -> None:
    task, model, feed = make(None)
    rows = np.flatnonzero(task.labels == 1)
    made = train(task, model, feed, rows, settings=SETTINGS.model_copy(update={"epochs": 1}))
    assert made.classes == ("red",)
    assert "'all' holds a single class" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a", "b", "c")}, "2 outputs for 3"),
        ({"classes": ("a",)}, "label 1 is no column"),
        ({"rows": np.array([], dtype=np.int64)}, "no rows"),
    ],
)
def test_wrong_input_is_refused_before_training(changes, words) -> None:
    task, model, feed = make(None)
    with pytest.raises(InputError, match=words):
        train(task, model, feed, **changes)


def test_divergence_is_told_with_its_step() -> None:
    settings = TangentSettings(epochs=50, batch_size=8, learning_rate=9.0, kappa=1e30)
    with pytest.raises(StockpotError, match="lower the learning rate"):
        train(*make(None), settings=settings)


def test_augmentation_is_a_stream_of_its_own_per_component() -> None:
    settings = SETTINGS.model_copy(update={"augmentation": True, "epochs": 2})
    task = image_task()
    backbone = cnn_backbone(None)
    network = Model(backbone, 2)
    draw_head(network)
    feed = build_feed(task, backbone, folder=Path("unused"), augmentation=True)
    model = TangentModel(network)
    one, two = (train(task, model, feed, settings=settings, task=name) for name in ("a", "a"))
    other = train(task, model, feed, settings=settings, task="b")
    assert one.digest == two.digest
    assert not all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)


def test_schedules() -> None:
    step = TangentSettings(learning_rate=1.0)
    rates = [step.rate(s, 10) for s in (0, 4, 5, 7, 8, 9)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = TangentSettings(learning_rate=1.0, schedule="cosine")
    assert [cosine.rate(s, 4) for s in (0, 2)] == pytest.approx([1, 0.5])
    assert TangentSettings(learning_rate=0.5, schedule="constant").rate(9, 10) == 0.5
    assert TangentSettings(solver="adamw", epochs=50, batch_size=32).steps(100) == 157
    assert TangentSettings(solver="adamw", epochs=0.1, batch_size=32).steps(1) == 1
    assert TangentSettings(epochs=50, batch_size=32).steps(100) == 50


def test_sixteen_bits_train_too() -> None:
    task = image_task()
    backbone = cnn_backbone(None)
    network = Model(backbone, 2)
    draw_head(network, seed=3)
    feed = build_feed(task, backbone, folder=Path("unused"), augmentation=False)
    model = TangentModel(network, precision="bfloat16")
    made = train(task, model, feed, validation=np.arange(len(task)))
    assert made.metrics["validation_accuracy"] == 1.0
    assert {tensor.dtype for tensor in made.tensors.values()} == {torch.float32}
    assert made.base_digest == TangentModel(network).base_digest
