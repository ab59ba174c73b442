"""Rules and gradients: which parameters a tensor gets."""

from __future__ import annotations

import pytest

from stockpot.errors import MethodError
from stockpot.merging.settings import Rule, Settings, layer_of

NAMES = ["embed.weight", *(f"model.layers.{i}.mlp.w" for i in range(5)), "lm_head.weight"]


def settings(method="task_arithmetic", rules=(), **parameters):
    return Settings(method, parameters, models=2, rules=rules, names=NAMES)


def test_the_number_of_a_layer_is_the_first_in_the_name():
    assert layer_of("model.layers.12.experts.3.w") == 12
    assert layer_of("encoder.block.0") == 0
    assert layer_of("0.weight") == 0
    assert layer_of("conv1.weight") is None


def test_a_gradient_runs_from_the_first_to_the_last_layer():
    found = settings(scale={"gradient": [0.0, 1.0, 0.0]})
    scales = [found.of(name)[1]["scale"] for name in NAMES]
    assert scales == [0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    last = settings(scale={"gradient": [0.0, 1.0]}).of("lm_head.weight")[1]["scale"]
    assert last == 1.0


def test_each_model_may_have_its_own_gradient():
    found = settings(weights=[{"gradient": [0, 1]}, 0.5])
    assert found.of("model.layers.4.mlp.w")[1]["weights"] == [1.0, 0.5]
    assert found.of("model.layers.0.mlp.w")[1]["weights"] == [0.0, 0.5]


def test_later_rules_win_parameter_by_parameter():
    rules = [
        Rule(("*.mlp.*",), parameters={"scale": 0.1, "weights": 3.0}),
        Rule(layers=(2, 3), parameters={"scale": 0.2}),
        Rule(("lm_head.*", "embed.*"), method="linear"),
    ]
    found = settings(rules=rules, scale=0.9)
    assert found.of("model.layers.1.mlp.w")[1] == {"scale": 0.1, "weights": [3.0, 3.0]}
    assert found.of("model.layers.2.mlp.w")[1] == {"scale": 0.2, "weights": [3.0, 3.0]}
    method, parameters = found.of("embed.weight")
    assert method.name == "linear"
    assert parameters == {"weights": [1.0, 1.0], "normalize": True}
    assert [method.name for method in found.methods()] == ["task_arithmetic", "linear"]


def test_a_wrong_value_anywhere_is_refused_at_once():
    with pytest.raises(MethodError, match="'density'"):
        settings("ties", [Rule(parameters={"density": 2.0})])
    with pytest.raises(MethodError, match="density"):
        settings("ties", density={"gradient": [0.5, 1.5]})
    with pytest.raises(MethodError, match="expected a list of numbers"):
        settings(scale={"gradient": ["a"]})
    with pytest.raises(MethodError, match="can have no gradient"):
        settings("stock", granularity={"gradient": [1, 2]})
