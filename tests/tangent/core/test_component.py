"""A component file says what it is, and nothing that was changed is taken for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from stockpot.checkpoints.torch_io import save_state
from stockpot.errors import BaseMismatchError, CheckpointError, InputError, NonFiniteError
from stockpot.tangent import Component, TangentModel
from tests.tangent.core.tiny import Network, component


@pytest.fixture(scope="module")
def model() -> TangentModel:
    return TangentModel(Network())


def test_any_safetensors_reader_reads_it(model, tmp_path) -> None:
    made = component(model, "a")
    path = made.save(tmp_path / "deep" / "a.safetensors")
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == sorted(made.tensors)
        assert file.metadata()["digest"] == made.digest
    found = Component.load(path)
    for field in ("kind", "task", "classes", "examples", "seed", "base_digest", "head_digest"):
        assert getattr(found, field) == getattr(made, field)
    assert found.settings == made.settings
    assert found.metrics == made.metrics


def test_the_digest_covers_everything(model) -> None:
    made = component(model, "a")
    name = next(iter(made.tensors))
    others = [
        replace(made, task="b"),
        replace(made, classes=("x",)),
        replace(made, examples=1),
        replace(made, data_fingerprint="x"),
        replace(made, seed=9),
        replace(made, settings={"steps": 4}),
        replace(made, metrics={}),
        replace(made, base_digest="0"),
        replace(made, tensors={**made.tensors, name: made.tensors[name].double()}),
        replace(made, tensors={**made.tensors, name: made.tensors[name] + 1e-6}),
    ]
    assert len({one.digest for one in [made, *others]}) == len(others) + 1
    assert component(model, "a").digest == made.digest


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"kind": "soup"}, InputError),
        ({"task": ""}, InputError),
        ({"examples": -1}, InputError),
        ({"metrics": {"loss": float("nan")}}, InputError),
        ({"settings": {"x": object()}}, InputError),
        ({"tensors": {"w": torch.tensor([1.0, float("inf")])}}, NonFiniteError),
    ],
)
def test_what_is_no_component_cannot_be_made(model, changes, error) -> None:
    with pytest.raises(error):
        component(model, **{"task": "a", **changes})


def test_other_files_are_refused(model, tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    save_state(path, {"w": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="no component"):
        Component.load(path)
    made = component(model, "a")
    about = made.description
    for text, words in (
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
        (about.replace('"format":1', '"format":2'), "upgrade"),
        (about.replace('"delta"', '"soup"'), "soup"),
        (about.replace('"seed"', '"sead"'), "cannot be read"),
    ):
        save_state(path, made.tensors, {"component": text, "digest": made.digest})
        with pytest.raises(CheckpointError, match=words):
            Component.load(path)


def test_the_base_is_named_where_it_differs(model) -> None:
    made = component(model, "a")
    made.check_base(model.base_digest, model.head_digest)
    with pytest.raises(BaseMismatchError, match="base"):
        made.check_base("0" * 64, model.head_digest)
    with pytest.raises(BaseMismatchError, match="head"):
        made.check_base(model.base_digest, "0" * 64)


def test_digests_tell_base_and_head_apart() -> None:
    one, two, three = Network(), Network(), Network()
    with torch.no_grad():
        two.head.bias[0] += 1
        three.features.bn.running_mean[0] += 1
    first, second, third = (TangentModel(network) for network in (one, two, three))
    assert first.base_digest == second.base_digest != third.base_digest
    assert first.head_digest == third.head_digest != second.head_digest
    exact = TangentModel(one, precision="float64")
    assert (exact.base_digest, exact.head_digest) == (first.base_digest, first.head_digest)
