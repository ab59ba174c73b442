"""Measures of continual learning against their definitions, on predictions written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.continual.metrics import allowed_classes, choose, measure

# Three tasks of one class each, two test examples each; rows: after task 1, 2, 3.
TASKS = [(0,), (1,), (2,)]
LABELS = np.array([0, 0, 1, 1, 2, 2])
SAID = np.array([[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [2, 1, 1, 2, 2, 2]])


def test_measures_of_a_class_incremental_stream() -> None:
    """R = [[1, -, -], [1/2, 1, -], [0, 1/2, 1]]."""
    found = measure("class", TASKS, SAID, LABELS)
    assert found.matrix == ((1.0, None, None), (0.5, 1.0, None), (0.0, 0.5, 1.0))
    assert found.steps == (1.0, 0.75, 0.5)
    assert found.final == 0.5
    assert found.incremental == pytest.approx(0.75)
    assert found.forgetting == pytest.approx(((1 - 0) + (1 - 0.5)) / 2)
    assert found.backward == pytest.approx(((0 - 1) + (0.5 - 1)) / 2)
    assert found.forward is None


def test_forgetting_counts_from_the_best_that_a_task_ever_had() -> None:
    said = np.array([[0, 1, 0, 0], [0, 0, 1, 1], [2, 0, 1, 1]])
    found = measure("class", [(0,), (1,), (2,)], said, np.array([0, 0, 1, 2]))
    # Task 1: 1/2, then 1, then 1/2; task 2: 1 and 1.
    assert found.forgetting == pytest.approx((0.5 + 0) / 2)
    assert found.backward == pytest.approx((0.5 - 0.5 + 0) / 2)


def test_forward_transfer_is_what_a_task_has_before_its_turn_over_chance() -> None:
    tasks = [(0, 1), (2, 3)]
    labels = np.array([0, 1, 2, 3])
    said = np.array([[0, 1, 2, 3], [0, 0, 2, 3]])
    found = measure("task", tasks, said, labels)
    assert found.forward == pytest.approx(1.0 - 0.5)
    assert found.matrix[0] == (1.0, 1.0)
    assert found.final == 0.75


def test_random_parts_are_judged_on_everything() -> None:
    found = measure("data", [(0, 1, 2)] * 2, SAID[:2], LABELS)
    assert found.steps == pytest.approx((1 / 3, 0.5))
    assert found.incremental == pytest.approx((1 / 3 + 0.5) / 2)
    assert found.forgetting is None


def test_joint_training_has_an_end_only() -> None:
    found = measure("class", TASKS, SAID[2:], LABELS)
    assert found.final == 0.5
    assert found.incremental is None
    assert found.steps == ()


def test_choices_are_among_the_classes_that_may_be_named() -> None:
    outputs = np.array([[0.1, 0.9, 5.0], [0.3, 0.2, 9.0], [1.0, 0.0, 0.0]])
    labels = np.array([1, 0, 2])
    seen = allowed_classes("class", [(0, 1), (2,)], 0, labels, 3)
    assert choose(outputs, seen).tolist() == [1, 0, 0]
    own = allowed_classes("task", [(0, 1), (2,)], 0, labels, 3)
    assert choose(outputs, own).tolist() == [1, 0, 2]
