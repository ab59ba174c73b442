"""Whom a foreign model comes from: geometry with known answers, and a tree of known models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.registry import Registry, add, init_registry
from stockpot.registry import geometry as g
from stockpot.registry.sketch import places
from tests.registry.models import BASE, State, fresh, mean, moved, write_model


@pytest.fixture
def registry(tmp_path: Path):
    with init_registry(tmp_path / "registry") as found:
        yield found


def guess(registry: Registry, folder: Path, state: State, **companions: str):
    done = add(registry, write_model(folder, state, **companions))
    assert done.guess is not None
    return done.guess


def test_children_siblings_and_grandchildren_are_told_apart() -> None:
    draw = np.random.default_rng(0)
    size = 2000
    steps = draw.normal(size=(6, size))
    base = 30 * draw.normal(size=size)
    child, other = base + steps[0], base + steps[1]
    vectors = np.stack([base, child, other])
    parents = {1: [0], 2: [0]}
    cases = {
        "of the base": (base + steps[2], 0),
        "of the child": (child + steps[3], 1),
        "a short one of the child": (child + 0.2 * steps[3], 1),
        "a long one of the child": (child + 2 * steps[4], 1),
        "of the other": (other + steps[5], 2),
    }
    for name, (y, expected) in cases.items():
        found = g.climb(y, vectors, parents, [0, 1, 2])
        assert found.place == expected, name
        assert 0.3 < found.confidence <= 1.0


def test_merges_are_taken_apart() -> None:
    draw = np.random.default_rng(1)
    base = 30 * draw.normal(size=1000)
    members = base + draw.normal(size=(5, 1000))
    vectors = np.stack([base, *members])
    y = base + 0.5 * (members[1] - base) + 0.3 * (members[3] - base)
    found = g.mixture(y, vectors, 0, range(6))
    assert found is not None
    assert dict(zip(found.members, found.weights, strict=True)) == pytest.approx({2: 0.5, 4: 0.3})
    assert found.rest < 1e-6
    lone = g.mixture(base + draw.normal(size=1000), vectors, 0, range(6))
    assert lone is None or lone.rest > 0.9
    assert g.mixture(base, vectors, 0, range(6)) is None


def test_places_are_the_same_everywhere() -> None:
    """Sketches of different machines are compared: positions are part of the format."""
    assert places((32, 32))[:5].tolist() == [int(each) for each in places((32, 32))[:5]]
    assert np.array_equal(places((32, 32)), places([32, 32]))
    assert places((7, 9)).max() < 63


def test_a_foreign_fine_tuning_finds_its_parent(registry: Registry, tmp_path: Path) -> None:
    states = {"base": BASE, "a": moved(BASE, 1), "b": moved(BASE, 2)}
    states["a1"] = moved(states["a"], 3)
    add(registry, write_model(tmp_path / "base", BASE))
    for name, parent in (("a", "base"), ("b", "base"), ("a1", "a")):
        add(registry, write_model(tmp_path / name, states[name]), parents=[parent])
    for number, (name, state) in enumerate(states.items()):
        found = guess(registry, tmp_path / f"of-{name}", moved(state, 40 + number))
        assert [link.name for link in found.links] == [name]
        assert found.links[0].how == "inferred"
        assert 0.3 < found.confidence < 0.95
        assert f"comes from {name}" in found.words


def test_a_foreign_merge_finds_its_parents_and_their_weights(
    registry: Registry, tmp_path: Path
) -> None:
    states = [moved(BASE, seed) for seed in range(3)]
    add(registry, write_model(tmp_path / "base", BASE))
    for number, state in enumerate(states):
        add(registry, write_model(tmp_path / f"m{number}", state), parents=["base"])
    found = guess(registry, tmp_path / "soup", mean(states[0], states[2]))
    links = {link.name: link.weight for link in found.links if link.role == "model"}
    assert links == pytest.approx({"m0": 0.5, "m2": 0.5}, abs=0.01)
    assert found.links[0].name == "base"
    assert found.confidence > 0.95
    assert {row.name for row in registry.ancestors("soup")} == {"base", "m0", "m2"}


def test_strangers_and_other_architectures_have_no_parents_here(
    registry: Registry, tmp_path: Path
) -> None:
    add(registry, write_model(tmp_path / "base", BASE))
    stranger = guess(registry, tmp_path / "stranger", fresh(99))
    assert stranger.links == ()
    assert "no relative among 1 models" in stranger.words
    draw = np.random.default_rng(0)
    other = guess(registry, tmp_path / "other", {"w": draw.normal(size=(30, 30)).astype("f4")})
    assert other.links == ()
    assert "no model here has matrices in common" in other.words


def test_heads_wrappers_and_tokenizers(registry: Registry, tmp_path: Path) -> None:
    """A new head and a prefix before all names do not hide a parent; another tokenizer is said."""
    draw = np.random.default_rng(3)
    add(registry, write_model(tmp_path / "base", BASE))
    tuned = moved(BASE, 5)
    del tuned["head.weight"]
    wrapped = {f"model.{name}": value for name, value in tuned.items()}
    wrapped["classifier.weight"] = draw.normal(size=(7, 32)).astype("f4")
    found = guess(registry, tmp_path / "wrapped", wrapped)
    assert [link.name for link in found.links] == ["base"]
    odd = write_model(tmp_path / "odd", moved(BASE, 6))
    (odd / "vocab.txt").write_text("c\nd\n")
    done = add(registry, odd)
    assert done.guess is not None
    assert "tokenizers differ" in done.guess.words
    assert done.guess.confidence < 0.4


def test_the_same_weights_are_recognised(registry: Registry, tmp_path: Path) -> None:
    add(registry, write_model(tmp_path / "base", BASE))
    found = guess(registry, tmp_path / "copy", BASE, README__md="# other words")
    assert found.confidence == 0.99
    assert "those of base" in found.words
    done = write_model(tmp_path / "half", {n: v.astype("f2") for n, v in BASE.items()})
    found = add(registry, done).guess
    assert found is not None
    assert "in float16" in found.words
