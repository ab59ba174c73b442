"""What a mergekit file may say, and how a wrong one is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stockpot
from stockpot.checkpoints import write_checkpoint
from stockpot.errors import CheckpointError, InputError, MethodError
from stockpot.merging.job import AdaptedSource, MergeJob, Spec
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe


def test_models_base_and_types(recipe):
    spec = load_recipe(
        recipe(
            """
            merge_method: ties
            base_model: <base>
            models:
              - model: <base>
              - {model: <a>, parameters: {weight: 0.5}}
              - {model: hub/id@main+other/adapter}
            dtype: float32
            out_dtype: torch.bfloat16
            """
        )
    )
    assert spec.method == "mergekit:ties"
    assert str(spec.base).endswith("base.safetensors")
    assert str(spec.models[0]).endswith("a.safetensors")
    assert spec.models[1] == AdaptedSource("hub/id@main", "other/adapter")
    assert spec.dtype == "BF16"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: arcee_fusoin\nmodels: [{model: a}]", "did you mean 'arcee_fusion'"),
        ("merge_method: linear\nmodels: [{model: a}]\nexperts: []", "no key 'experts'"),
        ("merge_method: linear\nmodels: [{model: a}]\nbase_modle: b", "did you mean 'base_model'"),
        ("merge_method: linear\nmodels: []", "exactly one of"),
        ("merge_method: linear", "exactly one of"),
        ("merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: []}]", "exactly one of"),
        ("merge_method: linear\nmodels: [a]", "expected a table"),
        ("merge_method: linear\nmodels: [{model: a+b+c}]", "MODEL+ADAPTER"),
        ("merge_method: linear\nmodels: [{model: 3}]", "expected a table"),
        ("merge_method: linear\nmodels: [{model: {model: {path: 3}}}]", "path or hub id"),
        ("merge_method: linear\nmodels: [{model: a}, {model: a}]", "stands twice"),
        ("merge_method: linear\nslices: 3", "'slices' is a list"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]", "'layer_range'"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]",
            "'layer_range'",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1]}, "
            "{model: b, layer_range: [0, 2]}]}]",
            "the same number of layers",
        ),
        ("merge_method: linear\nmodules: {default: {}}", "either 'models' or 'slices'"),
        (
            "merge_method: linear\nmodels: [{model: {model: a, override_architecture: x}}]",
            "'override_architecture' is refused",
        ),
        ("merge_method: linear\nmodels: [{model: a}]\ndtype: int4", "dtype"),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: 3", "'parameters' is a table"),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {wieght: 1}", "'weight'"),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: much}", "'weight'"),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: null}", "a value"),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {normalize: 3}",
            "'normalize': got 3",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: [1, {value: 2}]}",
            "expected a table",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "parameters: {weight: [{filter: 3, value: 2}]}",
            "part of a tensor's name",
        ),
        ("merge_method: karcher\nmodels: [{model: a}]\nparameters: {max_iter: 2.5}", "max_iter"),
        ("merge_method: linear\nmodels: [{model: a}]\nchat_template: llama3", "ships with"),
        ("merge_method: linear\nmodels: [{model: a}]\nchat_template: short", "no chat template"),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: base\ntokenizer: {}",
            "not both",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}",
            "either 'token' or 'token_id'",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\n"
            "tokenizer: {tokens: {x: {source: {kind: zero, model: a}}}}",
            "'kind' is zero",
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {pad_to_multiple_of: -1}",
            "'pad_to_multiple_of'",
        ),
        ("merge_method: linear\nmodels: [{model: a}]\nname: x\n---\nmodels: [{model: x}]", ":5: "),
        (
            "merge_method: linear\nmodels: [{model: a}]\n---\nmerge_method: linear\n"
            "models: [{model: a}]",
            "two documents",
        ),
        (
            "merge_method: linear\nmodels: [{model: y}]\nname: x\n---\nmerge_method: linear\n"
            "models: [{model: x}]\nname: y\n---\nmerge_method: linear\nmodels: [{model: x}]",
            "in a circle",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(problems, text, words):
    found = problems(text)
    assert any(words in problem for problem in found), found
    assert all("recipe.yaml:" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("merge_method: linear\nmodels: [{model: <a>}]", MethodError, "'weight' has no value"),
        (
            "merge_method: slerp\nbase_model: <base>\nmodels: [{model: <a>}]",
            MethodError,
            "'t' has no value",
        ),
        (
            "merge_method: ties\nmodels: [{model: <a>}]\nparameters: {weight: 1}",
            MethodError,
            "needs a base",
        ),
        (
            "merge_method: ties\nbase_model: <base>\nparameters: {weight: 1}\n"
            "slices: [{sources: [{model: <a>, layer_range: [0, 1]}]}]",
            MethodError,
            "not among the sources",
        ),
        (
            "merge_method: passthrough\nbase_model: <base>\nmodels: [{model: <a>}]",
            MethodError,
            "takes 1 models, got 2",
        ),
        (
            "merge_method: model_stock\nbase_model: <base>\nmodels: [{model: <a>}]",
            MethodError,
            "at least 2 models",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: <a>, layer_range: [0, 9]}]}]",
            CheckpointError,
            "no layer 4",
        ),
        (
            "merge_method: linear\nmodules: {text: {models: [{model: <a>}]}}",
            CheckpointError,
            "its modules are default",
        ),
        (
            "merge_method: della\nbase_model: <base>\nmodels: [{model: <a>}]\n"
            "parameters: {weight: 1, density: 0.9}",
            MethodError,
            "leaves (0, 1)",
        ),
    ],
)
def test_what_the_models_do_not_allow_is_refused_before_anything_is_written(
    recipe, tmp_path, text, error, words
):
    with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
        run_merge(load_recipe(recipe(text)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_setting_without_effect_is_noted(recipe):
    spec = load_recipe(
        recipe(
            """
            merge_method: karcher
            models:
              - {model: <a>, parameters: {weight: 0.3, max_iter: 3}}
              - {model: <b>}
            parameters: {int8_mask: true}
            """
        )
    )
    notes = run_merge(spec).report.warnings
    for name in ("'weight' changes nothing", "'max_iter' of a model", "'int8_mask'"):
        assert any(name in note for note in notes), name


def test_settings_of_ours_do_not_go_with_it(recipe):
    from dataclasses import replace

    spec = load_recipe(recipe("merge_method: karcher\nmodels: [{model: <a>}]"))
    for changed in ({"parameters": {"tol": 1.0}}, {"heads": "mean"}):
        with (
            pytest.raises(InputError, match="says parameters and heads itself"),
            MergeJob(replace(spec, **changed)),
        ):
            pass


def test_documents_build_on_each_other(recipe, states):
    spec = load_recipe(
        recipe(
            """
            name: first
            merge_method: linear
            models: [{model: <a>}, {model: <b>}]
            parameters: {weight: 1}
            ---
            merge_method: linear
            models: [{model: first, parameters: {weight: 3}}, {model: <c>, parameters: {weight: 1}}]
            """
        )
    )
    assert isinstance(spec.models[0], Spec)
    found = run_merge(spec).state["head.weight"]
    mean = (states["a"]["head.weight"] + states["b"]["head.weight"]) / 2
    assert found == pytest.approx((3 * mean + states["c"]["head.weight"]) / 4, rel=1e-5)


def test_the_document_that_no_other_uses_is_the_result(recipe):
    text = """
    {{name: {0}, merge_method: linear, models: [{{model: <a>}}], parameters: {{weight: 1}}}}
    ---
    {{name: {1}, merge_method: linear, models: [{{model: {0}}}], parameters: {{weight: 1}}}}
    """
    assert isinstance(load_recipe(recipe(text.format("one", "two"))).models[0], Spec)


@pytest.mark.parametrize(
    "given",
    [
        {"base": "elsewhere"},
        {"heads": "mean"},
        {"weight": 2.0},
        {"method": "ties"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_a_file_says_is_not_said_beside_it(tmp_path: Path, given: dict[str, Any]) -> None:
    """A setting beside a mergekit file would have no effect."""
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name / "model.safetensors", {"w": np.ones((2, 2), np.float32)})
    table = "{{model: {}, parameters: {{weight: 1.0}}}}"
    models = "".join(f"  - {table.format(tmp_path / name)}\n" for name in ("one", "two"))
    (tmp_path / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{models}")
    with pytest.raises(InputError):
        stockpot.merge(tmp_path / "recipe.yml", output=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
    stockpot.merge(tmp_path / "recipe.yml", output=tmp_path / "out")
