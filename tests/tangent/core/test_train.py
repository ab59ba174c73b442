"""Training a component: deterministic, resumable, and blind to what it cannot learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.backbones import Model
from stockpot.tangent import AverageComposer, TangentModel, train_component
from stockpot.tangent.head import draw_head
from stockpot.tangent.settings import TangentSettings
from stockpot.tangent.train import predict_delta
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


def train(task, model, feed, rows=None, **changes):
    rows = np.arange(len(task)) if rows is None else rows
    arguments = {"task": "all", "classes": task.classes, "fingerprint": task.fingerprint}
    arguments |= {"settings": SETTINGS, **changes}
    return train_component(model, feed, task.labels, rows, **arguments)


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
