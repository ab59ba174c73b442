"""Which tensors of which models each tensor of the result is made of, and by which parameters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe

from ..models import numpy_states
from .conftest import SHAPES


def lerp(a, b, share):
    return (1 - share) * a + share * b


def test_layers_are_stacked_and_the_ends_are_those_of_the_first_and_the_last_slice(merged, states):
    found = merged(
        """
        merge_method: passthrough
        slices:
          - sources: [{model: <a>, layer_range: [2, 4]}]
          - sources: [{model: <b>, layer_range: [0, 3], parameters: {scale: 0.5}}]
        """
    )
    a, b = states["a"], states["b"]
    expected = {
        "embed.weight": a["embed.weight"],
        "layers.0.attn.weight": a["layers.2.attn.weight"],
        "layers.1.norm.bias": a["layers.3.norm.bias"],
        "layers.4.mlp.weight": 0.5 * b["layers.2.mlp.weight"],
        "norm.weight": 0.5 * b["norm.weight"],
        "head.weight": 0.5 * b["head.weight"],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert len(found) == 5 * 3 + 3


def test_gradients_run_over_the_slice_and_the_ends_take_their_first_point(merged, states):
    found = merged(
        """
        merge_method: linear
        slices:
          - sources:
              - {model: <a>, layer_range: [0, 3], parameters: {weight: [0, 1]}}
              - {model: <b>, layer_range: [1, 4], parameters: {weight: [1, 0]}}
          - sources:
              - {model: <a>, layer_range: [3, 4], parameters: {weight: [0, 1]}}
              - {model: <b>, layer_range: [0, 1], parameters: {weight: [1, 0]}}
        """
    )
    a, b = states["a"], states["b"]
    for layer, share in ((0, 0.0), (1, 0.5), (2, 1.0)):
        expected = lerp(b[f"layers.{layer + 1}.mlp.weight"], a[f"layers.{layer}.mlp.weight"], share)
        np.testing.assert_allclose(found[f"layers.{layer}.mlp.weight"], expected, rtol=1e-6)
    # A slice of one layer is at the gradient's end; what lies outside, at its beginning.
    np.testing.assert_array_equal(found["layers.3.mlp.weight"], a["layers.3.mlp.weight"])
    for name in ("embed.weight", "norm.weight", "head.weight"):
        np.testing.assert_array_equal(found[name], b[name])


def test_the_model_is_asked_before_the_slice_the_module_and_the_file(merged, states):
    found = merged(
        """
        merge_method: linear
        modules:
          default:
            slices:
              - sources:
                  - model: <a>
                    layer_range: [0, 1]
                    parameters: {weight: [{filter: attn, value: 1}]}
                  - {model: <b>, layer_range: [0, 1]}
                parameters: {weight: [{filter: mlp, value: 2}]}
              - sources:
                  - {model: <a>, layer_range: [1, 2], parameters: {weight: 4}}
                  - {model: <b>, layer_range: [1, 2]}
            parameters: {weight: [{filter: norm, value: 3}]}
        parameters: {weight: 1, normalize: false}
        """
    )
    a, b = states["a"], states["b"]
    for name, first, second in (
        ("layers.0.attn.weight", 1, 1),
        ("layers.0.mlp.weight", 2, 2),
        ("layers.0.norm.bias", 3, 3),
        ("embed.weight", 1, 1),
        ("layers.1.attn.weight", 4, 1),
        ("layers.1.norm.bias", 4, 3),
        ("norm.weight", 4, 3),
    ):
        expected = first * a[name] + second * b[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, err_msg=name)


def test_slices_may_have_unequal_sources(merged, states):
    found = merged(
        """
        merge_method: linear
        slices:
          - sources: [{model: <c>, layer_range: [0, 1]}]
          - sources: [{model: <a>, layer_range: [0, 2]}, {model: <b>, layer_range: [0, 2]}]
        parameters: {weight: 1}
        """
    )
    mean = (states["a"]["layers.0.mlp.weight"] + states["b"]["layers.0.mlp.weight"]) / 2
    np.testing.assert_allclose(found["layers.1.mlp.weight"], mean, rtol=1e-5, atol=1e-7)
    # mergekit pairs the last slice's models with as many names as the first slice has models.
    np.testing.assert_array_equal(found["norm.weight"], states["a"]["norm.weight"])


def test_slerp_goes_from_the_base_wherever_it_stands(merged, states):
    text = """
        merge_method: slerp
        base_model: <b>
        models: [{{model: {0}}}, {{model: {1}}}]
        parameters: {{t: [{{filter: attn, value: 0}}, {{value: 1}}]}}
        """
    for order in (("<a>", "<b>"), ("<b>", "<a>")):
        found = merged(text.format(*order))
        np.testing.assert_allclose(
            found["layers.0.attn.weight"], states["b"]["layers.0.attn.weight"], rtol=1e-6
        )
        np.testing.assert_allclose(found["head.weight"], states["a"]["head.weight"], rtol=1e-6)


def test_the_base_of_a_slice_counts_before_that_of_the_file(merged, states):
    found = merged(
        """
        merge_method: slerp
        base_model: <a>
        slices:
          - sources: [{model: <a>, layer_range: [0, 2]}, {model: <b>, layer_range: [0, 2]}]
          - base_model: <b>
            sources: [{model: <a>, layer_range: [2, 4]}, {model: <b>, layer_range: [2, 4]}]
        parameters: {t: 0}
        """
    )
    np.testing.assert_allclose(
        found["layers.1.mlp.weight"], states["a"]["layers.1.mlp.weight"], rtol=1e-6
    )
    np.testing.assert_allclose(
        found["layers.2.mlp.weight"], states["b"]["layers.2.mlp.weight"], rtol=1e-6
    )


def test_a_base_that_is_no_model_is_merged_too_where_a_method_has_no_base(merged, states):
    found = merged(
        """
        merge_method: linear
        base_model: <base>
        models: [{model: <a>}, {model: <b>}]
        parameters: {weight: 1}
        """
    )
    mean = sum(states[name]["head.weight"] for name in ("a", "b", "base")) / 3
    np.testing.assert_allclose(found["head.weight"], mean, rtol=1e-5, atol=1e-7)


def test_inputs_are_rounded_to_dtype_before_they_are_merged(recipe, states, tmp_path):
    spec = load_recipe(
        recipe(
            """
            merge_method: linear
            models: [{model: <a>}, {model: <b>}]
            parameters: {weight: 1}
            dtype: float16
            out_dtype: float32
            """
        )
    )
    run_merge(spec, tmp_path / "out.safetensors")
    with open_checkpoint(tmp_path / "out.safetensors") as out:
        found = out.read("head.weight")
    half = [states[name]["head.weight"].astype(np.float16).astype(np.float64) for name in "ab"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ((half[0] + half[1]) / 2).astype(np.float32))


def test_whole_numbers_must_agree(tmp_path):
    for name, count in (("a", 1), ("b", 2)):
        state = {"layers.0.w": np.ones((2, 2), np.float32), "steps": np.array(count)}
        write_checkpoint(tmp_path / f"{name}.safetensors", state)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: linear\nparameters: {weight: 1}\n"
        "models: [{model: ./a.safetensors}, {model: ./b.safetensors}]"
    )
    with pytest.raises(Exception, match="'steps' holds whole numbers that differ"):
        run_merge(load_recipe(recipe))


def folder_of(path, layers, config, seed=0):
    shapes = {n: s for n, s in SHAPES.items() if not n.startswith("layers.")}
    shapes |= {
        f"layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in (("attn.weight", (6, 6)), ("norm.bias", (6,)))
    }
    state, _ = numpy_states(0, shapes=shapes, seed=seed)
    path.mkdir()
    write_checkpoint(path / "model.safetensors", state)
    (path / "config.json").write_text(json.dumps(config))
    return state


def test_the_config_counts_the_layers_of_the_result(tmp_path):
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 4,
        "layer_types": ["full", "sliding", "full", "last"],
        "rope": [1, 2],
    }
    for name in "ab":
        folder_of(tmp_path / name, 4, config, seed=ord(name))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: ./a, layer_range: [0, 2]}]\n"
        "- sources: [{model: ./b, layer_range: [1, 4]}]\n"
    )
    run_merge(load_recipe(recipe), tmp_path / "out")
    content = json.loads((tmp_path / "out/config.json").read_text())
    assert content["num_hidden_layers"] == 5
    assert content["layer_types"] == ["full", "sliding", "sliding", "full", "last"]
    assert content["rope"] == [1, 2]


def test_what_mergekit_has_no_list_for_is_all_taken_from_the_first_slice(tmp_path):
    config = {"architectures": ["UnheardOfModel"], "num_hidden_layers": 4}
    states = [folder_of(tmp_path / name, 4, config, seed=ord(name)) for name in "ab"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: ./a, layer_range: [0, 2]}]\n"
        "- sources: [{model: ./b, layer_range: [1, 4]}]\n"
    )
    found = run_merge(load_recipe(recipe)).state
    np.testing.assert_array_equal(found["head.weight"], states[0]["head.weight"])


def test_a_merge_of_merges_keeps_a_config(tmp_path):
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "vocab_size": 7}
    for name in "ab":
        folder_of(tmp_path / name, 4, config, seed=ord(name))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: stacked\nmerge_method: passthrough\nslices:\n"
        "- sources: [{model: ./a, layer_range: [0, 2]}]\n"
        "---\nmerge_method: linear\nmodels: [{model: stacked}]\nparameters: {weight: 2}\n"
    )
    run_merge(load_recipe(recipe), tmp_path / "out")
    content = json.loads((tmp_path / "out/config.json").read_text())
    assert content["num_hidden_layers"] == 2
