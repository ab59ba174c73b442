"""Which scores are believed, and in which units."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.ranking.beliefs import believe, learn, trusted
from stockpot.ranking.history import Table
from stockpot.ranking.scores import Value

NAMES = [f"m{i}" for i in range(8)]


def values(warning: str | None = None) -> dict[str, dict[str, Value]]:
    return {
        name: {
            "logme": Value(float(i)),
            "transrate": Value(float(-i)),
            "hscore": Value(float(i), {}, warning if i == 3 else None),
        }
        for i, name in enumerate(NAMES)
    }


def history(scale: float = 1.0) -> Table:
    rng = np.random.default_rng(0)
    quality = np.linspace(0.5, 0.8, len(NAMES))[:, None]
    results = quality + 0.05 * rng.normal(size=(len(NAMES), 6))
    return Table(tuple(NAMES), tuple(f"t{i}" for i in range(6)), scale * results)


def test_untested_scores_count_where_they_are_robust_or_were_asked_for() -> None:
    posterior = learn(NAMES, None, {})
    kept, unused = trusted(posterior, values())
    assert set(kept) == {"logme"}
    assert unused["transrate"] == "never tested on this history"
    kept, _ = trusted(posterior, values(), ["transrate"])
    assert set(kept) == {"transrate"}


def test_a_score_that_is_saturated_for_one_counts_for_none() -> None:
    posterior = learn(NAMES, None, {})
    kept, unused = trusted(posterior, values("saturated: 10 rows"), ["hscore", "logme"])
    assert set(kept) == {"logme"}
    assert unused["hscore"] == "saturated for 1 of 8 models"


def test_a_score_that_the_history_tested_counts() -> None:
    table = history()
    record = table.values + 0.01 * np.random.default_rng(1).normal(size=table.values.shape)
    posterior = learn(NAMES, table, {}, {"transrate": record})
    kept, _ = trusted(posterior, values())
    assert "transrate" in kept


def test_measured_accuracies_have_their_sampling_error() -> None:
    posterior = learn(NAMES, history(), {})
    anchors = {name: 0.6 + 0.01 * i for i, name in enumerate(NAMES)}

    def ask(judged: int):
        return believe(
            posterior,
            NAMES,
            metadata={},
            scores={},
            anchors=anchors,
            metric="accuracy",
            judged=judged,
        )

    few, many = ask(100), ask(100_000)
    value = few.value("m7")
    assert value is not None
    assert value.mean == anchors["m7"]
    assert value.high - value.mean == pytest.approx(1.6449 * np.sqrt(0.67 * 0.33 / 100), rel=0.02)
    assert 0.25 < few.best["m7"] < 0.6
    assert many.best["m7"] > 0.95
    assert sum(few.best.values()) == pytest.approx(1.0)
    exact = ask(0).value("m7")
    assert exact is not None
    assert exact.low == exact.high


def test_levels_are_kept_within_what_the_metric_can_be() -> None:
    def ask(table: Table | None, anchors: dict[str, float]):
        posterior = learn(NAMES, table, {})
        return believe(posterior, NAMES, metadata={}, scores={}, anchors=anchors, metric="accuracy")

    found = ask(history(), {})
    for name in NAMES:
        value = found.value(name)
        assert value is not None
        assert 0 <= value.low <= value.mean <= value.high <= 1
    percent = ask(history(100.0), {})
    assert percent.value("m0") is None
    anchored = ask(history(100.0), {"m0": 0.5, "m4": 0.62, "m7": 0.7})
    assert anchored.value("m2") is not None
    assert ask(None, {}).value("m0") is None
    assert found.order[0] in ("m6", "m7")
    assert set(found.next({"m1": 1.0, "m2": 1.0}, 5)) == {"m1", "m2"}
    assert any(not one.used for one in ask(None, {}).evidence)
