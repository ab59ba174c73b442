"""Selecting and combining runs, against what can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.backbones import BackboneSpec, load_backbone
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import InputError
from stockpot.recycling.combine import Combination, combine_runs
from stockpot.tasks import load_task, parse_task_spec, split_task
from stockpot.training import build_feed
from stockpot.training.mixing import mix
from stockpot.training.rows import Rows, limit_task, write_outputs
from tests.recycling.tiny import write_arrays


def make_rows(folder: Path, name: str = "net", batchnorm: str = "frozen") -> Rows:
    write_arrays(folder / "target.npz")
    task = load_task(parse_task_spec({"kind": "arrays", "path": "target.npz"}), root=folder)
    spec = BackboneSpec(kind="function", name=f"tests.recycling.tiny:{name}", batchnorm=batchnorm)
    backbone = load_backbone(spec)
    feed = build_feed(task, backbone, folder=folder, views=0, augmentation=False, seed=0)
    return Rows(task, split_task(task, held_out=["south"], seed=0), backbone, feed)


def store(folder: Path, rows: Rows, state: dict[str, torch.Tensor]) -> Path:
    """A run's folder with these weights as its best."""
    folder.mkdir()
    model = rows.model()
    model.load_state(state)
    outputs = rows.outputs(model)
    save_state(folder / "best.safetensors", state)
    save_state(folder / "model.safetensors", state)
    write_outputs(folder / "outputs-best.npz", outputs)
    write_outputs(folder / "outputs.npz", outputs)
    (folder / "metrics.json").write_text(json.dumps({"best": rows.metrics(outputs)}))
    return folder


def pool(
    folder: Path, rows: Rows, count: int = 3, spread: float = 0.3
) -> tuple[Path, dict[str, Path]]:
    """The base with a random head, and runs scattered around it."""
    generator = torch.Generator().manual_seed(3)
    base = rows.model().state()
    base["head.weight"] = torch.randn(base["head.weight"].shape, generator=generator)
    probe = store(folder / "probe", rows, base)
    runs = {}
    for index in range(count):
        state = {
            name: tensor + spread * torch.randn(tensor.shape, generator=generator)
            for name, tensor in base.items()
        }
        runs[f"run-{index}"] = store(folder / f"run-{index}", rows, state)
    return probe, runs


def combined(folder: Path, rows: Rows, runs: Any, probe: Path, **how: str) -> Combination:
    settings = {"take": "best", "select": "all", "combine": "mean", "greedy_on": "pooled", **how}
    return combine_runs(rows, runs, probe, **settings)


def accuracies(runs: dict[str, Path], key: str) -> dict[str, float]:
    return {
        name: json.loads((run / "metrics.json").read_text())["best"][key]
        for name, run in runs.items()
    }


def test_a_model_averaged_with_itself_keeps_its_bytes(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=1)
    same = {"a": runs["run-0"], "b": runs["run-0"], "c": runs["run-0"]}
    made = combined(tmp_path, rows, same, probe)
    for name, tensor in load_state(runs["run-0"] / "best.safetensors").items():
        assert torch.equal(made.state[name], tensor)


def test_best_is_the_run_with_the_highest_validation_accuracy(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=5, spread=0.6)
    inside, outside = accuracies(runs, "id_accuracy"), accuracies(runs, "accuracy")
    made = combined(tmp_path, rows, runs, probe, select="best", combine="one")
    assert inside[made.members[0]] == max(inside.values())
    oracle = combined(tmp_path, rows, runs, probe, select="oracle", combine="one")
    assert outside[oracle.members[0]] == max(outside.values())


def test_greedy_starts_with_the_best_and_never_falls(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=5, spread=0.6)
    inside = accuracies(runs, "id_accuracy")
    for pooling in ("pooled", "mean"):
        made = combined(tmp_path, rows, runs, probe, select="greedy", greedy_on=pooling)
        assert inside[made.members[0]] == max(inside.values())
        accepted = [step["score"] for step in made.how.to_json()["trace"] if step["accepted"]]
        assert accepted == sorted(accepted)
        order = [step["candidate"] for step in made.how.to_json()["trace"]]
        assert [inside[name] for name in order] == sorted(inside.values(), reverse=True)


def test_the_ensemble_averages_probabilities(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows)
    made = combined(tmp_path, rows, runs, probe, combine="ensemble")
    assert made.state is None
    held_out = rows.split.test["south"]
    expected = 0.0
    for run in runs.values():
        model = rows.model()
        model.load_state(load_state(run / "best.safetensors"))
        model.eval()
        with torch.no_grad():
            expected = expected + torch.softmax(model(rows.feed.batch(held_out)).double(), 1) / 3
    np.testing.assert_allclose(np.exp(made.outputs["test/south"]), expected.numpy(), atol=1e-6)


def test_model_stock_against_the_formula_in_float64(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=2)
    made = combined(tmp_path, rows, runs, probe, combine="stock")
    base = load_state(probe / "model.safetensors")
    one, two = (load_state(run / "best.safetensors") for run in runs.values())
    for name, tensor in made.state.items():
        a, b = (one[name] - base[name]).double(), (two[name] - base[name]).double()
        cosine = float((a * b).sum() / (a.norm() * b.norm()))
        t = 2 * cosine / (1 + cosine)
        t = max(t, 0.0)
        expected = t * (one[name].double() + two[name].double()) / 2 + (1 - t) * base[name].double()
        np.testing.assert_allclose(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def test_interpolation_takes_the_coefficient_with_the_lowest_validation_loss(
    tmp_path: Path,
) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=1)
    made = combined(tmp_path, rows, runs, probe, select="best", combine="interpolate")
    losses = {point["coefficient"]: point["loss"] for point in made.how.to_json()["frontier"]}
    assert set(losses) == {round(0.1 * i, 1) for i in range(11)}
    assert losses[made.how.to_json()["coefficient"]] == min(losses.values())
    base, tuned = (
        load_state(probe / "model.safetensors"),
        load_state(runs["run-0"] / "best.safetensors"),
    )
    a = made.how.to_json()["coefficient"]
    for name, tensor in made.state.items():
        torch.testing.assert_close(tensor, (1 - a) * base[name] + a * tuned[name])


