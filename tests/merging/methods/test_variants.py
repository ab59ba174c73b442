"""Parameters away from their defaults, against the same plain references."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.merging.testing import (
    MethodCase,
    blocks_and_threads_change_no_bit,
    every_float_type_is_merged_as_the_formula_says,
    order_of_models_does_not_matter,
    sixteen_bit_results_are_correctly_rounded,
)

from .references import REFERENCES

VARIANTS = [
    ("ties", {"scope": "model"}),
    ("ties", {"scope": "model", "sign_tie": "majority"}),
    ("ties", {"sign_tie": "majority", "density": 0.6}),
    ("ties", {"consensus": "agreeing_sum", "scale": 0.25}),
    ("ties", {"density": [0.1, 0.5, 1.0], "weights": [0.5, 1.0, 2.0]}),
    ("dare", {"density": 0.25, "consensus": "agreeing_mean", "seed": 7}),
    ("dare", {"density": [0.25, 1.0, 0.5], "scale": 0.5}),
    ("della", {"epsilon": 0.4, "consensus": "sum", "seed": 3}),
    ("breadcrumbs", {"scope": "tensor", "density": 0.3, "gamma": 0.05}),
    ("breadcrumbs", {"gamma": [0.0, 0.1, 0.5], "consensus": "agreeing_sum"}),
    ("consensus", {"cut": [0.2, 0.4, 0.6], "minimum": 1, "scale": 0.5}),
    ("sce", {"density": 1.0}),
    ("pcb", {"scope": "model", "density": 0.3, "clip": 0.01}),
    ("magmax", {"scale": 1.0}),
    ("ram", {"epsilon": 0.002}),
    ("ram_plus", {"epsilon": 0.002, "rescale": 0.5, "limit": 10.0}),
    ("ram_plus", {"epsilon": 0.004, "rescale": 0.5, "scope": "tensor"}),
    ("slerp", {"t": 0.2}),
    ("nuslerp", {"scope": "row", "weights": [3.0, 1.0]}),
    ("karcher", {"weights": [3.0, 1.0, 0.5]}),
    ("stock", {"granularity": "filter", "average": "angle"}),
    ("stock", {"granularity": "global"}),
    ("lines", {"alpha": 0.5, "beta": 0.25, "weights": [1.0, 0.5, -0.5]}),
    ("iso_cts", {"common": 0.25, "scale": 1.0}),
    ("wudi", {"solver": "exact"}),
    ("doge", {"steps": 5, "subspace": 2, "density": 1.0}),
    ("cocktail", {"losses": [0.2, 0.9, 1.4], "base_share": 0.25, "temperature": 0.5}),
    ("linear", {"weights": [2.0, 1.0, 5.0]}),
    ("task_arithmetic", {"scale": 0.3, "weights": [1.0, -1.0, 0.5]}),
]


@pytest.mark.parametrize(
    ("name", "parameters"), VARIANTS, ids=[f"{name}-{values}" for name, values in VARIANTS]
)
def test_variant(name, parameters):
    subject = MethodCase(name, parameters, REFERENCES[name])
    every_float_type_is_merged_as_the_formula_says(subject)
    sixteen_bit_results_are_correctly_rounded(subject)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ties", {"scope": "model", "sign_tie": "majority"}),
        ("breadcrumbs", {"scope": "tensor"}),
        ("pcb", {"scope": "model"}),
        ("nuslerp", {"scope": "row"}),
    ],
)
def test_other_scopes_do_not_depend_on_blocks_and_threads(name, parameters):
    blocks_and_threads_change_no_bit(MethodCase(name, parameters))


def test_the_weights_go_with_the_models_when_these_change_places():
    order_of_models_does_not_matter(
        MethodCase("ties", {"weights": [0.5, 1.0, 2.0], "density": [0.1, 0.2, 0.9]})
    )


def test_a_reference_that_disagrees_is_noticed():
    wrong = MethodCase(
        "ties", {}, lambda *arguments, **values: REFERENCES["magmax"](*arguments, scale=1)
    )
    with pytest.raises(AssertionError, match="expected"):
        every_float_type_is_merged_as_the_formula_says(wrong)
    with pytest.raises(AssertionError, match="correctly rounded"):
        sixteen_bit_results_are_correctly_rounded(wrong)


def test_sign_tie_rules_differ_only_where_entries_cancel():
    from stockpot.merging import merge

    base = {"w": np.zeros(6, dtype=np.float32)}
    one = {"w": np.array([1, -1, -1, -1, 2, 0], dtype=np.float32)}
    two = {"w": np.array([-1, -1, -1, -2, 1, 0], dtype=np.float32)}
    merged = {
        rule: merge([one, two], method="ties", base=base, density=1.0, sign_tie=rule).state["w"]
        for rule in ("positive", "majority")
    }
    assert merged["positive"].tolist() == [1, -1, -1, -1.5, 1.5, 0]
    assert merged["majority"].tolist() == [-1, -1, -1, -1.5, 1.5, 0]
