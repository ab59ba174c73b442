"""Rows that a model is judged on by default neither trained nor chose it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import RecipeError, TaskError
from stockpot.inference.judged import joined, judged_rows
from stockpot.inference.scores import read_asked
from stockpot.provenance import Record, write_record
from stockpot.recycling.cells import held_out_sets, split_arguments
from stockpot.recycling.recipe import Recipe
from stockpot.tasks import Task, split_task
from stockpot.tasks.task import build_task
from stockpot.training.rows import limit_task

NAMES = ("a", "b", "c")


def numbered_task(domains: int, *, fixed: bool = False, size: int = 24) -> Task:
    """A task whose inputs are the numbers of its rows, domain after domain."""
    count = domains * size
    rows = np.arange(count)
    return build_task(
        name="numbers",
        kind="classification",
        modality="array",
        domains=NAMES[:domains],
        classes=("no", "yes"),
        inputs=rows.astype(np.float32)[:, None],
        labels=rows % 2,
        domain_ids=rows // size,
        fingerprint=f"{domains}",
        where="here",
        splits=(rows // 2 % 3).astype(np.int8) if fixed else None,
        groups=np.array([f"g{row // 4}" for row in rows]) if not fixed else None,
    )


def recipe_of(**parts: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "arrays", "path": "x.npz"},
        "backbone": {"kind": "function", "name": "net:make"},
        **parts,
    }


def folder_of(home: str, task: Task, recipe: Any) -> Path:
    write_record(home, Record(kind="merge", name="m", recipe=recipe, data=task.fingerprint))
    return Path(home)


def values(task: Task, rows: np.ndarray) -> set[float]:
    return set(np.asarray(task.inputs)[rows, 0].tolist())


@st.composite
def runs(draw: st.DrawFn) -> tuple[Task, dict[str, Any]]:
    count = draw(st.integers(1, 3))
    fixed = draw(st.booleans())
    task = numbered_task(count, fixed=fixed)
    held_out: Any = draw(st.sampled_from(["all", "none", ["a"], ["b", "a"], [["a", "b"], "c"]]))
    if not isinstance(held_out, str) and count < 3:
        held_out = "all"
    return task, recipe_of(
        held_out=held_out,
        seed=draw(st.integers(0, 3)),
        trials=draw(st.integers(1, 3)),
        training={"limit_per_domain": draw(st.sampled_from([None, 16]))},
        final={"train_on": draw(st.sampled_from(["first", "all"]))},
    )


@settings(max_examples=60, deadline=None)
@given(runs())
def test_no_row_that_any_trial_saw_is_judged_as_unseen(case: tuple[Task, dict[str, Any]]) -> None:
    task, value = case
    recipe = Recipe.parse(value)
    limit = recipe.training.limit_per_domain
    limited = task if limit is None else limit_task(task, limit, recipe.seed)
    first = held_out_sets(recipe, task.domains)[0] if recipe.final.train_on == "first" else None
    seen: set[float] = set()
    for trial in range(recipe.trials):
        split = split_task(limited, **split_arguments(recipe, first, trial))
        seen |= values(limited, joined({**split.train}) if split.train else np.array([], int))
        seen |= values(limited, joined({**split.validation}))
    with tempfile.TemporaryDirectory() as home:
        folder = folder_of(home, task, recipe.model_dump(mode="json"))
        judged = judged_rows(task, folder)
        unseen = any(not trained for trained in judged.trained_on.values())
        assert unseen == bool(split.test)
        assert set(judged.trained_on.values()) == {not unseen}
        if unseen:
            assert not values(judged.task, joined(judged.rows)) & seen
            assert values(judged.task, joined(judged.rows)) == values(limited, joined(split.test))
        for name in task.domains:
            own = judged_rows(task, folder, domains=[name])
            assert own.trained_on == {name: name not in split.test}
            rows = values(own.task, own.rows[name])
            assert bool(rows & seen) == (name not in split.test)
        job = {
            "data": {"limit": limit, "seed": recipe.seed},
            "split": split_arguments(recipe, first, 0),
        }
        again = judged_rows(task, folder_of(home, task, job))
        assert values(again.task, joined(again.rows)) == values(judged.task, joined(judged.rows))


@pytest.mark.parametrize("recipe", [None, {"method": "linear"}, "by hand"])
def test_weights_of_the_same_data_by_other_means_saw_all_but_fixed_test_rows(
    tmp_path: Path, recipe: Any
) -> None:
    task = numbered_task(2)
    judged = judged_rows(task, folder_of(str(tmp_path), task, recipe))
    assert judged.trained_on == {"a": True, "b": True}
    assert "rows of 'a', 'b' trained the model, or chose it" in judged.about
    fixed = numbered_task(2, fixed=True)
    judged = judged_rows(fixed, folder_of(str(tmp_path), fixed, recipe))
    assert judged.trained_on == {"a": False, "b": False}
    assert set(fixed.splits[joined(judged.rows)].tolist()) == {2}  # type: ignore[index]


def test_of_other_data_nothing_is_known_and_that_is_said(tmp_path: Path) -> None:
    task = numbered_task(3)
    asked, _ = read_asked(recipe_of(held_out=["b", "c"]), tmp_path)
    bare, _ = read_asked({"kind": "arrays", "path": "x.npz"}, tmp_path)
    for recipe, names, count in ((asked, ("b", "c"), 48), (bare, NAMES, 72), (None, NAMES, 72)):
        judged = judged_rows(task, tmp_path, recipe)
        assert judged.trained_on == dict.fromkeys(names)
        assert len(joined(judged.rows)) == count
        assert "not known whether the model was trained on them" in judged.about
    folder_of(str(tmp_path), numbered_task(2), recipe_of())
    assert "stockpot.json names other data" in judged_rows(task, tmp_path).about
    with pytest.raises(TaskError, match="no domain 'd'"):
        judged_rows(task, tmp_path, domains=["d"])


def test_a_recipe_is_read_whole_or_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("task: {kind: text, path: a.csv}\nmetric: macro_f1\nseed: 3\n")
    asked, home = read_asked(path, Path("elsewhere"))
    assert (asked.metric, asked.seed, home) == ("macro_f1", 3, tmp_path)
    for line, message in (
        ("metricc: accuracy", "unknown key 'metricc'; did you mean 'metric'"),
        ("metric: acuracy", "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ("held_out: [1.5]", "held_out"),
    ):
        path.write_text(f"task: {{kind: text, path: a.csv}}\n{line}\n")
        with pytest.raises(RecipeError, match=rf"task\.yaml:2: .*{message}"):
            read_asked(path, tmp_path)
