"""Recipe files, and how wrong ones are answered. mergekit's are in ``mergekit/``."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from stockpot.errors import RecipeError
from stockpot.merging import merge
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe
from stockpot.merging.settings import Rule

from .models import numpy_states, write_states


@pytest.fixture
def recipe(tmp_path):
    write_states(tmp_path, *numpy_states(3))

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def problems(path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return caught.value.problems


def test_everything_a_recipe_can_say(recipe, tmp_path):
    path = recipe(
        """
        method: ties
        base: base.safetensors
        models:
          - model0.safetensors
          - model: model1.safetensors
            weight: 0.7
            density: 0.4
          - merge:
              method: linear
              models: [model1.safetensors, model2.safetensors]
        density: 0.3
        scale: {gradient: [0.2, 1.0]}
        rules:
          - match: "*.attn.*"
            layers: 0-1
            density: 0.5
          - match: ["*.bias", "scale"]
            method: linear
        heads: mean
        dtype: bfloat16
        """
    )
    spec = load_recipe(path)
    assert spec.method == "ties"
    assert spec.parameters == {
        "density": [0.3, 0.4, 0.3],
        "weights": [1.0, 0.7, 1.0],
        "scale": {"gradient": [0.2, 1.0]},
    }
    assert spec.rules == (
        Rule(("*.attn.*",), (0, 1), None, {"density": 0.5}),
        Rule(("*.bias", "scale"), None, "linear", {}),
    )
    assert spec.base == str(tmp_path / "base.safetensors")
    assert isinstance(spec.models[2], Spec)
    merged = run_merge(spec)
    methods = {tensor.name: tensor.method for tensor in merged.report.tensors}
    assert methods["layers.0.attn.weight"] == "ties"
    assert methods["layers.0.norm.bias"] == "linear"
    assert merged.report.recipe["models"][2]["merge"]["method"] == "linear"


def test_the_same_as_in_python(recipe, tmp_path):
    path = recipe(
        """
        method: task_arithmetic
        base: base.safetensors
        models: [model0.safetensors, model1.safetensors]
        scale: 0.4
        """
    )
    states = run_merge(load_recipe(path)).state
    files = [tmp_path / f"model{i}.safetensors" for i in range(2)]
    expected = merge(files, method="task_arithmetic", base=tmp_path / "base.safetensors", scale=0.4)
    for name, values in expected.state.items():
        np.testing.assert_array_equal(states[name], values)


def test_hub_ids_stay_hub_ids(recipe):
    spec = load_recipe(recipe("models: [owner/name, ./near, model0.safetensors]"))
    assert spec.models[0] == "owner/name"
    assert str(spec.models[1]).endswith("near")


def test_every_problem_is_told_with_its_line(recipe):
    found = problems(
        recipe(
            """
            method: tise
            models:
              - model0.safetensors
              - {model: model1.safetensors, colour: red}
              - 3
            rules:
              - density: 3
              - match: 7
              - layers: a-b
                method: nothing
            heads: sometimes
            dtype: int4
            """
        )
    )
    for line, words in [
        (2, "did you mean 'ties'"),
        (5, "'colour'"),
        (6, "a model is a path"),
        (8, "by 'match' or 'layers'"),
        (9, "'match' is a pattern"),
        (10, "expected for instance 0-11"),
        (11, "no merge method"),
        (12, "heads: got 'sometimes'"),
        (13, "dtype: got 'int4'"),
    ]:
        assert any(f"recipe.yaml:{line}:" in p and words in p for p in found), (
            line,
            found,
        )
    assert len(found) >= 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", "not valid YAML"),
        ("- a\n- b", "table of keys"),
        ("models: [a]\nmodels: [b]", "stands twice"),
        ("models: []", "at least one model"),
        ("method: stock\nmodels: [a, b]", "needs a 'base'"),
        ("models: [a]\nfoo: 1", "no parameter 'foo'"),
        ("models: [a]\nrules: 3", "'rules' is a list"),
        ("models:\n  - merge: 3", "recipe inside"),
        ("models: [a, !!python/object:os.system x]", "not valid YAML"),
    ],
)
def test_wrong_recipes(recipe, text, words):
    assert any(words in problem for problem in problems(recipe(text)))


def test_a_recipe_that_is_not_there(tmp_path):
    assert "cannot read" in problems(tmp_path / "no.yaml")[0]
