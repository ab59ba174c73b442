"""Runs that diverge end early, are named, and have no part in any average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.backbones import load_model
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation.collapse import Start, measure_start
from stockpot.provenance import read_record
from stockpot.recycling import Recycled, recycle
from stockpot.recycling.kept import kept_line
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.report import write_report
from stockpot.training.rows import read_outputs
from tests.recycling.test_combine import combined, make_rows, pool
from tests.recycling.tiny import recipe

ROOT = Path(__file__).parents[2]


def run(folder: Path, output: str = "out", **changes: Any) -> Recycled:
    value = recipe(folder, **changes)
    done = recycle(value, folder / output, root=folder, backend="serial", quiet=True)
    check_left_out(done)
    return done


def training(**changes: Any) -> dict[str, Any]:
    return {
        "steps": 12,
        "batch_size": 8,
        "dropout": 0.0,
        "weight_decay": 0.0,
        "head_only_steps": 2,
        "evaluate_every": 4,
        "augmentation": False,
        **changes,
    }


def check_left_out(done: Recycled) -> None:
    """What holds of every run of the verb: all is finite, and no average has a diverged member."""
    for file in (done.folder / "work" / "jobs").glob("*/*"):
        if file.suffix == ".safetensors":
            parts: Any = load_state(file)
            assert all(bool(torch.isfinite(tensor).all()) for tensor in parts.values()), file
        elif file.name.startswith("outputs"):
            assert all(np.isfinite(values).all() for values in read_outputs(file).values()), file
    json.dumps(done.results.to_json(), allow_nan=False)
    assert write_report(done.results, done.folder / "report.html").exists()
    for cell in done.results.to_json()["cells"]:
        diverged = {one["id"] for one in cell["runs"] if one["diverged"]}
        for model in cell["models"]:
            left_out = {one["member"] for one in model["how"].get("left_out", [])}
            assert not diverged & set(model["members"])
            assert not left_out & set(model["members"])
            assert all(one["why"] for one in model["how"].get("left_out", []))
            if model["how"].get("instead"):
                assert model["members"] == []
            if PROTOCOLS[model["protocol"]].pool == "plain":
                assert {one for one in diverged if one.startswith("base-")} <= left_out


def models(done: Recycled) -> dict[str, dict[str, Any]]:
    return {model["protocol"]: model for model in done.results.to_json()["cells"][0]["models"]}


def numbers(folder: Path) -> dict[str, Any]:
    """A regression task in three domains."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 6)).astype(np.float32)
    np.savez(
        folder / "numbers.npz",
        inputs=inputs,
        labels=(20 + 5 * np.tanh(inputs[:, 0]) + inputs[:, 1]).astype(np.float32),
        domains=np.repeat(["a", "b", "c"], 50),
    )
    return {
        "task": {"kind": "arrays", "path": "numbers.npz", "target": "regression"},
        "held_out": ["c"],
        "auxiliaries": [],
    }


def test_of_learning_rates_from_small_to_huge_the_huge_ones_are_left_out(tmp_path: Path) -> None:
    done = run(tmp_path, training=training(learning_rate=[1e-4, 1e-2, 1.0]), runs=5)
    runs = done.results.to_json()["cells"][0]["runs"]
    diverged = [one["hyperparameters"]["learning_rate"] for one in runs if one["diverged"]]
    assert diverged
    assert set(diverged) == {1.0}
    page = (done.folder / "report.html").read_text()
    assert "runs diverged, and no selection and no average has them" in page
    assert "learning rate 1: at the end accuracy on validation" in page
    soup, probe = models(done)["soup_uniform"], models(done)["linear_probe"]
    assert soup["members"]
    assert soup["id_accuracy"] > probe["id_accuracy"] - 0.1


