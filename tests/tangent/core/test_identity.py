"""A component fits the function it was made on, not just weights of the same shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.errors import BackboneError, BaseMismatchError, InputError
from stockpot.tangent import (
    AverageComposer,
    Component,
    TangentModel,
    TensorFeed,
    aggregate,
    train,
    train_component,
)
from stockpot.tangent.rows import row_hashes
from stockpot.tangent.settings import TangentSettings
from stockpot.tasks import load_task
from tests.tangent.core.test_command import data, run
from tests.tangent.core.world import NET, write_world


class Plain(nn.Module):
    """A module whose settings stand nowhere but in its forward."""

    def __init__(self, *, squash=torch.relu, eps: float = 1e-5, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.norm.eps = eps
        self.squash, self.scale = squash, scale
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5

    def forward(self, rows):
        return self.head(self.squash(self.norm(self.first(rows * self.scale))))


def made(module: nn.Module, labels=None, classes=("a", "b", "c"), task="x", **changes):
    generator = torch.Generator().manual_seed(0)
    feed = TensorFeed(torch.randn(24, 6, generator=generator))
    labels = np.arange(24) % 3 if labels is None else labels
    rows = np.arange(24)
    about = {"task": task, "classes": classes, "fingerprint": task, "quiet": True, **changes}
    settings = TangentSettings(epochs=1)
    model = TangentModel(module)
    return train_component(model, feed, labels, rows, settings=settings, **about)


@pytest.mark.parametrize(
    "other",
    [
        {"squash": torch.tanh},
        {"squash": nn.functional.gelu},
        {"squash": nn.functional.leaky_relu},
        {"eps": 1e-3},
        {"eps": 0.5},
        {"scale": 1.01},
        {"scale": 0.5},
    ],
    ids=["tanh", "gelu", "leaky_relu", "eps", "far eps", "scale", "far scale"],
)
def test_the_same_weights_in_another_function_are_refused(other) -> None:
    component = made(Plain())
    AverageComposer(TangentModel(Plain())).compose([component])
    with pytest.raises(BaseMismatchError, match="computes something else"):
        AverageComposer(TangentModel(Plain(**other))).compose([component])
    stranger = made(Plain(**other), task="y")
    assert stranger.base_digest == component.base_digest
    with pytest.raises(BaseMismatchError, match="computes something else"):
        aggregate([component, stranger])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_same_numbers_in_another_type_are_the_same_base(dtype) -> None:
    coarse = Plain().to(torch.float16 if dtype == torch.float16 else torch.bfloat16)
    single, other = Plain(), Plain().to(dtype)
    for module in (single, other):
        module.load_state_dict(coarse.state_dict())
    one, two = TangentModel(single), TangentModel(other)
    assert (one.base_digest, one.head_digest) == (two.base_digest, two.head_digest)
    component = made(single)
    AverageComposer(two).compose([component])
    with torch.no_grad():
        other.first.weight[0, 0] += 0.5
    assert TangentModel(other).base_digest != one.base_digest


def test_columns_are_held_against_each_other_by_name() -> None:
    one = made(Plain(), classes=("0", "1", "2"))
    two = made(Plain(), classes=("1", "2", "3"), task="y")
    assert one.head_digest == two.head_digest
    for compose in (aggregate, AverageComposer(TangentModel(Plain())).compose):
        with pytest.raises(BaseMismatchError, match="columns mean different things"):
            compose([one, two])
    named = AverageComposer(TangentModel(Plain()), ("0", "1", "2"))
    named.compose([one])
    with pytest.raises(BaseMismatchError, match="columns mean different things"):
        named.compose([two])


@pytest.mark.parametrize("labels", [np.arange(24) % 3 * 0.9, np.arange(24) % 3 == 0])
def test_labels_are_whole_numbers(labels) -> None:
    with pytest.raises(InputError, match="expected whole numbers"):
        made(Plain(), labels=labels)


def site(folder: Path, digits: tuple[int, int], **changes) -> Path:
    """A site whose data has two of the four classes, named."""
    folder.mkdir()
    recipe = write_world(folder, training={"epochs": 1}, **changes)
    with np.load(folder / "data.npz") as stored:
        rows = np.isin(stored["labels"], digits)
        names = np.array([f"digit{label}" for label in stored["labels"][rows]])
        arrays = {"inputs": stored["inputs"][rows], "labels": names}
    np.savez(folder / "data.npz", **arrays, domains=np.full(len(names), folder.name))
    return recipe


def test_sites_with_other_classes_are_aligned_by_name_or_refused(tmp_path) -> None:
    recipes = [site(tmp_path / "north", (0, 1)), site(tmp_path / "south", (1, 2))]
    for recipe in recipes:
        train(recipe, recipe.parent / "out", backend="serial", quiet=True)
    outs = [recipe.parent / "out" for recipe in recipes]
    said = run("compose", *outs, "-o", tmp_path / "all.safetensors", code=2)
    assert "columns mean different things" in said
    assert not (tmp_path / "all.safetensors").exists()
    names = {"head": {"classes": ["digit0", "digit1", "digit2"]}}
    for name, digits in (("east", (0, 1)), ("west", (1, 2))):
        recipe = site(tmp_path / name, digits, **names)
        train(recipe, recipe.parent / "out", backend="serial", quiet=True)
    outs = [tmp_path / name / "out" for name in ("east", "west")]
    run("compose", *outs, "-o", tmp_path / "all.safetensors")
    west = Component.load(tmp_path / "west" / "out" / "components" / "west.safetensors")
    assert west.classes == ("digit1", "digit2")
    assert data("eval", tmp_path / "west" / "recipe.yaml", outs[1])["examples"] > 0
    recipe = site(tmp_path / "other", (0, 3), **names)
    said = run("train", recipe, "-o", tmp_path / "other" / "out", code=2)
    assert "'digit3'" in said


@pytest.mark.parametrize("kind", ["average", "statistics"])
def test_a_network_that_was_edited_is_refused(tmp_path, kind) -> None:
    composer = {"kind": kind}
    composer |= (
        {"dimension": 16, "random_dimension": 16, "directions": 1} if kind == "statistics" else {}
    )
    recipe = write_world(tmp_path, training={"epochs": 1}, composer=composer)
    train(recipe, tmp_path / "out", backend="serial", quiet=True)
    (tmp_path / "net.py").write_text(NET.replace("nn.ReLU()", "nn.Sigmoid()"))
    assert "computes something else" in run("eval", recipe, tmp_path / "out", code=2)


@pytest.mark.parametrize("kind", ["average", "statistics"])
@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_a_forward_pass_that_is_random_is_refused(tmp_path, kind, rate) -> None:
    composer = {"kind": kind}
    composer |= (
        {"dimension": 16, "random_dimension": 16, "directions": 1} if kind == "statistics" else {}
    )
    recipe = write_world(tmp_path, composer=composer)
    noisy = "class Noisy(nn.Module):\n    def forward(self, x):\n        return "
    noisy += f"nn.functional.dropout(x, {rate}, training=True)\n\n\n"
    changed = NET.replace("def net", noisy + "def net").replace("nn.ReLU()", "Noisy()")
    (tmp_path / "net.py").write_text(changed)
    said = run("train", recipe, "-o", tmp_path / "out", code=2)
    assert "is not deterministic" in said
    assert not (tmp_path / "out").exists()


def test_a_random_module_is_refused_before_training() -> None:
    def noise(rows):
        return torch.relu(rows) + 0.1 * torch.randn(rows.shape)

    with pytest.raises(BackboneError, match="not deterministic"):
        made(Plain(squash=noise))


def test_components_of_older_versions_fit(tmp_path) -> None:
    """They do not say what their base computed: then nothing is held against it."""
    old = replace(made(Plain()), function={})
    path = old.save(tmp_path / "old.safetensors")
    assert '"format":1' in Component.load(path).description
    AverageComposer(TangentModel(Plain())).compose([Component.load(path), made(Plain(), task="y")])


def test_a_row_that_goes_moves_no_other_and_a_new_site_retrains_nobody(tmp_path) -> None:
    recipe = write_world(tmp_path, training={"epochs": 1}, limit_per_domain=60)
    first = train(recipe, tmp_path / "out", backend="serial", quiet=True)
    with np.load(tmp_path / "data.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    order = np.random.default_rng(1).permutation(len(arrays["labels"]))
    arrays = {key: value[order] for key, value in arrays.items()}
    gone = np.flatnonzero(arrays["domains"] == "east")[3]
    arrays = {key: np.delete(value, gone, 0) for key, value in arrays.items()}
    more = {key: value[:30].copy() for key, value in arrays.items()}
    more["inputs"] += 7
    more["domains"][:] = "west"
    np.savez(tmp_path / "data.npz", **{k: np.concatenate([more[k], arrays[k]]) for k in arrays})
    jobs = tmp_path / "out" / "work" / "jobs"
    before = {path.name for path in jobs.iterdir()}
    second = train(recipe, tmp_path / "out", backend="serial", quiet=True)
    one, two = ({c.name: c.digest for c in done.results.components} for done in (first, second))
    assert (two["north"], two["south"]) == (one["north"], one["south"])
    # West is new, and east lost a row that it may have been tested on.
    assert len({path.name for path in jobs.iterdir()} - before) <= 2


def test_rows_under_two_names_are_told(tmp_path) -> None:
    recipe = write_world(tmp_path, training={"epochs": 1})
    with np.load(tmp_path / "data.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    rows = arrays["domains"] == "north"
    task = load_task({"kind": "arrays", "path": "data.npz"}, root=tmp_path)
    assert len(set(row_hashes(task))) == len(task)
    more = {key: value[rows][:20].copy() for key, value in arrays.items()}
    more["domains"][:] = "south"
    np.savez(tmp_path / "data.npz", **{k: np.concatenate([arrays[k], more[k]]) for k in arrays})
    recipe.write_text(
        recipe.read_text().replace("kind: arrays", "kind: arrays\n  duplicates: keep")
    )
    (note,) = data("train", recipe, "-o", tmp_path / "out", "--backend", "serial")["notes"]
    assert "stand under 'north' and 'south'" in note
    forgotten = data("forget", recipe, tmp_path / "out", "south")
    assert forgotten["shared"][0]["names"] == ["north", "south"]
    # They stay with the north, who never withdrew.
    run("train", recipe, "-o", tmp_path / "out", "--only", "north", "--backend", "serial")
