"""The whole verb on a task that trains in a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stockpot.backbones import load_model
from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import InputError, OutputError
from stockpot.provenance import read_record
from stockpot.recycling import Recycled, plan_recipe, recycle
from stockpot.recycling.protocols import PROTOCOLS
from tests.recycling.tiny import DOMAINS, image_net, recipe, write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recycle")


@pytest.fixture(scope="module")
def done(folder: Path) -> Recycled:
    value = recipe(folder, trials=2, final={"protocol": "ratatouille_uniform"})
    return recycle(value, folder / "out", root=folder, backend="serial", quiet=True)


def started(output: Path) -> list[str]:
    lines = (output / "work" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["key"] for line in lines]


def test_every_protocol_has_a_row_with_an_interval(done: Recycled) -> None:
    rows = {row["protocol"]: row for row in done.results.to_json()["table"]}
    assert list(rows) == list(PROTOCOLS)
    for row in rows.values():
        assert row["low"] <= row["mean"] <= row["high"]
        assert set(row["domains"]) == {"south"}
    assert rows["soup_uniform"]["difference"] is None
    assert rows["erm"]["difference"]["against"] == "soup_uniform"
    assert rows["oracle"]["group"] == "oracle"
    json.dumps(done.results.to_json(), allow_nan=False)


def test_cost_counts_every_run_and_auxiliary_that_was_needed(done: Recycled) -> None:
    steps = {row["protocol"]: row["steps"] for row in done.results.to_json()["table"]}
    assert steps["linear_probe"] == 0
    assert steps["single"] == 12
    assert steps["erm"] == steps["soup_uniform"] == 3 * 12
    assert steps["stock_2"] == 2 * 12
    assert steps["ratatouille_uniform"] == (3 + 1) * 12  # three runs and one auxiliary
    assert steps["stock_periodic"] == 2 * 12
    assert steps["soup_pooled"] == 2 * 3 * 12


def test_the_uniform_soup_is_the_mean_of_its_members(done: Recycled) -> None:
    jobs = done.folder / "work" / "jobs"
    by_label = {json.loads((f / "done.json").read_text())["label"]: f for f in jobs.iterdir()}
    soup = load_state(by_label["Soup (DiWA), uniform · south · trial 0"] / "model.safetensors")
    runs = [
        load_state(by_label[f"fine-tune base-{i} from base · south · trial 0"] / "best.safetensors")
        for i in range(3)
    ]
    for name, tensor in soup.items():
        mean = sum(run[name].double() for run in runs) / 3
        assert torch.equal(tensor, mean.float()) or torch.allclose(
            tensor.double(), mean, rtol=2e-7, atol=1e-9
        )


def test_an_auxiliary_gives_its_featurizer_and_not_its_head(done: Recycled) -> None:
    jobs = done.folder / "work" / "jobs"
    by_label = {json.loads((f / "done.json").read_text())["label"]: f for f in jobs.iterdir()}
    auxiliary = load_state(by_label["train auxiliary other"] / "featurizer.safetensors")
    assert all(name.startswith("featurizer.") for name in auxiliary)


def test_an_average_gets_a_reason_in_words(done: Recycled) -> None:
    found = {each["protocol"]: each for each in done.results.to_json()["cells"][0]["diagnosis"]}
    assert {"soup_uniform", "ratatouille_uniform", "stock_all"} <= set(found)
    for each in found.values():
        assert each["verdict"] in ("ahead", "no difference", "behind")
        assert each["words"].endswith(".")


def test_the_final_folder_loads_and_predicts_like_the_results_say(done: Recycled) -> None:
    model, classes = load_model(done.model, root=ROOT)
    assert classes == ("0", "1", "2")
    data = np.load(done.folder.parent / "target.npz")
    rows = data["domains"] == "south"
    with torch.no_grad():
        logits = model(model.backbone.prepare(data["inputs"][rows]))
    accuracy = float((logits.argmax(1).numpy() == data["labels"][rows]).mean())
    cell = done.results.to_json()["cells"][0]
    expected = next(m for m in cell["models"] if m["protocol"] == "ratatouille_uniform")
    assert accuracy == pytest.approx(expected["accuracy"])


def test_the_final_folder_says_where_it_came_from(done: Recycled) -> None:
    record = read_record(done.model)
    assert [p.role for p in record.parents] == ["base", "auxiliary", "run", "run", "run"]
    with open_checkpoint(done.model / "model.safetensors") as checkpoint:
        assert record.digest == checkpoint.digest()
    assert "tiny" in (done.model / "README.md").read_text().lower()


def test_a_second_call_repeats_nothing(done: Recycled, folder: Path) -> None:
    before = started(done.folder)
    assert len(before) == len(set(before))
    same = recipe(folder, trials=2, final={"protocol": "ratatouille_uniform"})
    recycle(same, done.folder, root=folder, backend="serial", quiet=True)
    assert started(done.folder) == before


def final_bytes(output: Path) -> bytes:
    files = sorted((output / "model").glob("*"))
    return b"".join(file.name.encode() + file.read_bytes() for file in files)


def test_images_with_a_frozen_trunk_and_rotation_as_auxiliary(tmp_path: Path) -> None:
    value = recipe(
        tmp_path,
        task={"kind": "images", "path": "images", "size": 16},
        backbone={
            "kind": "function",
            "name": "tests.recycling.tiny:image_net",
            "freeze_below": "3",
        },
        auxiliaries=[{"name": "turned", "rotation": True}],
        protocols=["erm", "fusing", "ratatouille_uniform", "trajectory_uniform"],
        runs=2,
    )
    value["training"] = {**value["training"], "augmentation": True, "views": 2, "batch_size": 4}
    write_images(tmp_path / "images")
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    assert done.results.to_json()["task"]["examples"] == dict.fromkeys(sorted(DOMAINS), 20)
    model, classes = load_model(done.model, root=ROOT)
    assert classes == ("left", "top")
    base = image_net().state_dict()
    for name, tensor in model.backbone.state().items():
        frozen = name.partition(".")[0] in "012"
        assert torch.equal(tensor, base[name]) == frozen, name


def test_regression_is_measured_by_r2(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(120, 6)).astype(np.float32)
    np.savez(
        tmp_path / "numbers.npz",
        inputs=inputs,
        labels=(20 + 5 * np.tanh(inputs[:, 0]) + inputs[:, 1]).astype(np.float32),
        domains=np.repeat(["a", "b", "c"], 40),
    )
    value = recipe(
        tmp_path,
        task={"kind": "arrays", "path": "numbers.npz", "target": "regression"},
        held_out=["c"],
        auxiliaries=[],
        protocols=["linear_probe", "single", "erm", "wise_ft", "ensemble", "soup_uniform"],
    )
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    assert done.results.to_json()["task"]["metric"] == "r2"
    rows = {row["protocol"]: row["mean"] for row in done.results.to_json()["table"]}
    assert rows["linear_probe"] > 0.3
    assert rows["soup_uniform"] > 0.3


OPTIONS: dict[str, Any] = {
    "steps": None,
    "epochs": 3,
    "accumulate": 2,
    "optimizer": "sgd",
    "momentum": 0.8,
    "nesterov": True,
    "schedule": "cosine",
    "warmup_ratio": 0.2,
    "clip_norm": 1.0,
    "early_stopping": 3,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "swad": {"converge": 2},
}


def test_a_recipe_with_all_options_of_training_says_what_it_did(tmp_path: Path) -> None:
    value = recipe(tmp_path, protocols=["linear_probe", "erm", "swad", "wise_ft", "soup_uniform"])
    value |= {"final": {"protocol": "soup_uniform"}, "auxiliaries": []}
    value["training"] = {**value["training"], **OPTIONS}
    done = recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)
    cell = done.results.to_json()["cells"][0]
    for run in cell["runs"]:
        # 3 epochs of 48 rows of two domains, 8 times 2 of each a step
        assert run["hyperparameters"]["steps"] == 9
        assert run["hyperparameters"]["optimizer"] == "sgd"
        assert run["history"][-1]["average_validation"] is not None
    models = {model["protocol"]: model for model in cell["models"]}
    frontier = models["wise_ft"]["how"]["frontier"]
    path = next(curve for curve in cell["connectivity"] if curve["kind"] == "base to best run")
    assert path["ood"] == [point["held_out"] for point in frontier]
    assert path["id"][0] == models["linear_probe"]["id_accuracy"]
    assert path["ood"][-1] == models["erm"]["accuracy"]
    assert path["b"] == models["erm"]["members"][0]


def test_a_class_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    value = {**recipe(tmp_path)["training"], "class_weights": {7: 2.0}}
    assert "training.class_weights: unknown class '7'" in refused(tmp_path, training=value)


def test_smoothed_labels_of_numbers_are_refused(tmp_path: Path) -> None:
    recipe(tmp_path)
    with np.load(tmp_path / "target.npz") as data:
        np.savez(tmp_path / "n.npz", **{**data, "labels": data["labels"].astype(np.float32)})
    value = {**recipe(tmp_path)["training"], "label_smoothing": 0.1}
    task = {"kind": "arrays", "path": "n.npz", "target": "regression"}
    message = refused(tmp_path, training=value, task=task)
    assert "training.label_smoothing: the task is regression" in message


SMALL: dict[str, Any] = {
    "protocols": ["linear_probe", "erm", "swad", "soup_greedy", "stock_periodic", "fusing"],
    "final": {"protocol": "soup_greedy"},
    "runs": 2,
}


def test_processes_give_the_bytes_of_serial(tmp_path: Path) -> None:
    value = recipe(tmp_path, **SMALL)
    recycle(value, tmp_path / "a", root=tmp_path, backend="serial", quiet=True)
    recycle(value, tmp_path / "b", root=tmp_path, backend="local", jobs=2, quiet=True)
    assert final_bytes(tmp_path / "a") == final_bytes(tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")


def results(output: Path) -> Any:
    """All results but the times."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "seconds"}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return plain(json.loads((output / "results.json").read_text()))


