"""Rows with values in the wrong columns are found; bad models are not accused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.ranking.history import Store, Table
from stockpot.ranking.history.cleaning import find_misplaced_rows

BASE = np.array([92.0, 45.0, 71.0, 88.0, 56.0, 63.0, 97.0, 81.0])


def table(scale: float = 1.0) -> Table:
    random = np.random.default_rng(0)
    values = BASE + random.normal(0.0, 1.0, size=(20, 8))
    values[3] = np.roll(values[3], 1)
    values[7] = values[7] - 25.0  # diverged everywhere: bad, but in its columns
    names = tuple(f"m{i}" for i in range(20))
    return Table(names, tuple("abcdefgh"), values * scale)


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("base", ["m0", None, dict(zip("abcdefgh", BASE, strict=True))])
def test_only_the_shifted_row_is_found(scale: float, base: object) -> None:
    if isinstance(base, dict):
        base = {name: value * scale for name, value in base.items()}
    found = find_misplaced_rows(table(scale), base)  # type: ignore[arg-type]
    assert [each.model for each in found] == ["m3"]
    assert found[0].sorted_distance < 2.0 < 6.0 < found[0].distance
    assert "wrong columns" in found[0].reason
    assert found[0].to_json()["model"] == "m3"


def test_rows_with_too_few_values_are_left_alone() -> None:
    own = table()
    own.values[3, 2:] = np.nan
    assert find_misplaced_rows(own) == []


def test_an_unknown_base_is_named() -> None:
    with pytest.raises(InputError, match="no model 'x'"):
        find_misplaced_rows(table(), "x")


@pytest.mark.skipif("STOCKPOT_SHARED" not in os.environ, reason="needs the public tables")
@pytest.mark.parametrize(
    ("base", "count"),
    [
        ("bert-base-uncased", 60),
        ("roberta-base", 58),
        ("bert-base-cased", 53),
        ("t5-base", 42),
        ("google_t5-v1_1-base", 7),
        ("microsoft_deberta-v3-base", 4),
    ],
)
def test_the_ibm_tables(base: str, count: int) -> None:
    folder = Path(os.environ["STOCKPOT_SHARED"]) / "data" / "histories"
    with Store.open(":memory:") as store:
        report = store.import_csv(folder / f"ibm_recycling_{base}.csv")
        assert report.format == "ibm"
        assert len(report.aside) == len(store.aside()) == count
        assert not {each.model for each in report.aside} & set(store.table().models)
