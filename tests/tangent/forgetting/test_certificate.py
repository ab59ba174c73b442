"""A certificate says what is so, and says it when something is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.errors import InputError
from stockpot.tangent import AverageComposer, TangentModel, train_component
from stockpot.tangent.forgetting import certify
from stockpot.tangent.forgetting.certificate import AuditData, compare
from stockpot.tangent.forgetting.schema import Certificate
from stockpot.tangent.settings import TangentSettings
from tests.tangent.core.tiny import Network
from tests.tangent.statistics.tiny import composer as statistics_composer
from tests.tangent.statistics.tiny import data


def shards(count: int = 3) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(8).permutation(120), count)


TEST = np.arange(120, 180)


@pytest.fixture(scope="module")
def deltas():
    """Components that know their few rows by heart, so that membership can be seen."""
    from stockpot.tangent.feeds import TensorFeed

    generator = torch.Generator().manual_seed(3)
    feed = TensorFeed(torch.randn(180, 3, 8, 8, generator=generator))
    labels = np.random.default_rng(0).integers(4, size=180)
    model = TangentModel(Network())
    settings = TangentSettings(epochs=60, learning_rate=3e-2, schedule="cosine")
    parts = [
        train_component(
            model,
            feed,
            labels,
            rows,
            task=f"site-{i}",
            classes=("a", "b", "c", "d"),
            fingerprint="f",
            settings=settings,
            quiet=True,
        )
        for i, rows in enumerate(shards())
    ]
    return AverageComposer(model), parts, feed, labels


@pytest.fixture(scope="module")
def statistics():
    made = statistics_composer()
    found = data()
    parts = [
        made.component(found.feed, found.labels, rows, task=f"site-{i}", fingerprint="f")
        for i, rows in enumerate(shards())
    ]
    return made, parts, found.feed, found.labels


@pytest.fixture(params=["deltas", "statistics"])
def world(request):
    return request.getfixturevalue(request.param)


def evidence(world, gone: int = 1) -> AuditData:
    _, _, feed, labels = world
    return AuditData(feed, labels, shards()[gone], TEST)


def test_what_is_left_has_the_bits_of_never_having_had_it(world) -> None:
    composer, parts, *_ = world
    whole = composer.compose(parts)
    after, made = certify(whole, ["site-1"], evidence(world), training_seconds=3.0)
    content = made.to_json()
    assert made.exact
    assert after.digest == composer.compose([parts[2], parts[0]]).digest == content["after"]
    assert content["before"] == whole.digest != content["after"]
    assert content["against_composed"] == {"weights": 0.0, "outputs": 0.0, "equal_bits": True}
    assert [one["name"] for one in content["removed"]] == ["site-1"]
    assert sorted(one["digest"] for one in content["kept"]) == sorted(
        parts[i].digest for i in (0, 2)
    )
    assert content["seconds"]["training_the_rest"] == 3.0
    assert content["residue_of_subtracting"]["numbers"] > 0
    json.dumps(made.to_json(), allow_nan=False)


def test_membership_shows_before_and_goes_to_chance(deltas) -> None:
    composer, parts, *_ = deltas
    _, made = certify(composer.compose(parts), ["site-1"], evidence(deltas))
    before, after = (made.to_json()["membership"][when] for when in ("before", "after"))
    assert before["low"] > 0.55
    assert after["low"] <= 0.5 <= after["high"]
    assert made.to_json()["accuracy"]["before"]["removed"] > 0.35


def test_retrained_components_are_compared(deltas) -> None:
    composer, parts, *_ = deltas
    whole = composer.compose(parts)
    _, same = certify(whole, ["site-1"], evidence(deltas), retrained=[parts[2], parts[0]])
    assert same.exact
    assert same.to_json()["against_retrained"]["equal_components"]
    moved = {n: t + 1e-3 for n, t in parts[2].tensors.items()}
    others = [parts[0], replace(parts[2], tensors=moved)]
    _, other = certify(whole, ["site-1"], evidence(deltas), retrained=others)
    gap = other.to_json()["against_retrained"]
    assert not other.exact
    assert gap["weights"] == pytest.approx(5e-4, rel=1e-3)
    assert gap["outputs"] > 0
    assert not gap["equal_components"]


def test_given_weights_stay_with_their_components(deltas) -> None:
    composer, parts, *_ = deltas
    whole = composer.compose(parts, [0.5, 0.3, 0.2])
    after, made = certify(whole, ["site-1"], evidence(deltas), retrained=[parts[2], parts[0]])
    assert made.exact
    assert made.to_json()["weights"] == [0.5, 0.2]
    assert after.digest == composer.compose([parts[0], parts[2]], [0.5, 0.2]).digest
    stranger = replace(parts[0], task="nobody")
    with pytest.raises(InputError, match="nobody"):
        certify(whole, ["site-1"], evidence(deltas), retrained=[stranger])


def test_two_go_at_once(world) -> None:
    composer, parts, *_ = world
    after, made = certify(composer.compose(parts), ["site-0", "site-2"], evidence(world))
    assert made.exact
    assert after.digest == composer.compose([parts[1]]).digest


def test_differences_are_found(world) -> None:
    composer, parts, *_ = world
    gap = compare(composer.compose(parts), composer.compose(parts[:2]), evidence(world))
    assert not gap.equal_bits
    assert gap.weights > 0
    assert gap.outputs > 0


def test_removing_all_or_strangers_is_refused(world) -> None:
    composer, parts, *_ = world
    whole = composer.compose(parts)
    with pytest.raises(InputError, match="no component 'site-9'"):
        certify(whole, ["site-9"], evidence(world))
    with pytest.raises(InputError, match="no components"):
        certify(whole, ["site-0", "site-1", "site-2"], evidence(world))


def test_a_changed_certificate_has_another_digest(world, tmp_path: Path) -> None:
    composer, parts, *_ = world
    _, made = certify(composer.compose(parts), ["site-1"], evidence(world))
    path = made.save(tmp_path / "certificate.json")
    assert Certificate.load(path) == (made, True)
    value = json.loads(path.read_text())
    assert value["digest"] == made.digest
    path.write_text(json.dumps({**value, "after": "0" * 64}))
    again, whole = Certificate.load(path)
    assert not whole
    assert again.digest != made.digest
    for text in ("{}", "[1", '{"kind": "forgetting-certificate"}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InputError, match="certificate"):
            Certificate.load(tmp_path / "other.json")
