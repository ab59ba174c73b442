"""What a recipe may say, and what is said where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.continual.methods import METHODS
from stockpot.continual.recipe import load_recipe, parse_recipe
from stockpot.errors import RecipeError
from tests.continual.tiny import recipe


def test_all_methods_by_default_in_the_order_of_the_table() -> None:
    assert parse_recipe(recipe()).method_names == list(METHODS)
    some = parse_recipe(recipe(methods=["ridge", "tmc"]))
    assert some.method_names == ["tmc", "ridge"]


def test_the_square_loss_control_is_the_non_linear_run_with_another_loss() -> None:
    made = parse_recipe(recipe(nonlinear_square={"learning_rate": 0.03}))
    settings = made.square_settings()
    assert (settings.loss, settings.learning_rate, settings.epochs) == ("square", 0.03, 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["tmcc"]}, "did you mean 'tmc'"),
        (
            {"settings": [{"mode": "class", "classes": 2, "published": {"soop": 3}}]},
            "settings.*did you mean 'soup'",
        ),
        ({"methods": ["ridge"]}, "baseline 'tmc' is not among"),
        ({"settings": [{"mode": "data"}]}, "needs 'parts'"),
        (
            {"settings": [{"mode": "class", "classes": 2, "parts": 3}]},
            "needs one of 'parts' and 'classes'",
        ),
        ({"settings": [{"mode": "class", "classes": 2}] * 2}, "stands twice"),
        ({"nonlinear_square": {"kapppa": 3}}, "kapppa"),
        ({"trails": 3}, "did you mean 'trials'"),
    ],
)
def test_mistakes_are_named(change, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe(recipe(**change))


def test_changes_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: {kind: function, function: 'a:b'}\n"
        "backbone: {kind: function, name: 'a:b'}\n"
        "settings: [{mode: data, parts: 2}]\n"
    )
    made = load_recipe(path, ["trials=2", "tangent.epochs=3", "methods=[tmc]"])
    assert (made.trials, made.tangent.epochs, made.method_names) == (2, 3, ["tmc"])
    for wrong in ("trials", "=3", "trials.x=1"):
        with pytest.raises(RecipeError, match="cannot put"):
            load_recipe(path, ["trials=2", wrong])
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        parse_recipe([1])


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples" / "tangent").rglob("*.yaml")), ids=str
)
def test_shipped_recipes_are_right(path: Path) -> None:
    made = load_recipe(path)
    assert made.method_names
    if path.parent.name == "paper":
        training = made.tangent
        assert (training.learning_rate, training.norm_penalty) == (1e-4, 1e-5)
        assert (training.epochs, training.milestones, made.kappa["class"]) == (50, (0.5, 0.8), 15)
