"""LiNeS by itself and on top of other methods."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import MethodError
from stockpot.merging import merge
from stockpot.merging.method import get_method
from stockpot.merging.methods.lines import layer_of
from stockpot.merging.testing import MethodCase, contract, example

from .references import REFERENCES


def scaled(reference):
    """LiNeS on top of a reference, for the layers of the examples (0, 1, 2)."""

    def on_top(base, models, *, alpha, beta, **values):
        merged = reference(base, models, **values)
        factors = {name: alpha + beta * (layer_of(name) or 0) / 2 for name in base}
        return {name: base[name] + factors[name] * (merged[name] - base[name]) for name in base}

    return on_top


# Factors of few bits: 0.3 would put many exact results half way between two 16-bit numbers.
QUARTERS = {"alpha": 0.25, "beta": 0.5}
SUBJECTS = [
    MethodCase("lines+ties", QUARTERS, scaled(REFERENCES["ties"])),
    MethodCase("lines+stock", QUARTERS, scaled(REFERENCES["stock"])),
    MethodCase("lines+tsv", QUARTERS, scaled(REFERENCES["tsv"])),
    MethodCase("lines+ties", QUARTERS | {"scope": "model"}, scaled(REFERENCES["ties"])),
]
CASES = [
    pytest.param(subject, check, id=f"{subject.name}-{check.__name__}")
    for subject in SUBJECTS
    for check in contract(subject)
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_on_top_of_another_method(subject, check):
    check(subject)


def test_the_first_whole_number_of_a_name_is_its_layer():
    assert layer_of("model.layers.11.mlp.up_proj.weight") == 11
    assert layer_of("blocks.0.attn.qkv.bias") == 0
    assert layer_of("vision_model.encoder.layers.2.mlp.fc1.weight") == 2
    assert layer_of("lm_head.weight") is None


def test_a_model_without_layers_is_scaled_by_alpha():
    base = {"w": np.zeros(2, dtype=np.float32)}
    model = {"w": np.ones(2, dtype=np.float32)}
    merged = merge([model], method="lines", base=base, alpha=0.5, beta=0.25).state
    assert merged["w"].tolist() == [0.5, 0.5]


def test_packed_models_cannot_be_scaled():
    with pytest.raises(MethodError, match="'emr'"):
        example(MethodCase("lines+emr")).run(MethodCase("lines+emr"))


@pytest.mark.parametrize("name", ["lines+lines", "lines+lines+ties"])
def test_lines_does_not_go_on_top_of_itself(name):
    with pytest.raises(MethodError, match="'lines' cannot change what method 'lines"):
        get_method(name)


def test_only_methods_that_say_so_go_on_top_of_others():
    with pytest.raises(MethodError, match=r"no merge method is called 'linear\+ties'"):
        get_method("linear+ties")
    with pytest.raises(MethodError, match="no merge method is called 'none_such'"):
        get_method("lines+none_such")
