"""EMR and TALL masks: what is packed unpacks to each task's model."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.merging import merge
from stockpot.merging.methods.packed import pack_bits, tasks, unpack
from stockpot.merging.testing import MethodCase, example

from .references import REFERENCES


def unpacked_and_expected(name: str, **parameters):
    case = example(MethodCase(name, parameters), "F64")
    packed = case.run(MethodCase(name, parameters))
    base = case.base.wide()
    exact = case.expected(MethodCase(name, parameters, REFERENCES[name]))
    return packed, base, exact, case


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("emr", {}), ("emr", {"rescale": "means"}), ("tall", {"cut": 0.3})],
)
def test_each_task_gets_the_model_of_the_paper(name, parameters):
    packed, base, exact, case = unpacked_and_expected(name, **parameters)
    assert tasks(packed) == len(case.models)
    for task in range(len(case.models)):
        state = unpack(packed, base, task)
        assert set(state) == set(base)
        for tensor, values in state.items():
            if values.size:
                np.testing.assert_allclose(values, exact[f"{task}.{tensor}"], rtol=0, atol=1e-15)


def test_masks_take_one_bit_an_entry():
    packed, base, _, _ = unpacked_and_expected("emr")
    size = base["embed.weight"].size
    assert packed["emr.0.embed.weight"].dtype == np.uint8
    assert packed["emr.0.embed.weight"].size == -(-size // 8)
    assert pack_bits(np.array([True, False, True, True])).tolist() == [0b1101]


def test_emr_keeps_the_size_of_each_task_vector():
    packed, base, _, case = unpacked_and_expected("emr")
    for task, model in enumerate(case.models):
        state = unpack(packed, base, task)
        own = sum(np.abs(model.wide()[name] - base[name]).sum() for name in base)
        got = sum(np.abs(state[name] - base[name]).sum() for name in base)
        assert got == pytest.approx(own, rel=1e-12)


def test_one_model_comes_back_as_it_was():
    base = {"w": np.zeros(4, dtype=np.float32)}
    model = {"w": np.array([1.0, -2.0, 0.0, 0.5], dtype=np.float32)}
    packed = merge([model], method="emr", base=base).state
    assert np.array_equal(unpack(packed, base, 0)["w"], model["w"])


def test_what_is_not_packed_is_refused():
    with pytest.raises(InputError, match="no task masks"):
        unpack({"w": np.zeros(2)}, {"w": np.zeros(2)}, 0)
    packed, base, _, _ = unpacked_and_expected("tall")
    with pytest.raises(InputError, match="tasks 0 to 2"):
        unpack(packed, base, 3)


def test_tensors_without_a_mask_are_taken_as_they_are():
    packed, base, _, _ = unpacked_and_expected("tall")
    state = unpack({**packed, "new_head": np.ones(3)}, base, 0)
    assert np.array_equal(state["new_head"], np.ones(3))