def test_the_frontier_of_wise_ft_goes_from_the_base_to_the_run(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    probe, runs = pool(tmp_path, rows, count=1, spread=0.8)
    made = combined(tmp_path, rows, runs, probe, select="best", combine="interpolate")
    points = {point["coefficient"]: point for point in made.how.to_json()["frontier"]}
    for end, folder in ((0.0, probe), (1.0, runs["run-0"])):
        stored = json.loads((folder / "metrics.json").read_text())["best"]
        assert points[end]["validation"] == pytest.approx(stored["id_accuracy"])
        assert points[end]["held_out"] == pytest.approx(stored["accuracy"])
    half = combined(tmp_path, rows, runs, probe, select="best", combine="half")
    base, tuned = (
        load_state(probe / "model.safetensors"),
        load_state(runs["run-0"] / "best.safetensors"),
    )
    for name, tensor in half.state.items():
        torch.testing.assert_close(tensor, (base[name] + tuned[name]) / 2)
    metrics = rows.metrics(half.outputs)
    assert points[0.5]["validation"] == metrics["id_accuracy"]
    assert points[0.5]["held_out"] == metrics["accuracy"]
    assert (
        rows.metrics(made.outputs)["accuracy"]
        == points[made.how.to_json()["coefficient"]]["held_out"]
    )


def test_an_average_gets_batchnorm_statistics_of_its_own(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, "net_with_batchnorm", "reestimate")
    probe, runs = pool(tmp_path, rows, count=2, spread=0.1)
    made = combined(tmp_path, rows, runs, probe)
    mean = sum(load_state(run / "best.safetensors")["featurizer.0.weight"] for run in runs.values())
    train = np.concatenate(list(rows.split.train.values()))
    bias = sum(load_state(run / "best.safetensors")["featurizer.0.bias"] for run in runs.values())
    inputs = torch.from_numpy(rows.task.inputs[train])
    hidden = inputs @ (mean / 2).T + bias / 2
    found = made.state["featurizer.1.running_mean"]
    torch.testing.assert_close(found, hidden.mean(0), rtol=0.2, atol=0.05)


def own_statistics(rows: Rows, state: dict[str, torch.Tensor]) -> float:
    """Validation loss of a state whose BatchNorm statistics are those of the training rows."""
    model = rows.model()
    ready = rows.ready(model, state)
    model.load_state(ready)
    model.eval()
    losses = []
    for own in rows.split.validation.values():
        with torch.no_grad():
            logits = model(rows.feed.batch(own)).double()
        target = torch.from_numpy(rows.task.labels[own])
        losses.append(float(torch.nn.functional.cross_entropy(logits, target)))
    return float(np.mean(losses))


def test_every_candidate_gets_batchnorm_statistics_of_its_own(tmp_path: Path) -> None:
    """What is compared is what would be kept: also at each coefficient that is only tried."""
    rows = make_rows(tmp_path, "net_with_batchnorm", "reestimate")
    probe, runs = pool(tmp_path, rows, count=3, spread=0.2)
    base = load_state(probe / "model.safetensors")
    one = load_state(runs["run-0"] / "best.safetensors")

    wise = combined(tmp_path, rows, {"run-0": runs["run-0"]}, probe, combine="interpolate")
    for point in wise.how.to_json()["frontier"]:
        a, loss = point["coefficient"], point["loss"]
        if 0 < a < 1:
            mixed = {n: t if t.ndim == 0 else (1 - a) * t + a * one[n] for n, t in base.items()}
            assert loss == pytest.approx(own_statistics(rows, mixed), rel=1e-4)


def test_what_cannot_be_averaged_follows_one_rule() -> None:
    """Shared tensors stay to the bit, whole numbers are those of the leading state."""
    mask = torch.tensor([0.0, float("-inf")])
    third = torch.tensor([1 / 3])
    states = [
        {"mask": mask, "third": third, "count": torch.tensor(count), "weight": torch.tensor([w])}
        for count, w in ((3, 1.0), (7, 2.0))
    ]
    given: list[set[str]] = []

    def mean(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        given.append(set(parts[0]))
        return {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}

    for lead, count in ((0, 3), (1, 7)):
        mixed = mix(states, mean, lead=lead)
        assert torch.equal(mixed["mask"], mask)
        assert torch.equal(mixed["third"], third)
        assert int(mixed["count"]) == count
        assert float(mixed["weight"]) == 1.5
    assert given == [{"weight"}, {"weight"}]
    with pytest.raises(InputError, match="tensor 'third' is in some models only"):
        mix([states[0], {n: t for n, t in states[1].items() if n != "third"}], mean)


def test_a_limit_draws_by_seed_and_domain_alone(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    small = limit_task(rows.task, 10, seed=1)
    assert small.counts() == dict.fromkeys(rows.task.domains, 10)
    again = limit_task(rows.task, 10, seed=1)
    np.testing.assert_array_equal(small.labels, again.labels)
    assert limit_task(rows.task, 1000, seed=1).counts() == rows.task.counts()
