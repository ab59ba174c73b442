"""A method of one's own gets the contract's checks, and they find what is wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.merging.method import _REGISTERED, Block, Pass, Real, merge_method, sum_arrays
from stockpot.merging.testing import (
    MethodCase,
    blocks_and_threads_change_no_bit,
    contract,
    equal_models_give_their_bytes,
    models_equal_to_the_base_change_nothing,
    order_of_models_does_not_matter,
)


@pytest.fixture(autouse=True)
def forget():
    before = dict(_REGISTERED)
    yield
    _REGISTERED.clear()
    _REGISTERED.update(before)


def register(name: str, function, **declared):
    merge_method(name, title=name, formula="", source="", **{"base": "required", **declared})(
        function
    )
    return name


def test_the_example_of_the_documentation_fulfils_it():
    def half_way(block: Block, *, scale: float):
        total = sum_arrays(block.deltas)
        total *= scale / block.count
        total += block.base
        return total

    def formula(base, models, *, scale):
        return {n: x + scale * np.mean([m[n] - x for m in models], axis=0) for n, x in base.items()}

    register("half_way", half_way, parameters=(Real("scale", 0.5, 0.0, 1.0),))
    subject = MethodCase("half_way", reference=formula)
    checks = contract(subject)
    assert len(checks) >= 9
    for check in checks:
        check(subject)


def test_a_constant_that_is_added_is_found():
    register("shifted", lambda block: block.base + 0.5)
    with pytest.raises(AssertionError, match="equal models and base"):
        models_equal_to_the_base_change_nothing(MethodCase("shifted"))


def test_an_average_that_rounds_is_found():
    def careless(block: Block):
        return sum_arrays([model * (1 / block.count) for model in block.models])

    register("careless", careless, base="none")
    with pytest.raises(AssertionError, match="equal models"):
        equal_models_give_their_bytes(MethodCase("careless", averages=True))


def test_a_sum_over_the_block_is_found():
    register("by_block", lambda block: block.base + block.xp.mean(block.deltas[0]))
    with pytest.raises(AssertionError, match="blocks of"):
        blocks_and_threads_change_no_bit(MethodCase("by_block"))


def test_a_first_model_that_is_preferred_is_found():
    register("first", lambda block: block.models[0])
    with pytest.raises(AssertionError, match="order of the models"):
        order_of_models_does_not_matter(MethodCase("first"))


def test_a_sum_of_a_pass_is_not_found_fault_with():
    def norm(block: Block):
        return {"norm": block.total(block.deltas[0] * block.deltas[0])}

    def scaled(block: Block):
        return block.base + block.deltas[0] * min(block.statistics["norm"], 1.0)

    register("by_norm", scaled, passes=(Pass(norm),))
    blocks_and_threads_change_no_bit(MethodCase("by_norm"))