@pytest.mark.slow
def test_a_run_killed_again_and_again_gives_the_bytes_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path, **SMALL)))
    command = [sys.executable, "-m", "stockpot", "recycle", str(tmp_path / "recipe.yaml"), "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(output: Path) -> subprocess.Popen[bytes]:
        arguments = [*command, "-o", str(output), "--backend", "serial"]
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    total = len(started(tmp_path / "whole"))

    # Kill at the start of every job in turn: each stage is interrupted once.
    output = tmp_path / "killed"
    kills = 0
    for wanted in range(1, total + 1):
        process = start(output)
        log = output / "work" / "log.jsonl"
        while process.poll() is None:
            if log.exists() and len(set(started(output))) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
    assert start(output).wait() == 0
    assert kills >= total // 2
    assert final_bytes(tmp_path / "whole") == final_bytes(output)
    assert results(tmp_path / "whole") == results(output)
    # A job is started again only where it was killed; finished ones are not.
    keys = started(output)
    assert len(keys) <= total + kills


def refused(tmp_path: Path, **changes: Any) -> str:
    output = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        recycle(recipe(tmp_path, **changes), output, root=tmp_path, backend="serial", quiet=True)
    assert not output.exists()
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_unknown_domain_is_named(tmp_path: Path) -> None:
    assert "unknown domain 'west'" in refused(tmp_path, held_out=["west"])


def wild(tmp_path: Path, change: Any) -> str:
    """Save the base's weights after ``change`` as weights from the wild; what is said of them."""
    from stockpot.checkpoints.torch_io import save_state
    from tests.recycling.tiny import net

    state = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    save_state(tmp_path / "wild.safetensors", change(state))
    return refused(tmp_path, auxiliaries=[{"name": "wild", "weights": "wild.safetensors"}])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    def widen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**state, "0.weight": torch.zeros(17, 6)}

    message = wild(tmp_path, widen)
    assert "wild.safetensors" in message
    assert "0.weight" in message


