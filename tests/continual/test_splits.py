"""Dealing examples to tasks: what depends on what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stockpot.continual.recipe import Data, Setting
from stockpot.continual.splits import deal
from stockpot.errors import InputError, TaskError
from tests.continual.tiny import points

TASK = points()
DATA = Data(test_per_class=10)
SETTINGS = [
    Setting(mode="data", parts=4),
    Setting(mode="class", classes=2),
    Setting(mode="task", classes=4),
    Setting(mode="class", parts=4),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_training_example_is_in_one_task_and_no_test_example_in_any(setting) -> None:
    stream = deal(TASK, DATA, setting, 0)
    rows = np.concatenate([part.rows for part in stream.parts])
    assert len(np.unique(rows)) == len(rows) == 180
    assert not np.intersect1d(rows, stream.test).size
    assert np.bincount(TASK.labels[stream.test]).tolist() == [10] * 6
    for part in stream.parts:
        assert tuple(np.unique(TASK.labels[part.rows])) == part.classes


def test_settings_of_a_trial_share_their_examples() -> None:
    """So that methods in different settings can be compared, and their joint runs are one."""
    streams = [deal(TASK, DATA, setting, 3) for setting in SETTINGS]
    for stream in streams[1:]:
        assert np.array_equal(stream.rows, streams[0].rows)
        assert np.array_equal(stream.test, streams[0].test)


def test_classes_come_in_another_order_in_another_trial() -> None:
    orders = {tuple(p.classes for p in deal(TASK, DATA, SETTINGS[1], s).parts) for s in range(5)}
    assert len(orders) > 1
    assert [len(p.classes) for p in deal(TASK, DATA, SETTINGS[2], 0).parts] == [4, 2]
    assert [len(p.classes) for p in deal(TASK, DATA, SETTINGS[3], 0).parts] == [2, 2, 1, 1]
    assert [setting.name for setting in SETTINGS] == ["data-4", "class-2", "task-4", "class-in-4"]


def test_limits_keep_classes_balanced() -> None:
    stream = deal(TASK, Data(test_fraction=0.5, train_per_class=7), SETTINGS[0], 0)
    assert np.bincount(TASK.labels[stream.rows]).tolist() == [7] * 6
    assert len(stream.test) == 6 * 20


def test_impossible_deals_are_refused() -> None:
    with pytest.raises(InputError, match="would be empty"):
        deal(points(2), Data(test_per_class=1), Setting(mode="data", parts=9), 0)
    with pytest.raises(InputError, match="too few"):
        deal(TASK, DATA, Setting(mode="class", classes=6), 0)
    with pytest.raises(InputError, match="too few"):
        deal(TASK, DATA, Setting(mode="class", parts=7), 0)
    with pytest.raises(InputError, match="no examples to train on"):
        deal(TASK, Data(test_per_class=40), SETTINGS[0], 0)
    with pytest.raises(InputError, match="no examples to train on"):
        deal(TASK, Data(test_domains=["all"]), SETTINGS[0], 0)
    with pytest.raises(TaskError, match="no domain"):
        deal(TASK, Data(test_domains=["mars"]), SETTINGS[0], 0)


def test_fixed_splits_are_kept() -> None:
    parts = np.array([0, 0, 0, 1, 2], dtype=np.int8)[np.arange(len(TASK)) % 5]
    fixed = replace(TASK, splits=parts)
    stream = deal(fixed, Data(test_fraction=0.5), SETTINGS[0], 0)
    assert stream.rows.tolist() == np.flatnonzero(parts == 0).tolist()
    assert stream.test.tolist() == np.flatnonzero(parts == 2).tolist()
    grouped = replace(TASK, groups=np.arange(len(TASK)).astype(str))
    with pytest.raises(InputError, match="would divide its groups"):
        deal(grouped, DATA, SETTINGS[0], 0)
    assert len(deal(replace(grouped, splits=parts), DATA, SETTINGS[0], 0).rows)
