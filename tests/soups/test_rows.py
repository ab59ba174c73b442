"""Rows are dealt by number and seed alone; budgets are read as they are written."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.soups.budget import Budget, BudgetSpentError
from stockpot.soups.rows import RowSplit


@pytest.mark.parametrize("judge", [1, 3, 5, 9])
def test_every_row_has_one_part_whatever_comes_after_it(judge):
    split = RowSplit(judge, seed=4)
    choose, judged = split.parts(1000)
    assert sorted([*choose, *judged]) == list(range(1000))
    assert len(judged) == 100 * judge
    for count in (20, 57, 999):
        _, fewer = split.parts(count)
        assert fewer.tolist() == [row for row in judged if row < count]
    assert split.parts(1000)[0].tolist() == choose.tolist()
    assert RowSplit(judge, seed=5).parts(1000)[1].tolist() != judged.tolist()


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="19 rows are too few"):
        RowSplit().parts(19)
    with pytest.raises(InputError, match="judge: got 10"):
        RowSplit(10)


def test_budgets():
    assert Budget.parse("60", 5).evaluations == 60
    assert Budget.parse("60 evaluations", 5).evaluations == 60
    assert Budget.parse(None, 12).evaluations == 60
    assert Budget.parse("2h", 5).seconds == 7200
    assert Budget.parse("90 min", 5).seconds == 5400
    for wrong in ("soon", "2 days", "-3", "1.5"):
        with pytest.raises(InputError, match="budget"):
            Budget.parse(wrong, 5)
    with pytest.raises(InputError, match="too small for 12 models"):
        Budget.parse(12, 12)
    budget = Budget(seconds=10.0)
    budget.check()
    for _ in range(4):
        budget.add(1.0, 1.9, known=True)
        budget.check()
    budget.add(1.0, 2.4, known=True)
    assert budget.is_over()
    with pytest.raises(BudgetSpentError):
        budget.check()
    assert np.isclose(budget.left(), 0)