def test_weights_with_an_unrelated_ancestor_are_refused(tmp_path: Path) -> None:
    def strange(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {name: torch.randn(t.shape, generator=generator) for name, t in state.items()}

    assert "wild" in (message := wild(tmp_path, strange))
    assert "ancestor" in message or "descend" in message


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state["2.weight"][1, 2] = float("nan")
        return state

    message = wild(tmp_path, spoil)
    assert "2.weight" in message
    assert "NaN" in message


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path}/executed",))

    (tmp_path / "wild.pt").write_bytes(pickle.dumps({"0.weight": Bad()}, protocol=2))
    message = refused(tmp_path, auxiliaries=[{"name": "wild", "weights": "wild.pt"}])
    assert "wild.pt" in message
    assert not (tmp_path / "executed").exists()


def test_a_backbone_without_fixed_weights_is_refused(tmp_path: Path) -> None:
    value = recipe(
        tmp_path, backbone={"kind": "function", "name": "tests.recycling.tiny:fresh_net"}
    )
    with pytest.raises(InputError, match="other weights than a moment ago"):
        recycle(value, tmp_path / "out", root=tmp_path, backend="serial", quiet=True)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        recycle(recipe(tmp_path), tmp_path / "file", root=tmp_path, quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_dry_run_names_the_jobs_and_writes_nothing(tmp_path: Path) -> None:
    labels = plan_recipe(recipe(tmp_path), root=tmp_path)
    assert "train auxiliary other" in labels
    assert labels[0] == "features of the target"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.npz", "target.npz"]