@pytest.mark.parametrize("rate", [0.5, 9.0])
def test_a_regression_that_diverges_is_not_what_comes_out(tmp_path: Path, rate: float) -> None:
    value = numbers(tmp_path)
    value["backbone"] = {"kind": "function", "name": "tests.recycling.oddities:deep"}
    done = run(
        tmp_path, **value, training=training(learning_rate=rate), final={"protocol": "soup_uniform"}
    )
    found = models(done)
    for model in found.values():
        assert model["id_accuracy"] >= found["linear_probe"]["id_accuracy"] - 0.5
    for one in done.results.to_json()["cells"][0]["runs"]:
        assert set(one["diverged"]) == {"step", "learning_rate", "what"}
        assert one["diverged"]["learning_rate"] == rate
    # No member is left: what comes out is the linear probe, in the results and in the folder.
    soup = found["soup_uniform"]
    assert soup["how"]["instead"] == "linear probe: no member is left"
    assert soup["accuracy"] == found["linear_probe"]["accuracy"]
    model, _ = load_model(done.model, root=ROOT)
    data = np.load(tmp_path / "numbers.npz")
    rows = data["domains"] == "c"
    with torch.no_grad():
        values = model(model.backbone.prepare(data["inputs"][rows])).numpy()[:, 0]
    error = ((values - data["labels"][rows]) ** 2).mean() / data["labels"][rows].var()
    assert 1 - error == pytest.approx(soup["accuracy"], abs=1e-4)


@pytest.mark.parametrize("rate", [1e-30, 9.0])
def test_what_came_to_nothing_is_the_linear_probe(tmp_path: Path, rate: float) -> None:
    """Runs that all stay where they are, or all diverge: no soup is kept, and none is said."""
    value = numbers(tmp_path) | {"training": training(learning_rate=rate)}
    value["backbone"] = {"kind": "function", "name": "tests.recycling.oddities:deep"}
    done = run(tmp_path, **value)
    final = done.results.final
    assert final.protocol == final.best == "linear_probe"
    nothing = {row.protocol for row in final.candidates if row.came_to_nothing}
    assert nothing == {row.protocol for row in final.candidates} - {"linear_probe"}
    assert all(row.runs == 0 for row in final.candidates)
    line = kept_line(done.results)
    assert line.startswith(
        f"kept: Linear probe, the only candidate left. {len(nothing)} more candidates came to "
    )
    assert final.runs is not None
    assert (final.runs.no_better == 0) == (final.runs.diverged > 0)
    assert done.results.cells[0].diagnosis == ()
    card = (done.model / "README.md").read_text()
    assert "merge" not in card.partition("# ")[0]

    done = run(tmp_path, **value, final={"protocol": "soup_uniform"}, output="named")
    final = done.results.final
    assert final.instead
    assert {claim.subject for claim in (*final.validation, *(final.claims or ()))} == {
        "linear_probe"
    }
    assert "It came to nothing; the weights are the linear probe" in kept_line(done.results)
    assert [parent.role for parent in read_record(done.model).parents] == ["base"]


@pytest.mark.parametrize("shift", [0.0, 40.0])
def test_what_is_below_a_constant_answer_is_called_so(tmp_path: Path, shift: float) -> None:
    """Labels of the held-out domain that lie far from all others: their mean is better known."""
    value = numbers(tmp_path)
    data = dict(np.load(tmp_path / "numbers.npz"))
    data["labels"][data["domains"] == "c"] += np.float32(shift)
    np.savez(tmp_path / "numbers.npz", **data)
    results = run(tmp_path, **value, training=training(learning_rate=1e-3)).results
    row = results.row(results.final.protocol)
    assert row is not None
    assert (row.mean < 0) == (shift > 0)
    assert results.final.constant is not None
    # The best constant has R2 0 on these very rows.
    assert results.final.constant.mean == pytest.approx(row.mean, abs=1e-9)
    assert ("Below a constant answer on these rows: " in kept_line(results)) == (row.mean < 0)


def test_what_becomes_infinite_ends_its_run(tmp_path: Path) -> None:
    value = numbers(tmp_path)
    value["backbone"] = {"kind": "function", "name": "tests.recycling.oddities:deep"}
    done = run(tmp_path, **value, training=training(learning_rate=9.0, steps=40))
    for one in done.results.to_json()["cells"][0]["runs"]:
        if one["pool"] == "plain":
            assert one["diverged"]["what"].endswith("is not finite")
            assert one["steps"] < 40
            assert one["history"][0]["step"] == 0


