"""A key that would change nothing is refused by name, whatever key it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from stockpot.declared import is_given
from stockpot.errors import OutputError, RecipeError, TaskError
from stockpot.outputs import check_output
from stockpot.recycling.effects import EFFECTS
from stockpot.recycling.recipe import Recipe, parse_recipe
from stockpot.tasks.duplicates import count_shared

SMALL = {
    "task": {"kind": "text", "path": "t.csv"},
    "backbone": {"kind": "function", "name": "net.py:build"},
}
VALUES = {
    "backbone.image_size": 64,
    "backbone.mean": [0.1, 0.1, 0.1],
    "backbone.std": [0.1, 0.1, 0.1],
    "backbone.pooling": "cls",
    "backbone.max_length": 32,
    "backbone.batchnorm": "reestimate",
    "training.views": 9,
    "training.early_stopping": 3,
    "training.head_only_steps": 9,
    "training.swad": {"converge": 9},
    "test_fraction": 0.5,
    "trajectory": [0.5],
    "periodic.every": 5,
    "periodic.models": 3,
    "periodic.optimizer_state": "reset",
    "greedy_on": "mean",
}


def with_value(key: str) -> Recipe:
    section, _, name = key.rpartition(".")
    change = {name: VALUES[key]}
    whole = {section: {**SMALL.get(section, {}), **change}} if section else change
    return parse_recipe({**SMALL, **whole})


@pytest.mark.parametrize("key", EFFECTS)
def test_every_declared_key_is_one_of_the_recipe_and_counts_where_itis_given(key: str) -> None:
    assert is_given(with_value(key), key)
    assert not is_given(parse_recipe(SMALL), key)
    assert is_given(parse_recipe(with_value(key).model_dump()), key)
    assert not is_given(parse_recipe(parse_recipe(SMALL).model_dump()), key)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "training: {learning_rate: {first: 1, low: 2, high: 1}}",
            ["training.learning_rate: 'low'"],
        ),
        ("training: null", ["training: expected a mapping, got None"]),
        ("training: {learning_rate: null}", ["expected a list or a number or a mapping, got None"]),
        (
            "training: {learning_rate: [1, -1]}",
            ["training.learning_rate.1: Input should be greater"],
        ),
        (
            "training: {class_weights: {a: -1}}",
            ["training.class_weights.a: Input should be greater"],
        ),
        ("runs: a", ["runs: Input should be a valid integer"]),
        ("trainin: {}", ["unknown key 'trainin'; did you mean 'training'?"]),
        ("training: {wieghts: 1}", ["unknown key 'wieghts'"]),
        ("seed: 0\nheld_out: [a]\ntrain_domains: [b]", [":5: give one of 'held_out'"]),
    ],
)
def test_one_plain_line_for_each_mistake(tmp_path: Path, lines: str, words: list[str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"task: {SMALL['task']}\nbackbone: {SMALL['backbone']}\n\n{lines}\n")
    with pytest.raises(RecipeError) as caught:
        Recipe.load(file)
    assert len(caught.value.problems) == len(words)
    for problem, part in zip(caught.value.problems, words, strict=True):
        assert part in problem
        assert "'weights'" not in problem
        assert not {"[", "constrained", "function-after"} & set(problem.partition(": ")[2].split())


@pytest.mark.parametrize("name", ["model", "work", "report.html", "results.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_others_left_is_never_replaced(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    def check(**more: list[Path]) -> None:
        check_output(
            tmp_path, "results.json", "x", overwrite=overwrite, writes=("model",), data=(), **more
        )

    check()
    (tmp_path / name).mkdir()
    (tmp_path / name / "my.bin").write_text("mine")
    with pytest.raises(OutputError, match=f"{name} is in the way"):
        check()


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_no_output_in_the_data(tmp_path: Path, below: str) -> None:
    with pytest.raises(OutputError, match="is the data of the task, or in it"):
        check_output(tmp_path / below, "r.json", "x", overwrite=True, data=[tmp_path])


def test_rows_are_shared_across_sides_and_not_within() -> None:
    side = (None, "a", "yes")
    name = "line {}".format
    assert count_shared("xxyx", [side] * 4, "t", name) == 0
    for other in ((0, "a", "yes"), (None, "b", "yes"), (None, "a", "no")):
        sides = [side, side, side, other]
        assert count_shared("xxyx", sides, "t", name, "keep") == 1
        with pytest.raises(TaskError, match=r"1 row is .*line 0 .* and line 3 .*duplicates: keep"):
            count_shared("xxyx", sides, "t", name)
