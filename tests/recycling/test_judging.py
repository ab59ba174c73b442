"""Recipes that are judged by another metric than accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy.special import softmax

from stockpot.errors import InputError, RecipeError
from stockpot.provenance import read_record
from stockpot.recycling import Recycled, parse_recipe, plan_recipe, recycle
from stockpot.recycling.jobs import _sample
from stockpot.recycling.kept import kept_line
from stockpot.recycling.plan import hash_seed
from stockpot.tasks import load_task, parse_task_spec, split_task
from stockpot.training.rows import Rows, read_outputs
from tests.recycling.tiny import recipe, write_arrays

PROTOCOLS = ["linear_probe", "single", "erm", "ensemble", "soup_uniform", "soup_greedy"]


def run(folder: Path, **changes: Any) -> Recycled:
    value = recipe(folder, auxiliaries=[], protocols=PROTOCOLS, runs=4, **changes)
    return recycle(value, folder / "out", root=folder, backend="serial", quiet=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Recycled:
    return run(tmp_path_factory.mktemp("log-loss"), metric="log_loss", also=["accuracy", "auroc"])


def folders(done: Recycled) -> dict[str, Path]:
    jobs = (done.folder / "work" / "jobs").iterdir()
    return {json.loads((f / "done.json").read_text())["label"]: f for f in jobs}


def losses(outputs: Any, labels: Any) -> float:
    return float(reference.log_loss(labels, softmax(outputs, axis=1), labels=[0, 1, 2]))


def test_the_table_has_the_score_and_the_others_beside_it(done: Recycled) -> None:
    with np.load(done.folder.parent / "target.npz") as data:
        labels = data["labels"][data["domains"] == "south"]
    by_label = folders(done)
    table = {row["protocol"]: row for row in done.results.to_json()["table"]}
    for name, label in (("soup_uniform", "Soup (DiWA), uniform"), ("ensemble", "Prediction ens")):
        folder = next(f for key, f in by_label.items() if key.startswith(label))
        outputs = read_outputs(folder / "outputs.npz")["test/south"]
        assert table[name]["mean"] == pytest.approx(-losses(outputs, labels), abs=1e-6)
        also = table[name]["also"]
        assert list(also) == ["accuracy", "auroc"]
        assert also["accuracy"]["mean"] == (outputs.argmax(axis=1) == labels).mean()
        area = reference.roc_auc_score(labels, softmax(outputs, axis=1), multi_class="ovr")
        assert also["auroc"]["mean"] == pytest.approx(area, abs=1e-6)
        assert also["auroc"]["low"] <= also["auroc"]["mean"] <= also["auroc"]["high"]
    assert done.results.to_json()["task"]["metric"] == "log_loss"
    assert done.results.to_json()["task"]["metrics"]["log_loss"] == {
        "label": "log-loss",
        "unit": "nats",
        "higher_is_better": False,
    }
    json.dumps(done.results.to_json(), allow_nan=False)


def test_steps_runs_and_members_are_chosen_by_it(done: Recycled) -> None:
    runs = {run["id"]: run for run in done.results.to_json()["cells"][0]["runs"]}
    for each in runs.values():
        history = {point["step"]: point["validation"] for point in each["history"]}
        assert each["id_accuracy"] == pytest.approx(max(history.values()), abs=1e-6)
        assert max(history.values()) < 0  # scores are losses with a minus sign
    lowest = min(runs, key=lambda name: -runs[name]["id_accuracy"])
    models = {model["protocol"]: model for model in done.results.to_json()["cells"][0]["models"]}
    assert models["erm"]["members"] == [lowest]
    trace = models["soup_greedy"]["how"]["trace"]
    assert trace[0]["candidate"] == lowest
    best = -np.inf
    for step in trace:
        assert step["accepted"] == (step["score"] >= best)
        best = max(best, step["score"])


def test_validation_losses_are_those_of_the_stored_outputs(done: Recycled) -> None:
    """The run's score is the mean over domains of scikit-learn's log-loss."""
    spec = parse_task_spec({"kind": "arrays", "path": "target.npz"})
    task = load_task(spec, root=done.folder.parent)
    folder = folders(done)["fine-tune base-0 from base · south · trial 0"]
    seed = hash_seed("split", 0, 0)
    split = {"held_out": ["south"], "seed": seed, "validation_fraction": 0.2}
    outputs = read_outputs(folder / "outputs-best.npz")
    expected = [
        losses(outputs[f"validation/{name}"], task.labels[rows])
        for name, rows in split_task(task, **split).validation.items()
    ]
    stored = json.loads((folder / "metrics.json").read_text())["best"]["id_accuracy"]
    assert stored == pytest.approx(-np.mean(expected), abs=1e-6)


def test_the_kept_model_is_chosen_by_it(done: Recycled) -> None:
    final = done.results.to_json()["final"]
    scores = {each["protocol"]: each["validation"] for each in final["candidates"]}
    assert final["best"] == max(scores, key=lambda name: scores[name])
    assert all(score < 0 for score in scores.values())
    assert {claim["metric"] for claim in final["claims"]} == {"log_loss"}
    assert " nats " in kept_line(done.results)


def test_the_card_says_log_loss_in_plain_sign(done: Recycled) -> None:
    metrics = read_record(done.model).metrics
    assert set(metrics) == {"id_log_loss", "held_out_log_loss"}
    assert all(value > 0 for value in metrics.values())


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "auroc"])
def test_runs_by_metrics_that_are_no_mean_over_rows(tmp_path: Path, metric: str) -> None:
    results = run(tmp_path, metric=metric).results.to_json()
    assert results["task"]["metric"] == metric
    for row in results["table"]:
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1.2
        assert set(row["also"]) <= {
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "log_loss",
            "calibration_error",
        }
        assert metric not in row["also"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "macro-f1"}, "unknown metric 'macro-f1'; did you mean 'macro_f1'"),
        ({"also": ["x"]}, "unknown metric 'x'; choose one of accuracy, balanced_accuracy"),
    ],
)
def test_unknown_metrics_are_refused_with_the_recipe(
    tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe(tmp_path, **changes))


@pytest.mark.parametrize("changes", [{"metric": "rmse"}, {"also": ["r2"]}])
def test_metrics_of_the_other_kind_are_refused(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(InputError, match=r"is for regression, the task is classification.*auroc"):
        run(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"metric": "auroc"}, {"also": ["auroc"]}])
def test_undefined_metrics_are_refused_before_any_work(tmp_path: Path, changes: Any) -> None:
    value = recipe(tmp_path, auxiliaries=[], **changes)
    with np.load(tmp_path / "target.npz") as data:
        arrays = dict(data)
    arrays["labels"][arrays["domains"] == "south"] = 1
    np.savez(tmp_path / "target.npz", **arrays)
    value["task"]["allow_missing_classes"] = True
    expected = "held-out rows of domain 'south': AUROC is undefined: all 60 rows have class 1"
    with pytest.raises(InputError, match=expected):
        recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    with pytest.raises(InputError, match=expected):
        plan_recipe(value, root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_paths_take_more_rows_where_few_have_one_class(tmp_path: Path) -> None:
    """Four rows of 60 are of the second class: ten rows seldom have one."""
    write_arrays(tmp_path / "target.npz")
    with np.load(tmp_path / "target.npz") as data:
        arrays = dict(data)
    arrays["labels"] = np.tile((np.arange(60) % 15 == 0).astype(np.int64), 3)
    np.savez(tmp_path / "target.npz", **arrays)
    task = load_task(parse_task_spec({"kind": "arrays", "path": "target.npz"}), root=tmp_path)
    split = split_task(task, held_out=["south"], validation_fraction=0.5)
    sizes = set()
    for seed in range(20):
        plain = _sample(Rows(task, split, None, None), 10, seed).test["south"]  # type: ignore[arg-type]
        rows = _sample(Rows(task, split, None, None, "auroc"), 10, seed).test["south"]  # type: ignore[arg-type]
        assert len(plain) == 10
        assert set(task.labels[rows]) == {0, 1}
        assert set(plain) <= set(rows)
        assert len(rows) == 10 or len(set(task.labels[plain])) == 1
        sizes.add(len(rows))
    assert {10, 20} <= sizes


def test_regression_is_judged_by_rmse(tmp_path: Path) -> None:
    value = recipe(tmp_path, auxiliaries=[], protocols=PROTOCOLS, runs=2, metric="rmse")
    with np.load(tmp_path / "target.npz") as data:
        arrays = dict(data)
    arrays["labels"] = arrays["inputs"][:, 0] * 100
    np.savez(tmp_path / "target.npz", **arrays)
    value["task"]["target"] = "regression"
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    row = done.results.to_json()["table"][0]
    assert row["mean"] < 0
    assert list(row["also"]) == ["mae"]
    assert read_record(done.model).metrics["held_out_rmse"] > 0