def test_runs_from_an_auxiliary_that_diverged_are_not_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = recipe(tmp_path)
    np.savez(
        tmp_path / "noise.npz",
        inputs=(rng.normal(size=(180, 6)) * 50).astype(np.float32),
        labels=rng.normal(size=180).astype(np.float32),
        domains=np.repeat(["a", "b", "c"], 60),
    )
    backbone = {"kind": "function", "name": "tests.recycling.oddities:deep"}
    task = {"kind": "arrays", "path": "noise.npz", "target": "regression"}
    noise = {"name": "noise", "task": task, "training": {"learning_rate": 9.0, "steps": 30}}
    done = run(tmp_path, backbone=backbone, auxiliaries=[*value["auxiliaries"], noise], runs=3)
    runs = {one["id"]: one for one in done.results.to_json()["cells"][0]["runs"]}
    dropped = runs["noise-2"]
    assert dropped["diverged"]["what"].startswith("its auxiliary diverged: ")
    assert (dropped["steps"], dropped["history"]) == (0, [])
    assert "noise-2" not in models(done)["ratatouille_uniform"]["members"]
    # A mixture goes on without it: the auxiliaries that are left keep their proportions.
    assert all(runs[f"mixture-{index}"]["steps"] == 12 for index in range(3))


def test_a_run_that_falls_for_good_is_left_out_and_one_that_is_a_bit_worse_stays() -> None:
    start = Start(score=0.8, error=0.02, constant=0.5)
    assert not start.collapsed(0.7)  # worse than noise, but it has two thirds of the lead
    assert start.collapsed(0.6)
    few = Start(score=0.8, error=0.15, constant=0.5)
    assert not few.collapsed(0.6)  # on so few rows that may be chance
    weak = Start(score=0.45, error=0.02, constant=0.5)
    assert not weak.collapsed(0.44)
    assert weak.collapsed(0.4)
    assert Start(score=0.6, error=0.05, constant=0.0).collapsed(-17_737.0)


def test_the_start_is_measured_as_runs_are() -> None:
    labels = {"a": np.array([0, 0, 0, 1]), "b": np.array([1, 1, 0, 0, 2])}
    said = {"a": np.array([0, 0, 1, 1]), "b": np.array([1, 1, 0, 1, 1])}
    outputs = {name: np.eye(3)[values] for name, values in said.items()}
    start = measure_start(outputs, labels, "classification")
    assert start.score == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert start.constant == pytest.approx((3 / 4 + 2 / 5) / 2)
    a, b = [1, 1, 0, 1], [1, 1, 1, 0, 0]
    both = np.var(a, ddof=1) / 4 + np.var(b, ddof=1) / 5
    assert start.error == pytest.approx(np.sqrt(both) / 2)
    line = {"a": np.array([1.0, 2.0, 4.0])}
    same = measure_start({"a": np.full(3, 7 / 3)}, line, "regression")
    assert same.score == pytest.approx(same.constant)


def mark(run: Path, **changes: Any) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, **changes}))


@pytest.mark.parametrize(
    ("select", "combine"),
    [
        ("all", "mean"),
        ("best", "one"),
        ("greedy", "mean"),
        ("oracle", "one"),
        ("first two", "stock"),
        ("all", "ensemble"),
        ("best", "interpolate"),
    ],
)
def test_no_way_of_combining_takes_a_diverged_run(
    tmp_path: Path, select: str, combine: str
) -> None:
    """The outcome is that of a pool in which the diverged run never was, whatever it looks like."""
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=4)
    bad = {"step": 3, "learning_rate": 1.0, "what": "the loss is not finite"}
    best = json.loads((runs["run-0"] / "metrics.json").read_text())["best"]
    mark(runs["run-0"], diverged=bad, best={**best, "id_accuracy": 1.0, "accuracy": 1.0})
    made = combined(tmp_path, rows, runs, probe, select=select, combine=combine)
    rest = {name: run for name, run in runs.items() if name != "run-0"}
    alone = combined(tmp_path, rows, rest, probe, select=select, combine=combine)
    assert made.members == alone.members
    assert made.how.to_json() == {
        "left_out": [{"member": "run-0", "why": "diverged: the loss is not finite"}],
        **alone.how.to_json(),
    }
    for name, values in alone.outputs.items():
        np.testing.assert_array_equal(made.outputs[name], values)


def test_weights_far_below_the_probe_are_left_out(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=3)
    best = json.loads((runs["run-1"] / "metrics.json").read_text())["best"]
    mark(runs["run-1"], best={**best, "plain_score": -17_737.0})
    made = combined(tmp_path, rows, runs, probe)
    assert made.members == ["run-0", "run-2"]
    (left_out,) = made.how.to_json()["left_out"]
    assert left_out["member"] == "run-1"
    assert "-1.77e+04" in left_out["why"]
