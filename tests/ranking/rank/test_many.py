"""A zoo of more than a hundred models: progress, failures, a killed run, memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.ranking.rank.tiny import write_task, zoo

ROOT = Path(__file__).parents[3]
COUNT = 120


def _large_zoo(folder: Path) -> Path:
    """Networks of rising quality, features of somebody else's, two that fail."""
    models = [
        {
            "id": f"net{i}",
            "kind": "function",
            "name": "tests.ranking.rank.tiny:net",
            "options": {"quality": i / COUNT, "hidden": 6 + i % 5},
        }
        for i in range(COUNT)
    ]
    random = np.random.default_rng(0)
    for i in range(10):
        np.savez(folder / f"bank{i}.npz", features=random.normal(size=(240, 12)))
        models.append({"id": f"bank{i}", "kind": "features", "path": f"bank{i}.npz"})
    models += zoo(broken="broken", gone="nowhere")["models"][-2:]
    file = folder / "zoo.yaml"
    file.write_text(yaml.safe_dump({"models": models}))
    return file


@pytest.mark.slow
def test_a_hundred_models_with_failures_and_a_kill(tmp_path: Path) -> None:
    task, models, out = write_task(tmp_path), _large_zoo(tmp_path), tmp_path / "out"
    command = [
        *(sys.executable, "-m", "stockpot", "rank", str(task), "--zoo", str(models)),
        *("-o", str(out), "--shortlist", "200", "--backend", "serial"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    features = out / "work" / "features"
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    ) as first:
        while first.poll() is None and len(list(features.glob("*/chunk-*.npz"))) < 40:
            time.sleep(0.05)
        assert first.poll() is None, "finished before it could be killed"
        first.send_signal(signal.SIGKILL)
    # A chunk appears whole or not at all, so these must be left as they are.
    before = {file: file.stat().st_mtime_ns for file in features.glob("*/chunk-*.npz")}
    assert before
    second = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert second.returncode == 0, second.stderr[-2000:]
    results = json.loads((out / "results.json").read_text())
    assert {each["model"] for each in results["failed"]} == {"broken", "gone"}
    assert len(results["models"]) == COUNT + 10
    assert {file: file.stat().st_mtime_ns for file in before} == before
    # The best networks are far ahead of the worst, and of features that are noise.
    place = {each["name"]: index for index, each in enumerate(results["models"])}
    assert np.mean([place[f"net{i}"] for i in range(90, COUNT)]) < 50
    assert np.mean([place[f"bank{i}"] for i in range(10)]) > 70
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    assert peak < 1500
