"""The verb on models of known quality: order, evidence, budget, failures, resumption, handover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stockpot.errors import InputError, OutputError, RecipeError
from stockpot.ranking import spend
from stockpot.ranking.append import append_results
from stockpot.ranking.history import Store
from stockpot.ranking.schema import HistorySize, RankResults
from stockpot.ranking.verb import plan_rank, rank
from stockpot.recycling import load_recipe, plan_recipe
from tests.ranking.rank.tiny import QUALITY, write_task, zoo

SERIAL = {"backend": "serial", "quiet": True}


def options(**changes: Any) -> dict[str, Any]:
    return {**SERIAL, **changes}


def names(results: RankResults) -> list[str]:
    return [model.name for model in results.models]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path)


def test_scores_alone_find_the_best_and_failures_cost_their_line(
    task: Path, tmp_path: Path
) -> None:
    models = zoo(broken="broken", gone="nothing")
    models["models"].append({"kind": "transformers", "name": "some/hub"})
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(240, 4)))
    models["models"].append({"id": "given", "kind": "features", "path": "f.npy"})
    done = rank(task, models, tmp_path / "out", **options(), root=tmp_path)
    found = done.results
    assert names(found)[0] == "good"
    assert set(names(found)) == {*QUALITY, "given"}
    assert {each.model for each in found.failed} == {"broken", "gone", "some/hub"}
    reasons = {each.model: each.reason for each in found.failed}
    assert "the wheels came off" in reasons["broken"]
    assert "not on this machine" in reasons["some/hub"]
    assert sum(model.p_best for model in found.models) == pytest.approx(1.0, abs=0.02)
    assert found.sample.rows in (60, 120)
    assert found.models[0].cost.parameters == 66
    assert found.next.model in QUALITY  # features of somebody else cannot be trained
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert recipe.backbone.options == {"quality": 0.95}
    assert recipe.task.path == "../data.npz"
    assert recipe.training.steps == 8


def test_a_budget_is_spent_on_real_fine_tunings_and_is_not_spent_twice(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = rank(task, zoo(), tmp_path / "out", **options(budget=1000.0), root=tmp_path)
    tuned = {m.name: m.tuned for m in done.results.models if m.tuned}
    assert set(tuned) == set(QUALITY)
    best = max(tuned, key=lambda name: tuned[name].value)
    assert names(done.results)[0] == best
    assert done.results.next is None
    assert tuned["good"].probe is not None
    assert tuned["good"].examples == 60  # a quarter of each domain
    monkeypatch.setattr(
        "stockpot.ranking.jobs.fine_tune", lambda *a, **k: pytest.fail("trained again")
    )
    again = rank(task, zoo(), tmp_path / "out", **options(budget=1000.0), root=tmp_path)
    assert all(m.tuned.reused for m in again.results.models)
    for before, after in zip(done.results.models, again.results.models, strict=True):
        assert before.tuned.value == after.tuned.value


def test_no_budget_no_training(task: Path, tmp_path: Path) -> None:
    done = rank(task, zoo(), tmp_path / "out", **options(budget=1e-9), root=tmp_path)
    assert all(model.tuned is None for model in done.results.models)
    assert done.results.next is not None


def test_a_model_that_cannot_be_trained_gets_its_line(task: Path, tmp_path: Path) -> None:
    done = rank(
        task,
        zoo(stubborn="untrainable"),
        tmp_path / "out",
        **options(budget=1000.0),
        root=tmp_path,
    )
    assert [each.model for each in done.results.failed] == ["stubborn"]
    assert "not for training" in done.results.failed[0].reason
    assert set(names(done.results)) == set(QUALITY)


def test_halving_trains_few_to_the_end(task: Path, tmp_path: Path) -> None:
    done = rank(
        task,
        zoo(),
        tmp_path / "out",
        **options(budget=1000.0, select="halving"),
        root=tmp_path,
    )
    rungs = done.results.rungs
    assert [len(rung.measured) for rung in rungs] == [4, 2, 1]
    assert [rung.steps for rung in rungs] == [2, 4, 8]
    tuned = [m.name for m in done.results.models if m.tuned]
    assert tuned == list(rungs[-1].kept)
    straight = rank(task, zoo(), tmp_path / "other", **options(budget=1000.0), root=tmp_path)
    value = {m.name: m.tuned for m in straight.results.models}[tuned[0]].value
    halved = next(m.tuned.value for m in done.results.models if m.tuned)
    assert halved == value  # going on from a rung is the same as going in one go


def test_verify_compares_orders(task: Path, tmp_path: Path) -> None:
    done = rank(task, zoo(), tmp_path / "out", **options(verify=True), root=tmp_path)
    found = done.results.verified
    assert set(found.models) == set(QUALITY)
    rows = {row.predictor: row for row in found.predictors}
    assert {"posterior", "logme", "linear probe"} <= set(rows)
    assert all(row.regret >= 0 for row in rows.values())
    assert 0 < found.noise <= 1


def test_history_of_other_tasks_and_of_this_one(task: Path, tmp_path: Path) -> None:
    store = tmp_path / "history.db"
    first = rank(task, zoo(), tmp_path / "a", **options(verify=True), root=tmp_path)
    assert append_results(store, first.results) == 4
    with Store.open(store) as opened:
        for t in range(5):
            for m, quality in QUALITY.items():
                opened.add(m, f"other{t}", "accuracy", 0.5 + 0.3 * quality + 0.01 * t)
    same = rank(task, zoo(), tmp_path / "b", history=store, **options(), root=tmp_path)
    known = {m.name: m.known for m in same.results.models}
    truth = {m.name: m.tuned.value for m in first.results.models}
    assert known == pytest.approx(truth)
    assert same.results.history == HistorySize(models=4, tasks=5)
    assert same.results.next is None
    (tmp_path / "other").mkdir()
    other = write_task(tmp_path / "other", seed=1)
    found = rank(other, zoo(), tmp_path / "c", history=store, **options(), root=tmp_path)
    assert found.results.history.tasks == 6
    assert names(found.results)[0] == "good"
    assert all(m.known is None for m in found.results.models)


def test_a_shortlist_is_chosen_by_history_and_the_rest_still_ranked(
    task: Path, tmp_path: Path
) -> None:
    store = tmp_path / "history.db"
    with Store.open(store) as opened:
        for t in range(5):
            for m, quality in QUALITY.items():
                opened.add(m, f"other{t}", "accuracy", 0.5 + 0.3 * quality + 0.01 * t)
    plan = plan_rank(task, zoo(), history=store, shortlist=2, root=tmp_path)
    assert set(plan.run) == {"good", "fair"}
    assert not (tmp_path / "x").exists()
    done = rank(task, zoo(), tmp_path / "x", history=store, **options(shortlist=2), root=tmp_path)
    assert len(done.results.models) == 4
    run = [m.name for m in done.results.models if m.scores]
    assert set(run) == {"good", "fair"}


def test_wrong_input_is_found_before_anything_is_written(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError):
        rank(task, {"models": [{"kind": "timm"}]}, out, root=tmp_path)
    with pytest.raises(InputError, match="no model of the zoo"):
        rank(task, {"models": [{"kind": "transformers", "name": "a/b"}]}, out, root=tmp_path)
    bad = {"task": {"kind": "arrays", "path": "data.npz"}, "held_out": ["mars"]}
    with pytest.raises(InputError, match="no domain"):
        rank(bad, zoo(), out, root=tmp_path)
    (tmp_path / "no.db").write_text("x" * 2000)
    with pytest.raises(InputError, match="history store"):
        rank(task, zoo(), out, history=tmp_path / "no.db", root=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        rank(task, zoo(), tmp_path / "file", root=tmp_path)
    none = {"models": zoo(broken="broken")["models"][4:]}
    with pytest.raises(InputError, match="no model could be run; 'broken'"):
        rank(task, none, out, **options(), root=tmp_path)


def test_moments_are_enough_for_a_ranking(task: Path, tmp_path: Path) -> None:
    text = task.read_text()
    task.write_text(text.replace("most: 120", "most: 120, keep: moments"))
    with pytest.raises(RecipeError, match=r"task\.yaml:3: sample\.first: has no effect here"):
        rank(task, zoo(), tmp_path / "out", **options(), root=tmp_path)
    task.write_text(text.replace("first: 60, most: 120", "most: 120, keep: moments"))
    done = rank(task, zoo(), tmp_path / "out", **options(), root=tmp_path)
    assert names(done.results)[0] == "good"
    assert done.results.sample.rounds == ()
    assert not list((tmp_path / "out").rglob("chunk-*.npz"))


def test_regression_and_held_out_domains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(240, 10)) * np.array([1] * 3 + [3] * 7)).astype(np.float32)
    values = inputs[:, :3].sum(axis=1) + 0.1 * rng.normal(size=240)
    domains = np.array(["a", "b"])[np.arange(240) % 2]
    np.savez(tmp_path / "r.npz", inputs=inputs, labels=values, domains=domains)
    question = {
        "task": {"kind": "arrays", "path": "r.npz", "target": "regression"},
        "held_out": ["b"],
        "sample": {"first": 60, "most": 60},
        "training": {"steps": 4, "batch_size": 8},
    }
    done = rank(question, zoo(), tmp_path / "out", **options(verify=True), root=tmp_path)
    assert done.results.task.metric == "r2"
    assert done.results.task.judged_by == 120
    assert done.results.verified.noise is None
    assert names(done.results)[0] == "good"
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["held_out"] == ["b"]


def test_an_interrupted_ranking_goes_on(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    attempt = spend.attempt

    def once(run, jobs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(jobs)
        return attempt(run, jobs)

    monkeypatch.setattr(spend, "attempt", once)
    with pytest.raises(KeyboardInterrupt):
        rank(task, zoo(), tmp_path / "out", **options(budget=1000.0), root=tmp_path)
    monkeypatch.setattr(spend, "attempt", attempt)
    found = rank(task, zoo(), tmp_path / "out", **options(budget=1000.0), root=tmp_path)
    reused = {m.name for m in found.results.models if m.tuned.reused}
    assert reused == set(done)


def test_fixed_test_rows_judge_and_are_never_looked_at(task: Path, tmp_path: Path) -> None:
    """Of data without domains, too; the handover judges on the same rows."""
    stored = dict(np.load(tmp_path / "data.npz"))
    del stored["domains"]
    splits = np.array(["train", "train", "train", "test"])[np.arange(len(stored["labels"])) % 4]
    np.savez(tmp_path / "data.npz", **stored, splits=splits)
    done = rank(task, zoo(), tmp_path / "out", **options(budget=1000.0), root=tmp_path)
    assert done.results.task.judged_by == np.sum(splits == "test")
    assert done.results.sample.rows <= np.sum(splits == "train")
    recipe = load_recipe(tmp_path / "out" / "recipe.yaml")
    labels = plan_recipe(recipe, root=tmp_path / "out")
    assert any("in-distribution" in label for label in labels)


def test_named_scores_are_computed_or_refused(task: Path, tmp_path: Path) -> None:
    def ask(*scores: str) -> RankResults:
        value = yaml.safe_load(task.read_text())
        request = {**value, "scores": list(scores)}
        return rank(request, zoo(), tmp_path / scores[0], **options(), root=tmp_path).results

    assert set(ask("knn", "logme").models[0].scores) == {"knn", "logme"}
    with pytest.raises(InputError, match=r"no score is called 'knnn'.*knn"):
        ask("knnn")
    assert not (tmp_path / "knnn").exists()
    with pytest.raises(InputError, match="'leep' is not defined here: it needs logits"):
        ask("leep", "logme")
