"""Differences of two models, row by row."""

from __future__ import annotations

import numpy as np

from stockpot.evaluation.crossed import CrossedMean, crossed_difference
from stockpot.evaluation.selection import LEVEL
from stockpot.evaluators.contract import Scores

CELL = ("rows", 0)
"""The only one: these weights, on rows that are drawn anew."""


def difference(first: Scores, second: Scores) -> CrossedMean:
    """``first`` minus ``second``, row by row."""
    numbers = {CELL: {"": np.arange(len(first))}}
    return crossed_difference({CELL: {"": first}}, {CELL: {"": second}}, numbers, len(first))


def plain_margin(gap: CrossedMean) -> float:
    """Half the width of a difference's 95 % interval, for these weights on other rows."""
    return gap.of_these_trainings().margin(1.0 - LEVEL)


def lower_end(first: Scores, second: Scores) -> float:
    """Where ``first`` minus ``second`` lies above with 95 % confidence."""
    gap = difference(first, second)
    return gap.mean - gap.of_these_trainings().margin(2 * (1.0 - LEVEL))
