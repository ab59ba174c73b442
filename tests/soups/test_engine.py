"""Blends against plain sums and against ``merge``: exact where they can be, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stockpot
from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint, write_checkpoint
from stockpot.errors import CheckpointError, NonFiniteError
from stockpot.evaluators.function import load_in_place, state_of
from stockpot.evaluators.scratch import ScratchFolder
from stockpot.soups import engine as module
from stockpot.soups.blend import Blends
from stockpot.soups.engine import SoupEngine
from tests.soups.bowls import mixed, states


def engine_of(models, base=None):
    opened = [open_checkpoint(one) for one in models]
    return SoupEngine(opened, None if base is None else open_checkpoint(base))


def pantry_of(engine):
    names = [f"m{i}" for i in range(engine.count)]
    return Blends(names, len(engine.changes), has_base=engine.base is not None)


def state(engine, blend):
    return state_of(engine.checkpoint(blend))


def test_a_blend_is_the_plain_sum():
    base, *models = states(3)
    engine = engine_of(models, base)
    coefficients = [0.5, -0.2, 0.9]
    made = state(engine, pantry_of(engine).blend("x", "x", coefficients))
    for name, value in mixed(base, models, coefficients).items():
        np.testing.assert_allclose(made[name], value, rtol=1e-14, atol=1e-14)


def test_uniform_and_stock_are_those_of_merge():
    base, *models = states(3)
    engine = engine_of(models, base)
    blends = pantry_of(engine)
    ratios = engine.stock_ratios([0, 1, 2])
    stock = blends.blend("stock", "", np.repeat(ratios[None] / 3, 3, axis=0))
    for blend, oracle in (
        (blends.uniform(), stockpot.merge(models)),
        (stock, stockpot.merge(models, method="stock", base=base)),
    ):
        for name, value in state(engine, blend).items():
            np.testing.assert_allclose(value, oracle.state[name], rtol=1e-12, atol=1e-13)


def test_without_a_base_coefficients_add_up_to_one():
    _, *models = states(3)
    engine = engine_of(models)
    blend = pantry_of(engine).blend("x", "x", [0.7, 0.7, 0.7])
    np.testing.assert_allclose(blend.coefficients.sum(axis=0), 1.0)
    made, oracle = state(engine, blend), stockpot.merge(models).state
    for name in made:
        np.testing.assert_allclose(made[name], oracle[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("code", ["F32", "BF16", "F16", "F64"])
def test_one_model_is_itself_to_the_bit(tmp_path, code):
    base, *models = states(2, dtype=np.float32)
    paths = []
    for index, model in enumerate([*models, base]):
        paths.append(tmp_path / f"{index}.safetensors")
        write_checkpoint(paths[-1], model, dtypes=dict.fromkeys(model, code))
    *own, ground = paths
    engine = engine_of(own, ground)
    blends = pantry_of(engine)
    for index, path in enumerate(own):
        made = engine.checkpoint(blends.single(index))
        with open_checkpoint(path) as known:
            assert made.digest() == known.digest()
            for name in known.names:
                np.testing.assert_array_equal(made.raw(name), known.raw(name))
    made = engine.checkpoint(blends.blend("base", "", np.zeros(2)))
    with open_checkpoint(ground) as known:
        assert all((made.raw(name) == known.raw(name)).all() for name in known.names)


def test_differences_in_a_file_give_the_same_bytes(monkeypatch):
    base, *models = states(3, dtype=np.float32)
    in_memory = engine_of(models, base)
    monkeypatch.setattr(module, "available_memory", lambda: 0)
    on_disk = engine_of(models, base)
    blend = pantry_of(in_memory).blend("x", "x", [0.3, 0.1, -0.4])
    for name in in_memory.tensors:
        np.testing.assert_array_equal(in_memory.stored(name, blend), on_disk.stored(name, blend))
    on_disk.close()


def test_what_all_share_is_not_written_again_and_numbers_are_the_first_ones(tmp_path):
    base, *models = states(2, dtype=np.float32)
    for index, one in enumerate((base, *models)):
        one["layers.0.weight"] = base["layers.0.weight"]
        one["counter"] = np.array([index])
    engine = engine_of(models, base)
    assert "layers.0.weight" not in engine.changes
    assert "counter" not in engine.changes
    blends = pantry_of(engine)
    scratch = ScratchFolder()
    for blend in (blends.uniform(), blends.single(1), blends.blend("x", "x", [2.0, -1.0])):
        folder = scratch.write(engine.checkpoint(blend))
        with open_checkpoint(folder) as written:
            assert written.read("counter")[0] == 1
            for name in written.names:
                np.testing.assert_array_equal(written.raw(name), engine.stored(name, blend))
    scratch.close()
    assert not folder.exists()


def test_a_live_module_is_overwritten_in_place():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    before = [parameter.data_ptr() for parameter in network.parameters()]
    first = {name: value.clone() for name, value in network.state_dict().items()}
    second = {n: v + 1 if v.is_floating_point() else v for n, v in first.items()}
    engine = engine_of([first, second])
    load_in_place(network, engine.checkpoint(pantry_of(engine).uniform()), engine.changes)
    assert [parameter.data_ptr() for parameter in network.parameters()] == before
    assert not network.training
    torch.testing.assert_close(network[0].weight, first["0.weight"] + 0.5)
    assert all(
        isinstance(v, torch.Tensor)
        for v in state_of(engine.checkpoint(pantry_of(engine).uniform())).values()
    )


def test_a_new_head_is_averaged_and_what_does_not_fit_is_named():
    base, *models = states(2)
    for one in models:
        one["new.weight"] = np.ones((2, 2)) * one["head.weight"][0, 0]
    engine = engine_of(models, base)
    half = pantry_of(engine).blend("x", "x", [0.2, 0.2])
    expected = (models[0]["new.weight"] + models[1]["new.weight"]) / 2
    np.testing.assert_allclose(state(engine, half)["new.weight"], expected)
    del models[1]["new.weight"]
    with pytest.raises(CheckpointError, match=r"new\.weight"):
        engine_of(models, base)
    models[1] = dict(models[0], **{"embed.weight": models[0]["embed.weight"] * np.nan})
    with pytest.raises(NonFiniteError, match=r"embed\.weight"):
        engine_of(models, base)


def test_layer_groups_part_the_tensors_in_order():
    base, *models = states(2)
    engine = engine_of(models, base)
    for count in (1, 2, 3, 9):
        groups = engine.groups(count)
        assert sorted(tensor for group in groups for tensor in group) == list(range(5))
        assert len(groups) == min(count, 5)


def test_shuffled_differences_keep_their_norms_and_have_another_identity():
    base, *models = states(3)
    engine = engine_of(models, base)
    other = engine.shuffle(1, seed=0)
    blends = pantry_of(engine)
    for index in range(3):
        own, moved = (state(each, blends.single(index)) for each in (engine, other))
        for name in base:
            norms = [np.linalg.norm(one[name] - base[name]) for one in (own, moved)]
            assert norms[0] == pytest.approx(norms[1])
        assert (index == 1) == all(np.allclose(own[n], moved[n]) for n in base)
    assert engine.identity(blends.uniform()) != other.identity(blends.uniform())


def test_identity_follows_weights_and_not_the_order_of_the_models():
    base, *models = states(3)
    engine, turned = engine_of(models, base), engine_of([models[0], models[2], models[1]], base)
    own, other = pantry_of(engine), pantry_of(turned)
    assert engine.identity(own.blend("a", "", [0.1, 0.2, 0.3])) == turned.identity(
        other.blend("b", "", [0.1, 0.3, 0.2])
    )
    assert engine.identity(own.single(0)) == MemoryCheckpoint(models[0]).digest()
    assert engine.identity(own.uniform([0])) == engine.identity(own.single(0))
