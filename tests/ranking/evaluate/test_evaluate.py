"""The harness: nothing of the held-out task leaks, measures are right, baselines are there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import weightedtau

from stockpot.errors import InputError
from stockpot.ranking import evaluate as harness
from stockpot.ranking.evaluate import baselines, evaluate, leave_one_model_out
from stockpot.ranking.evaluated import HISTORY, IMAGENET, PARAMETERS, POSTERIOR, PUBLISHED, RANDOM
from stockpot.ranking.history import Table, mean_scores
from stockpot.report import history as report
from tests.ranking.posterior.worlds import world


@pytest.fixture(scope="module")
def found() -> harness.RankingEvaluation:
    table = world(models=24, tasks=6)
    facts = {name: {"parameters": 1e6 * (i + 1)} for i, name in enumerate(table.models)}
    table = Table(table.models, table.tasks, table.values, facts)
    return evaluate(table, anchors=(0, 5), repeats=2)


def test_the_baseline_is_the_mean_rank_over_the_other_tasks(
    found: harness.RankingEvaluation,
) -> None:
    table = world(models=24, tasks=6)
    taus = next(each.tasks for each in found.taus if (each.method, each.anchors) == (HISTORY, 0))
    for task in table.tasks:
        history = mean_scores(table.without_tasks([task]).scores)
        expected = weightedtau(table.values[:, table.column[task]], history)[0]
        assert taus[task] == pytest.approx(expected)
    mean = np.mean(list(taus.values()))
    assert found.row(HISTORY, 0).tau.mean == pytest.approx(mean)


def test_every_method_has_its_row_and_its_paired_interval(found: harness.RankingEvaluation) -> None:
    assert [row.method for row in found.rows[:2]] == [POSTERIOR, HISTORY]
    assert {row.method for row in found.rows} == {POSTERIOR, HISTORY, PARAMETERS, RANDOM}
    ours, plain = found.row(POSTERIOR, 5), found.row(HISTORY, 5)
    assert ours.difference is not None
    assert plain.difference is None
    assert ours.difference.mean == pytest.approx(ours.tau.mean - plain.tau.mean)
    assert ours.difference.low <= ours.difference.mean <= ours.difference.high
    assert ours.regret5.mean <= ours.regret.mean
    with pytest.raises(KeyError):
        found.row(POSTERIOR, 7)


def test_calibration_counts_every_prediction(found: harness.RankingEvaluation) -> None:
    none, five = found.calibration
    assert (none.anchors, five.anchors) == (0, 5)
    assert sum(each.count for each in none.best) == 24 * 6
    assert sum(each.count for each in five.best) == 24 * 6 * 2
    assert 0.6 < none.ranks <= 1.0
    assert five.metrics is not None
    true = sum(each.observed * each.count for each in none.best)
    assert true == pytest.approx(6.0)  # one best model a task


def test_results_as_json_markdown_and_picture(
    found: harness.RankingEvaluation, tmp_path: Path
) -> None:
    value = harness.RankingEvaluation.read(json.loads(json.dumps(found.to_json())))
    assert value == found
    text = report.markdown(value, "made | world", picture="p.svg")
    assert "| 5 | posterior |" in text
    assert "![Reliability" in text
    assert "one model left out" in text
    path = report.write_reliability(value.calibration, "made world", tmp_path / "p.svg")
    drawing = path.read_text()
    assert drawing.startswith("<svg xmlns=")
    assert drawing.count("5 anchors") == 1
    assert drawing.count("came true") > 3


def test_groups_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    table = world(models=12, tasks=4)
    values = table.values.copy()
    values[:, 1] = values[:, 0]
    groups = {"t0": "same", "t1": "same"}
    seen: list[tuple[str, ...]] = []
    original = harness.fit

    def watched(train: Table, **more: object) -> object:
        seen.append(train.tasks)
        return original(train, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(harness, "fit", watched)
    evaluate(Table(table.models, table.tasks, values, {}, groups), anchors=(0,), tasks=["t0"])
    assert seen == [("t2", "t3")]


def test_measures_against_hand_computed_ones() -> None:
    truth = np.array([50.0, 80.0, 60.0, 70.0, 10.0, 20.0, 30.0])
    found = harness._measures(truth, np.array([7.0, 0.0, 6.0, 5.0, 4.0, 3.0, 2.0]))
    assert found["regret"] == 30.0
    assert found["regret5"] == 10.0
    assert found["rel5"] == 70.0 / 80.0
    assert harness._measures(truth, np.zeros(7))["tau"] == 0.0
    assert math.isnan(harness._measures(-truth, truth)["rel5"])


def test_the_latest_model_is_a_baseline_where_dates_are_known() -> None:
    table = world(models=5, tasks=3)
    dates: list[float | str] = [2019.5, "2021", "2020-07-16", "2020-07-15", "soon"]
    facts = {name: {"published": date} for name, date in zip(table.models, dates, strict=True)}
    train = Table(table.models, table.tasks, table.values, facts)
    latest = baselines(train, train.models, "t0")[PUBLISHED]
    assert latest.argsort().tolist()[0] == 0
    assert latest[1] == latest.max()
    assert latest[2] > latest[3]
    assert latest[4] == np.median(latest[:4])
    assert PUBLISHED not in baselines(table, table.models, "t0")


def test_imagenet_and_size_are_baselines_where_known() -> None:
    table = world(models=8, tasks=3)
    table = Table(table.models, ("ImageNet 1k", "b", "c"), table.values)
    train = table.without_tasks(["c"])
    own = baselines(train, train.models, "c")
    assert np.array_equal(own[IMAGENET], train.scores[:, 0])
    assert PARAMETERS not in own
    itself = baselines(table.without_tasks(["ImageNet 1k"]), table.models, "ImageNet 1k")
    assert np.array_equal(itself[IMAGENET], itself[HISTORY])
    facts = {name: {"imagenet": float(i)} for i, name in enumerate(table.models)}
    plain = Table(table.models, ("a", "b", "c"), table.values, facts)
    assert baselines(plain, plain.models, "c")[IMAGENET].tolist() == list(range(8))


def test_lower_is_better_and_missing_cells() -> None:
    table = world(models=20, tasks=5)
    table.values[3:7, 2] = np.nan
    values = table.values.copy()
    values[:, 2] = 100.0 - values[:, 2]
    turned = Table(table.models, table.tasks, values, lower=frozenset({"t2"}))
    up, down = (evaluate(t, anchors=(5,), tasks=["t2"], repeats=1) for t in (table, turned))
    assert down.row(POSTERIOR, 5).tau.mean == pytest.approx(up.row(POSTERIOR, 5).tau.mean)
    assert down.row(POSTERIOR, 5).regret.mean == pytest.approx(up.row(POSTERIOR, 5).regret.mean)
    assert down.calibration[0].metrics == up.calibration[0].metrics
    assert down.row(POSTERIOR, 5).rel5 is None
    assert sum(each.count for each in down.calibration[0].best) == 16


def test_leave_one_model_out_needs_facts() -> None:
    assert leave_one_model_out(world(models=12, tasks=3)) is None
    random = np.random.default_rng(0)
    size = random.normal(size=40)
    facts = {f"m{i}": {"parameters": float(np.exp(18 + size[i]))} for i in range(40)}
    values = size[:, None] + 0.5 * random.normal(size=(40, 5))
    names = tuple(facts)
    left = leave_one_model_out(Table(names, tuple("abcde"), values, facts))
    assert left is not None
    assert left.models == 40
    assert left.tau > 0.6
    assert left.parameters is not None


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(InputError, match="no task can be held out"):
        evaluate(world(models=3, tasks=3), anchors=(0,))
    with pytest.raises(InputError, match="no other task"):
        evaluate(world(models=8, tasks=1), anchors=(0,))


def test_models_that_are_all_best_share_the_hit() -> None:
    table = world(models=8, tasks=4)
    values = table.values.copy()
    values[:3, 0] = values[:, 0].max() + 1
    tied = Table(table.models, table.tasks, values)
    (found,) = evaluate(tied, anchors=(0,), tasks=[table.tasks[0]]).calibration
    assert sum(each.observed * each.count for each in found.best) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.skipif("STOCKPOT_SHARED" not in os.environ, reason="needs the public tables")
@pytest.mark.parametrize(
    ("name", "pattern", "anchors", "least"),
    [("vtab", "*@1000", 5, 0.64), ("openclip", "*", 20, 0.74)],
)
def test_public_tables(name: str, pattern: str, anchors: int, least: float) -> None:
    from stockpot.ranking.history import read_results

    folder = Path(os.environ["STOCKPOT_SHARED"]) / "data" / "histories"
    table = read_results(folder / f"{name}.csv").table
    table = table.select(tasks=[t for t in table.tasks if Path(t).match(pattern)])
    found = evaluate(table, anchors=(0, anchors))
    assert found.row(POSTERIOR, anchors).tau.mean >= least
    assert found.row(POSTERIOR, 0).tau.mean >= found.row(HISTORY, 0).tau.mean - 0.01
