"""Which rows choose and which judge: decided by number and seed before any score is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.evaluators.contract import Rows

_BLOCK = 10
FEWEST = 20
"""Rows below which nothing can be split, chosen and judged."""


@dataclass(frozen=True)
class RowSplit:
    """``judge`` of every ten consecutive rows judge, drawn by ``seed``; the others choose."""

    judge: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.judge < _BLOCK:
            raise InputError(f"judge: got {self.judge} of ten rows", hint="expected 1 to 9")

    def parts(self, count: int) -> tuple[Rows, Rows]:
        """Numbers of the rows that choose, in random order, and of those that judge.

        A row's part does not depend on ``count``. Raises ``InputError`` for too few rows.
        """
        if count < FEWEST:
            raise InputError(
                f"{count} rows are too few to choose by some and judge by others",
                hint=f"give {FEWEST} at least, or one number a model",
            )
        generator = np.random.default_rng(self.seed)
        blocks = -(-count // _BLOCK)
        ranks = generator.random((blocks, _BLOCK)).argsort(axis=1).argsort(axis=1)
        judging = (ranks < self.judge).reshape(-1)[:count]
        choose = np.flatnonzero(~judging)
        np.random.default_rng([self.seed, 1]).shuffle(choose)
        return choose, np.flatnonzero(judging)
