"""The store keeps results, sets bad rows aside, and lets several writers append."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stockpot import history
from stockpot.errors import InputError, OutputError
from stockpot.ranking.history import Reading, Store

ACCURACY = Reading(metric="accuracy")


def test_results_come_back_as_a_table(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.db"
    with Store.open(path) as store:
        store.add("a", "cars", "accuracy", 0.5, facts={"parameters": 1e6})
        store.add("a", "cars", "accuracy", 0.7, run="seed 1", facts={"family": "cnn"})
        store.add("b", "dogs", "accuracy", 0.9)
        store.describe({"b": {"family": "vit"}})
    with Store.open(path, create=False) as store:
        table = store.table()
        assert table.models == ("a", "b")
        assert table.tasks == ("cars", "dogs")
        assert np.allclose(table.values, [[0.6, np.nan], [np.nan, 0.9]], equal_nan=True)
        assert table.metadata["a"] == {"parameters": 1e6, "family": "cnn"}
        assert store.sources()[0]["results"] == 3


def test_adding_again_replaces() -> None:
    with Store.open(":memory:") as store:
        store.add("a", "t", "accuracy", 0.5)
        store.add("a", "t", "accuracy", 0.6)
        assert store.table().values.tolist() == [[0.6]]


def test_two_metrics_of_a_task_are_two_columns_of_one_group() -> None:
    with Store.open(":memory:") as store:
        store.add("a", "t", "accuracy", 0.5)
        store.add("a", "t", "loss", 1.5)
        table = store.table()
        assert table.tasks == ("t [accuracy]", "t [loss]")
        assert table.lower == {"t [loss]"}
        assert table.group("t [accuracy]") == table.group("t [loss]") == "t"
        assert store.table(metric="loss").tasks == ("t",)


def test_import_is_the_same_twice_and_sets_rows_aside(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    base = np.array([90.0, 40.0, 70.0, 85.0, 55.0])
    rows = base + random.normal(0, 0.5, (8, 5))
    rows[5] = np.roll(rows[5], 2)
    lines = ["model,a,b,c,d,e"]
    lines += [f"m{i}," + ",".join(f"{v:.3f}" for v in row) for i, row in enumerate(rows)]
    file = tmp_path / "r.csv"
    file.write_text("\n".join(lines))
    facts = tmp_path / "f.csv"
    facts.write_text("model,params\nm0,5\nother,6\n")
    with Store.open(tmp_path / "h.db") as store:
        for _ in range(2):
            report = store.import_csv(file, metadata=facts, base="m0", reading=ACCURACY)
            assert [each.model for each in report.aside] == ["m5"]
            assert report.to_json()["results"] == 40
            assert report.notes[-1] == "facts of models without results are left out: other"
            table = store.table()
            assert "m5" not in table.models
            assert table.metadata == {"m0": {"parameters": 5.0}}
            assert len(store.table(include_aside=True).models) == 8
            assert "wrong columns" in store.aside()["m5"]
        store.import_csv(file, clean=False, reading=ACCURACY)
        assert store.aside() == {}


def test_units_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("model,t\n" + "\n".join(f"x{i},0.{i + 1}" for i in range(6)))
    with Store.open(":memory:") as store:
        for i in range(6):
            store.add(f"m{i}", "t", "accuracy", 50.0 + i)
        with pytest.raises(InputError, match="fractions and per cent"):
            store.import_csv(file, reading=ACCURACY)
        assert len(store.table().models) == 6


def test_zeros_among_good_results_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("model,t,u\nz,0,0.5\n" + "\n".join(f"x{i},0.8,0.5" for i in range(9)))
    with Store.open(":memory:") as store:
        assert "exactly 0" in store.import_csv(file, reading=ACCURACY).notes[-1]


def test_writers_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    Store.open(path).close()

    def write(number: int) -> None:
        with Store.open(path) as store:
            for task in range(5):
                store.add(f"m{number}", f"t{task}", "accuracy", number / 10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    with Store.open(path) as store:
        assert np.isfinite(store.table().values).sum() == 40


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.csv"
    text.write_text("model,task\na,1\n" * 100)
    with pytest.raises(InputError, match="not a history store"):
        Store.open(text)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(InputError, match="not a history store"):
        Store.open(other)
    with pytest.raises(InputError, match="no history store"):
        Store.open(tmp_path / "none.db", create=False)
    with pytest.raises(OutputError, match="cannot"):
        Store.open(text / "below.db")


def test_wrong_results_are_refused() -> None:
    with Store.open(":memory:") as store:
        with pytest.raises(InputError, match="name of the task is empty"):
            store.add("a", " ", "accuracy", 1.0)
        with pytest.raises(InputError, match="not finite"):
            store.add("a", "t", "accuracy", float("nan"))
        with pytest.raises(InputError, match="more or less of 'own' is better"):
            store.add("a", "t", "own", 1.0)
        store.add("a", "t", "loss", 1.0)
        with pytest.raises(InputError, match="less of 'loss' on 't' is better"):
            store.add("b", "t", "loss", 1.0, lower_is_better=False)
    with Store.open(":memory:") as store, pytest.raises(InputError, match="holds no results"):
        store.table()


def test_what_is_refused_leaves_no_store(tmp_path: Path) -> None:
    path, file = tmp_path / "h.db", tmp_path / "r.csv"
    file.write_text("model,cars\na,many\nb,0.5\n")
    with pytest.raises(InputError, match="not a number"), Store.open(path) as store:
        store.import_csv(file, reading=ACCURACY)
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]
    with Store.open(path) as store:
        store.add("a", "t", "accuracy", 0.5)
    with pytest.raises(InputError, match="not a number"), Store.open(path) as store:
        store.import_csv(file, reading=ACCURACY)
    with Store.open(path, create=False) as store:
        assert store.table().values.tolist() == [[0.5]]


def test_what_is_added_by_hand_is_in_the_unit_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    for value in (1234.0, -0.1):
        with pytest.raises(InputError, match="no accuracy is"):
            history.add(path, "a", "cars", value)
    history.add(path, "a", "cars", 81.0)
    with pytest.raises(InputError, match="do not mix"):
        history.add(path, "b", "cars", 0.91)
    history.add(path, "b", "cars", 0.0)
    history.add(path, "a", "pets", 0.5)
    with pytest.raises(InputError, match="do not mix"):
        history.add(path, "b", "pets", 91.0)
    history.add(path, "a", "wiki", 1234.0, metric="perplexity")
    history.add(path, "a", "sts", -0.2, metric="spearman")
    with Store.open(path, create=False) as store:
        assert store.sources()[0]["results"] == 5
