"""Normal scores and the mean-rank baseline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from stockpot.errors import InputError
from stockpot.ranking.history import Table, mean_scores
from stockpot.ranking.history.table import normal_scores


def make(values: list[list[float]], **more: object) -> Table:
    array = np.array(values, dtype=np.float64)
    models = tuple(f"m{i}" for i in range(array.shape[0]))
    tasks = tuple(f"t{j}" for j in range(array.shape[1]))
    return Table(models, tasks, array, **more)  # type: ignore[arg-type]


def test_normal_scores_are_quantiles_of_ranks() -> None:
    scores = normal_scores(np.array([[3.0], [1.0], [np.nan], [2.0]]))
    assert np.allclose(scores[[0, 1, 3], 0], norm.ppf([5 / 6, 1 / 6, 3 / 6]))
    assert np.isnan(scores[2, 0])


def test_ties_share_their_rank() -> None:
    scores = normal_scores(np.array([[1.0], [1.0], [2.0]]))
    assert scores[0, 0] == scores[1, 0] == pytest.approx(norm.ppf(1.0 / 3.0))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_increasing_change_of_units_leaves_the_scores(values: list[float]) -> None:
    column = np.array(values)[:, None]
    order = column.ravel().argsort().argsort()
    assert np.allclose(normal_scores(column), normal_scores(np.exp(order / 10.0)[:, None]))


def test_lower_is_better_turns_the_order() -> None:
    table = make([[1.0], [2.0], [3.0]], lower=frozenset({"t0"}))
    assert table.scores[0, 0] > table.scores[1, 0] > table.scores[2, 0]
    assert table.values[0, 0] == 1.0


def test_mean_over_the_tasks_a_model_has() -> None:
    scores = np.array([[1.0, np.nan], [0.5, -0.5], [np.nan, np.nan]])
    assert mean_scores(scores).tolist() == [1.0, 0.0, 0.0]


def test_select_keeps_what_belongs_to_the_part() -> None:
    table = make(
        [[1, 2, 3], [4, 5, 6]],
        metadata={"m0": {"parameters": 1.0}},
        groups={"t1": "g", "t2": "g"},
        lower=frozenset({"t0", "t1"}),
    )
    part = table.without_tasks(["t1"]).select(models=["m1"])
    assert part.tasks == ("t0", "t2")
    assert part.values.tolist() == [[4.0, 6.0]]
    assert part.metadata == {}
    assert part.groups == {"t2": "g"}
    assert part.lower == {"t0"}
    assert part.group("t0") == "t0"


@pytest.mark.parametrize(
    ("models", "tasks", "values", "words"),
    [
        (("a",), ("t",), np.zeros((2, 1)), "shape"),
        (("a", "a"), ("t",), np.zeros((2, 1)), "model 'a' appears more than once"),
        (("a",), ("t", "t"), np.zeros((1, 2)), "task 't' appears more than once"),
        (("a",), ("t",), np.array([[np.inf]]), "'a' on 't' is infinite"),
    ],
)
def test_wrong_tables_are_refused(
    models: tuple[str, ...], tasks: tuple[str, ...], values: np.ndarray, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Table(models, tasks, values)
