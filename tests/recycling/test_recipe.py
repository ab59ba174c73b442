"""A recipe is checked whole: every problem at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.errors import RecipeError
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import load_recipe, parse_recipe

GOOD = """\
title: Good
task:
  kind: text
  path: data.csv
backbone:
  kind: transformers
  name: some/model
training:
  steps: 100
  learning_rate: [1.0e-4, 1.0e-5]
auxiliaries:
  - name: wild
    weights: other/model
runs: 4
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert caught.value.exit_code == 2
    return [line.replace(str(file), "recipe.yaml") for line in caught.value.problems]


def test_a_good_recipe_gets_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD)
    recipe = load_recipe(file)
    assert recipe.training.steps == 100
    assert recipe.final.protocol == "auto"
    assert recipe.protocol_names == [n for n, p in PROTOCOLS.items() if not p.over_trials]


def test_without_auxiliaries_only_protocols_that_need_none() -> None:
    recipe = parse_recipe(
        {
            "task": {"kind": "text", "path": "x"},
            "backbone": {"kind": "timm", "name": "x"},
            "trials": 2,
        }
    )
    assert "soup_pooled" in recipe.protocol_names
    assert not any("ratatouille" in name for name in recipe.protocol_names)
    assert recipe.final.protocol == "auto"


def test_auto_needs_a_row_that_validation_can_choose() -> None:
    value = {
        "task": {"kind": "text", "path": "x"},
        "backbone": {"kind": "timm", "name": "x"},
        "protocols": ["single", "ensemble"],
    }
    with pytest.raises(RecipeError, match="none of 'protocols' gives a set of weights"):
        parse_recipe(value)
    for protocol in ("ensemble", "oracle", "automatic"):
        with pytest.raises(RecipeError, match="gives no single set of weights"):
            parse_recipe({**value, "protocols": None, "final": {"protocol": protocol}})


def test_all_problems_at_once_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("  steps: 100", "  stepps: 100\n  batch_size: 0").replace(
        "runs: 4", "runs: one\nprotocols: [erm, ratatuille_uniform]"
    )
    assert problems(tmp_path, text) == [
        "recipe.yaml:9: training.stepps: unknown key 'stepps'; did you mean 'steps'?",
        "recipe.yaml:10: training.batch_size: Input should be greater than or equal to 1, got 0",
        "recipe.yaml:15: runs: Input should be a valid integer, unable to parse string as an "
        "integer, got 'one'",
        "recipe.yaml:16: protocols: unknown protocol 'ratatuille_uniform'; "
        "did you mean 'ratatouille_uniform'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("title: Good", "title: [", "not valid YAML"),
        ("title: Good", "runs: 2", "'runs' stands twice (first on 1)"),
        ("  path: data.csv\n", "", "recipe.yaml:2: task.path: is required"),
        (
            "  kind: text\n",
            "  kind: pictures\n",
            "recipe.yaml:3: task.kind: unknown kind 'pictures'",
        ),
        ("    weights: other/model", "    rotation: false", "give exactly one of"),
        ("  learning_rate: [1.0e-4, 1.0e-5]", "  learning_rate: []", "empty"),
        ("  learning_rate: [1.0e-4, 1.0e-5]", "  learning_rate: [-1]", "greater than 0"),
        ("runs: 4", "final: {protocol: ensemble}", "gives no single set of weights"),
        (
            "runs: 4",
            "protocols: [erm]\nfinal: {protocol: soup_uniform}",
            "is not among 'protocols'",
        ),
        (
            "auxiliaries:\n  - name: wild\n    weights: other/model\n",
            "protocols: [fusing]\n",
            "'fusing' needs 'auxiliaries'",
        ),
        ("runs: 4", "  - name: wild\n    rotation: true", "auxiliary 'wild' stands twice"),
        ("  steps: 100", "  steps: 100\n  epochs: 2", "give one of 'steps' and 'epochs', not both"),
        ("  steps: 100", "  epochs: 0", "greater than 0"),
        (
            "  steps: 100",
            "  warmup_steps: 1\n  warmup_ratio: 0.1",
            "give one of 'warmup_steps' and 'warmup_ratio', not both",
        ),
        ("  steps: 100", "  momentum: 0.5", "'momentum' is of the optimizer sgd, not of adam"),
        ("  steps: 100", "  nesterov: true", "'nesterov' is of the optimizer sgd, not of adam"),
        ("  steps: 100", "  optimizer: lion", "'adam', 'adamw' or 'sgd'"),
        ("  steps: 100", "  schedule: step", "'constant', 'linear' or 'cosine'"),
        ("  steps: 100", "  label_smoothing: 1", "less than 1"),
        ("  steps: 100", "  class_weights: {good: 0}", "greater than 0"),
        ("  steps: 100", "  class_weights: even", "'balanced'"),
        ("  steps: 100", "  early_stopping: 0", "greater than or equal to 1"),
        ("  steps: 100", "  accumulate: 0", "greater than or equal to 1"),
        ("  steps: 100", "  clip_norm: 0", "greater than 0"),
        ("  steps: 100", "  average_at: start", "'best' or 'end'"),
        ("  steps: 100", "  swad: {ratio: -1}", "greater than or equal to 0"),
        (
            "  learning_rate: [1.0e-4, 1.0e-5]",
            "  learning_rate: {first: 1.0e-4, low: 1.0e-3, high: 1.0e-5}",
            "'low' has to be below 'high'",
        ),
        (
            "  learning_rate: [1.0e-4, 1.0e-5]",
            "  learning_rate: {first: 1.0e-4}",
            "give either 'choices' or 'low' and 'high'",
        ),
        (
            "runs: 4",
            "  - name: two\n    weights: a\n  - name: three\n    weights: b\nruns: 3",
            "3 runs cannot start from 4 inits (the base, wild, two, three): 'three' would never",
        ),
    ],
)
def test_each_problem_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert any(expected in line for line in problems(tmp_path, GOOD.replace(old, new)))


def test_missing_or_odd_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "bytes.yaml")
    assert "a recipe is a mapping" in problems(tmp_path, "- a list\n")[0]
    assert "not valid YAML" in problems(tmp_path, "a: !!python/object/apply:os.system [ls]\n")[0]
