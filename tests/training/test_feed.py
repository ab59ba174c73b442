"""Feeds: what is cached is what would be computed, and a cache survives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import Activations, Model
from stockpot.errors import BackboneError, OutputError
from stockpot.training import build_feed, cache, extract_features, predict
from stockpot.training.feed import CachedFeed, RawFeed
from tests.training.tiny import (
    array_task,
    cnn_backbone,
    image_task,
    linear_backbone,
    text_backbone,
    text_task,
)

ROWS = np.array([5, 0, 17, 5])


def test_without_a_cut_nothing_is_written(tmp_path: Path) -> None:
    feed = build_feed(image_task(), cnn_backbone(None), folder=tmp_path / "none")
    assert isinstance(feed, RawFeed)
    assert len(feed) == 36
    assert not (tmp_path / "none").exists()


def test_raw_images_are_prepared_and_augmented_only_where_asked(tmp_path: Path) -> None:
    task, backbone = image_task(), cnn_backbone(None)
    feed = build_feed(task, backbone, folder=tmp_path)
    plain = feed.batch(ROWS)
    torch.testing.assert_close(plain, backbone.prepare(task.inputs[ROWS]))
    changed = feed.batch(ROWS, augment=np.random.default_rng(0))
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain)
    off = build_feed(task, backbone, folder=tmp_path, augmentation=False)
    assert torch.equal(off.batch(ROWS, augment=np.random.default_rng(0)), plain)


def test_arrays_are_never_augmented(tmp_path: Path) -> None:
    task = array_task()
    feed = build_feed(task, linear_backbone(), folder=tmp_path)
    got = feed.batch(ROWS, augment=np.random.default_rng(0))
    np.testing.assert_array_equal(got.numpy(), task.inputs[ROWS])


def test_cached_feature_maps_are_those_of_the_trunk(tmp_path: Path) -> None:
    task, backbone = image_task(), cnn_backbone()
    feed = build_feed(task, backbone, folder=tmp_path, views=2)
    assert isinstance(feed, CachedFeed)
    got = feed.batch(ROWS)
    with torch.no_grad():
        want = backbone.trunk(backbone.prepare(task.inputs[ROWS]))
    assert isinstance(got, Activations)
    assert got.mask is None
    assert got.values.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.values, want.values, rtol=1e-3, atol=1e-3)
    assert feed.cache.values.dtype == np.float16


def test_augmented_views_differ_from_the_plain_one_and_from_each_other(tmp_path: Path) -> None:
    feed = build_feed(image_task(), cnn_backbone(), folder=tmp_path, views=3)
    rows = np.zeros(60, dtype=np.int64)
    drawn = feed.batch(rows, augment=np.random.default_rng(0)).values.flatten(1)
    plain = feed.batch(rows[:1]).values.flatten(1)
    assert len(torch.unique(drawn, dim=0)) == 3
    assert not any(torch.equal(one, plain[0]) for one in drawn)
    none = build_feed(image_task(), cnn_backbone(), folder=tmp_path / "b", augmentation=False)
    again = none.batch(rows[:1], augment=np.random.default_rng(0)).values.flatten(1)
    torch.testing.assert_close(again, plain)


def test_cached_texts_are_those_of_the_trunk_with_their_own_lengths(tmp_path: Path) -> None:
    task, backbone = text_task(), text_backbone(tmp_path / "bert")
    feed = build_feed(task, backbone, folder=tmp_path / "cache")
    got = feed.batch(ROWS)
    with torch.no_grad():
        want = backbone.trunk(backbone.prepare([task.inputs[row] for row in ROWS]))
    assert torch.equal(got.mask, want.mask)
    inside = want.mask.bool()
    torch.testing.assert_close(got.values[inside], want.values[inside], rtol=2e-3, atol=2e-3)
    assert (got.values[~inside] == 0).all()
    np.testing.assert_array_equal(feed.lengths[ROWS], want.mask.sum(1).numpy())


def test_predictions_come_in_the_rows_order_and_equal_one_by_one(tmp_path: Path) -> None:
    task, backbone = text_task(), text_backbone(tmp_path / "bert")
    feed = build_feed(task, backbone, folder=tmp_path / "cache")
    model = Model(backbone, 2, dropout=0.5)
    torch.nn.init.normal_(model.head.weight)
    model.train()
    rows = np.random.default_rng(0).permutation(len(task))
    together = predict(model, feed, rows, batch_size=7)
    alone = np.concatenate([predict(model, feed, rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert together.dtype == np.float32
    assert model.training
    features = extract_features(backbone, feed, rows)
    logits = features @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(logits, together, rtol=1e-4, atol=1e-5)


def test_nothing_to_predict_is_refused(tmp_path: Path) -> None:
    feed = build_feed(array_task(), linear_backbone(), folder=tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        predict(Model(linear_backbone(), 2), feed, np.arange(0))


class Killed(BaseException):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_killed_cache_is_finished_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    if modality == "image":
        task, backbone = image_task(), cnn_backbone()
    else:
        task, backbone = text_task(), text_backbone(tmp_path / "bert")
    monkeypatch.setattr(cache, "CHUNK", 5)
    monkeypatch.setattr(cache, "_SAVE_EVERY", 2)
    build_feed(task, backbone, folder=tmp_path / "whole", views=1)
    real, calls = cache._Writer._store, []

    def store(self, values, view, start):
        calls.append((view, start))
        if len(calls) == 6:
            raise Killed
        real(self, values, view, start)

    monkeypatch.setattr(cache._Writer, "_store", store)
    with pytest.raises(Killed):
        build_feed(task, backbone, folder=tmp_path / "cut", views=1)
    note = json.loads((tmp_path / "cut" / "activations.json").read_text())
    assert note["done"] == 4
    build_feed(task, backbone, folder=tmp_path / "cut", views=1)
    assert calls[6:8] == calls[4:6]  # goes on at the fifth chunk
    whole = (tmp_path / "whole" / "activations.bin").read_bytes()
    assert (tmp_path / "cut" / "activations.bin").read_bytes() == whole


def test_a_finished_cache_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = image_task()
    build_feed(task, cnn_backbone(), folder=tmp_path, views=1)
    monkeypatch.setattr(cache._Writer, "write", None)
    build_feed(task, cnn_backbone(), folder=tmp_path, views=1)


def test_a_cache_of_other_weights_or_data_is_replaced(tmp_path: Path) -> None:
    task = image_task()
    first = build_feed(task, cnn_backbone(), folder=tmp_path, views=0)
    before = first.batch(ROWS).values.clone()
    other = build_feed(task, cnn_backbone(options={"seed": 4}), folder=tmp_path, views=0)
    assert not torch.allclose(other.batch(ROWS).values, before)
    again = build_feed(task, cnn_backbone(), folder=tmp_path, views=0)
    assert torch.equal(again.batch(ROWS).values, before)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        build_feed(image_task(), cnn_backbone(), folder=tmp_path / "file" / "cache")


def test_activations_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    backbone = cnn_backbone("last")
    with torch.no_grad():
        backbone.network.blocks[2].bn.bias.fill_(1e6)
    with pytest.raises(BackboneError, match="do not fit 16 bits"):
        build_feed(image_task(), backbone, folder=tmp_path)
