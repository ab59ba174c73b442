"""Scores that were measured once, by hash of weights, evaluator and rows: nothing is run twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.evaluators.contract import Rows, Scores
from stockpot.files import digest, write_text


@dataclass(frozen=True)
class StoredScore:
    """``scores``: one a row, or one number; ``seconds``: what it took to measure them."""

    scores: Scores | float
    seconds: float


class ScoreStore:
    """A folder of results, one small JSON file each; in memory where no folder is given.

    Machines may share the folder: a file is written whole or not at all, and never changed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, StoredScore] = {}

    def read(self, weights: str, evaluator: str, rows: Rows | None) -> StoredScore | None:
        """What is known of these weights on these rows; None where nothing is."""
        key = _key(weights, evaluator, rows)
        if key not in self._known and self.folder is not None:
            try:
                text = self._file(key).read_text(encoding="utf-8")
                value: dict[str, Any] = json.loads(text)
                scores = value["scores"]
                if isinstance(scores, list):
                    scores = np.array(scores, dtype=np.float64)
                self._known[key] = StoredScore(scores, float(value["seconds"]))
            except (OSError, ValueError, KeyError, TypeError):
                return None  # not there, or not ours: it is measured again
        return self._known.get(key)

    def write(self, weights: str, evaluator: str, rows: Rows | None, score: StoredScore) -> None:
        """Keep a result. Raises ``OutputError`` where the folder cannot be written."""
        key = _key(weights, evaluator, rows)
        self._known[key] = score
        if self.folder is None:
            return
        scores = score.scores if isinstance(score.scores, float) else score.scores.tolist()
        value = {"weights": weights, "evaluator": evaluator, "scores": scores}
        write_text(self._file(key), json.dumps({**value, "seconds": score.seconds}) + "\n")

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"


def _key(weights: str, evaluator: str, rows: Rows | None) -> str:
    return digest([weights, evaluator, None if rows is None else rows.tolist()])
