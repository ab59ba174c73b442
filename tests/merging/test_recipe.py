"""Recipe files: ours and mergekit's, and how wrong ones are answered."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from stockpot.errors import RecipeError
from stockpot.merging import merge
from stockpot.merging.job import MergeJob, Spec
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


# ----------------------------------------------------------------------------------- mergekit
def test_a_mergekit_file_means_the_same(recipe, tmp_path):
    spec = load_recipe(
        recipe(
            """
            merge_method: dare_ties
            base_model: base.safetensors
            models:
              - model: base.safetensors
              - model: model0.safetensors
                parameters: {weight: 0.5, density: 0.6}
              - model: model1.safetensors
                parameters:
                  weight:
                    - {filter: attn, value: 0.1}
                    - {value: [0.0, 1.0]}
            parameters: {density: 0.9, lambda: 0.8, normalize: false, int8_mask: true}
            dtype: float32
            out_dtype: bfloat16
            """
        )
    )
    assert spec.method == "dare"
    assert len(spec.models) == 2
    assert spec.dtype == "bfloat16"
    assert spec.parameters == {
        "weights": [0.5, {"gradient": [0.0, 1.0]}],
        "density": [0.6, 0.9],
        "scale": 0.8,
        "consensus": "agreeing_sum",
    }
    assert spec.rules == (Rule(("*attn*",), parameters={"weights": [0.5, 0.1]}),)
    run_merge(spec)


@pytest.mark.parametrize(
    ("method", "ours", "parameters"),
    [
        ("linear", "linear", {}),
        ("model_stock", "stock", {"granularity": "filter"}),
        ("ties", "ties", {"consensus": "agreeing_mean"}),
        ("breadcrumbs", "breadcrumbs", {}),
        ("task_arithmetic", "task_arithmetic", {}),
        ("karcher", "karcher", {"weights": 1.0}),
        ("nuslerp", "nuslerp", {}),
    ],
)
def test_methods_have_a_counterpart(recipe, method, ours, parameters):
    extra = "parameters: {filter_wise: true}" if method == "model_stock" else ""
    spec = load_recipe(
        recipe(
            f"""
            merge_method: {method}
            base_model: base.safetensors
            models: [{{model: model0.safetensors}}, {{model: model1.safetensors}}]
            {extra}
            """
        )
    )
    assert (spec.method, dict(spec.parameters)) == (ours, parameters)
    run_merge(spec)


def test_slerp_starts_at_the_base(recipe, tmp_path):
    path = recipe(
        """
        merge_method: slerp
        base_model: model1.safetensors
        models: [{model: model0.safetensors}, {model: model1.safetensors}]
        parameters:
          t: [{filter: attn, value: 0}, {value: 1}]
        """
    )
    merged = run_merge(load_recipe(path)).state
    _, states = numpy_states(3)
    np.testing.assert_array_equal(merged["layers.0.attn.weight"], states[1]["layers.0.attn.weight"])
    np.testing.assert_array_equal(merged["head.weight"], states[0]["head.weight"])


def test_passthrough_stacks_layers(recipe):
    path = recipe(
        """
        merge_method: passthrough
        slices:
          - sources: [{model: model0.safetensors, layer_range: [0, 2]}]
          - sources: [{model: model1.safetensors, layer_range: [1, 2]}]
        """
    )
    merged = run_merge(load_recipe(path)).state
    _, states = numpy_states(3)
    np.testing.assert_array_equal(merged["layers.2.attn.weight"], states[1]["layers.1.attn.weight"])
    np.testing.assert_array_equal(merged["layers.1.norm.bias"], states[0]["layers.1.norm.bias"])
    np.testing.assert_array_equal(merged["head.weight"], states[0]["head.weight"])
    assert "layers.3.attn.weight" not in merged


def test_slices_of_several_models_are_merged(recipe):
    path = recipe(
        """
        merge_method: linear
        slices:
          - sources:
              - {model: model0.safetensors, layer_range: [0, 1], parameters: {weight: 3}}
              - {model: model1.safetensors, layer_range: [1, 2], parameters: {weight: 1}}
        """
    )
    spec = load_recipe(path)
    with MergeJob(spec) as job:
        assert [model.label.split("/")[-1] for model in job.models] == [
            "model0.safetensors[0:1]",
            "model1.safetensors[1:2]",
        ]
    merged = run_merge(spec).state
    _, (a, b, _) = numpy_states(3)
    expected = 0.75 * a["layers.0.attn.weight"] + 0.25 * b["layers.1.attn.weight"]
    np.testing.assert_allclose(merged["layers.0.attn.weight"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: arcee_fusion\nmodels: [{model: a}]", "'arcee_fusion' is not supported"),
        ("merge_method: linear\nmodels: [{model: a}]\nexperts: []", "'experts'"),
        ("merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: union", "union"),
        ("merge_method: linear\nmodels: [{model: a}]\nchat_template: llama3", "chat template"),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {tokens: {x: {}}}",
            "single tokens",
        ),
        ("merge_method: linear\nmodels: []", "at least one model"),
        ("merge_method: linear\nmodels: [a]", "table with 'model'"),
        ("merge_method: linear\nmodels: [{model: a+b}]", "behind '+'"),
        ("merge_method: linear\nmodels: [{model: 3}]", "path or hub id"),
        ("merge_method: linear\nslices: 3", "'slices' is a list"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]", "'layer_range'"),
        (
            "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {density: 7}}]",
            "density",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1]}], "
            "parameters: {t: 1}}]",
            "parameters of a slice",
        ),
    ],
)
def test_what_is_not_supported_is_said(recipe, text, words):
    assert any(words in problem for problem in problems(recipe(text)))


def test_a_layer_that_is_not_there(recipe):
    path = recipe(
        """
        merge_method: passthrough
        slices: [{sources: [{model: model0.safetensors, layer_range: [0, 9]}]}]
        """
    )
    with pytest.raises(Exception, match=r"no layer 2.*0 to 1"):
        run_merge(load_recipe(path))
