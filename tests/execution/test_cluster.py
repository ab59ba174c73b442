"""Ray: the bytes of the serial backend, on three nodes of which one is killed in the middle."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoints import write_checkpoint
from stockpot.errors import InputError, JobError, MissingDependencyError
from stockpot.execution import Job, Ray, Serial, make_backend, run_jobs
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge
from stockpot.registry import Registry, init_registry

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
HELPERS = "tests.execution.helpers"

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'stockpot[ray]'"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    # What commands that run on the cluster must be able to import.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(**size)
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def counting(steps: int, pause: float) -> Job:
    places = {"pause": str(pause)}
    return Job(f"{HELPERS}:count_attempts", {"steps": steps}, {}, places, label=str(steps))


def contents(workplace: Path) -> dict[str, bytes]:
    """Every byte that jobs have left, but how long they took and how often they were begun."""
    return {
        str(file.relative_to(workplace)): file.read_bytes()
        for file in sorted((workplace / "jobs").rglob("*"))
        if file.is_file() and file.name not in ("done.json", "starts.log")
    }


def when(ready: Callable[[], bool], action: Callable[[], Any]) -> threading.Thread:
    def watch() -> None:
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def jobs_at_work(workplace: Path, steps: int) -> int:
    files = workplace.glob("partial/*/steps")
    return sum(len(file.read_text().split()) >= steps for file in files)


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_a_node_killed_in_the_middle_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    first = Job(f"{HELPERS}:write", {"text": "first"})
    last = Job(f"{HELPERS}:write", {"text": "last"}, {"before": first})
    work = tmp_path / "ray"
    killer = when(
        lambda: jobs_at_work(work, 3) >= 3,
        lambda: cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False),
    )
    finished: list[str] = []
    jobs = [counting(20 + number, 0.1) for number in range(6)]
    run_jobs(
        [*jobs, last],
        work,
        Ray(cluster.address),
        on_finished=lambda job, reused: finished.append(job.key),
    )
    killer.join()
    assert len(finished) == len(set(finished)) == 8
    assert list((work / "partial").iterdir()) == []
    starts = [len((work / "jobs" / job.key / "starts.log").read_text().split()) for job in jobs]
    assert sorted(starts) == [1, 1, 1, 1, 1, 2]  # one was begun again, and went on

    serial = tmp_path / "serial"
    run_jobs([*[counting(20 + number, 0.0) for number in range(6)], last], serial, Serial())
    assert contents(work) == contents(serial)


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_failures_and_impossible_wishes_are_told(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="'bad' failed: the cause") as caught:
        run_jobs([Job(f"{HELPERS}:fail", label="bad")], tmp_path, Ray(cluster.address))
    log = Path(str(caught.value).partition("see ")[2].rstrip(")"))
    assert "RuntimeError: the cause" in log.read_text()
    with pytest.raises(InputError, match="row 3 is bad"):
        run_jobs([Job(f"{HELPERS}:fail_on_input")], tmp_path, Ray(cluster.address))
    with pytest.raises(JobError, match="process was lost 2 times"):
        run_jobs([Job(f"{HELPERS}:die")], tmp_path, Ray(cluster.address, retries=1))
    wide = Job(f"{HELPERS}:write", {"text": ""}, threads=64)
    with pytest.raises(JobError, match="no machine of the cluster has 64 processors"):
        run_jobs([wide], tmp_path, Ray(cluster.address, patience=0.0))
    plain = Job(f"{HELPERS}:write", {"text": ""})
    with pytest.raises(JobError, match=r"cluster has 1 processor and 0\.5 GPU"):
        run_jobs([plain], tmp_path, Ray(cluster.address, gpus=0.5, patience=0.0))


SCRIPT = """
import sys
from pathlib import Path
from stockpot.execution import Job, Ray, run_jobs

jobs = [Job("tests.execution.helpers:count_up", {"steps": 40 + i, "pause": 0.1}) for i in (0, 1)]
try:
    run_jobs(jobs, Path(sys.argv[1]), Ray(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_stops_its_jobs(
    cluster: Any, tmp_path: Path, sent: signal.Signals
) -> None:
    script, work = tmp_path / "script.py", tmp_path / "work"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(work), cluster.address]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    # A shell that runs tests in the background has its children ignore Ctrl-C.
    process = subprocess.Popen(
        command,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    stop = when(lambda: jobs_at_work(work, 3) >= 2, lambda: process.send_signal(sent))
    process.wait()
    stop.join()
    if sent == signal.SIGINT:
        assert process.returncode == 130
    else:
        time.sleep(3.0)  # the cluster notices that the driver is gone
    before = [file.read_text() for file in sorted(work.glob("partial/*/steps"))]
    time.sleep(0.5)
    assert [file.read_text() for file in sorted(work.glob("partial/*/steps"))] == before
    assert all(3 <= len(text.split()) < 40 for text in before)

    subprocess.run(command, env=environment, check=True)
    for file in work.glob("jobs/*/steps"):
        steps = file.read_text().split()
        assert steps == [str(i) for i in range(len(steps))]


def parents(folder: Path, megabytes: int) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{name}.safetensors" for name in ("base", "a", "b")]
    base = {
        f"layers.{i}.weight": rng.standard_normal((262, 1001)).astype(np.float32)
        for i in range(megabytes)
    }
    for number, path in enumerate(paths):
        step = rng.standard_normal((262, 1001)).astype(np.float32) * 0.01 * number
        write_checkpoint(path, {name: value + step for name, value in base.items()})
    return [str(path) for path in paths]


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_a_merge_has_the_bytes_of_one_worker(cluster: Any, tmp_path: Path) -> None:
    from stockpot.merging.distributed import merge_with

    base, *models = parents(tmp_path / "parents", 8)
    spec = Spec(models, "stock", base, {"granularity": "global"})
    run_merge(spec, tmp_path / "one.safetensors")
    merge_with(Ray(cluster.address), spec, tmp_path / "many.safetensors", part=2_000_000)
    one, many = (tmp_path / f"{name}.safetensors" for name in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()


@with_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_recycle_has_the_bytes_of_this_machine(cluster: Any, tmp_path: Path) -> None:
    from stockpot.recycling import recycle
    from tests.recycling.tiny import recipe

    value = recipe(tmp_path, protocols=["linear_probe", "erm", "soup_uniform"], auxiliaries=[])
    here = recycle(value, tmp_path / "here", root=tmp_path, backend="serial", quiet=True)
    ray = Ray(cluster.address)
    there = recycle(value, tmp_path / "there", root=tmp_path, backend=ray, quiet=True)
    names = sorted(path.name for path in here.model.iterdir())
    assert names == sorted(path.name for path in there.model.iterdir())
    for name in names:
        assert (here.model / name).read_bytes() == (there.model / name).read_bytes()


def submit(address: str, *words: Any) -> list[str]:
    start = [sys.executable, "-m", "stockpot", "submit", "--address", address]
    return [*start, *map(str, words)]


@with_ray
@pytest.mark.slow
def test_a_command_is_submitted_watched_and_stopped(cluster: Any, tmp_path: Path) -> None:
    base, *models = parents(tmp_path / "parents", 2)
    words = ["merge", *models, "--base", base, "-m", "ties", "-o", tmp_path / "merged.safetensors"]
    init_registry(tmp_path / "registry").close()
    words += ["--registry", tmp_path / "registry"]
    command = submit(cluster.address, *words, "--backend", "ray", "--json")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["method"] == "ties"
    # The conductor of the run put it where it belongs, with its parents.
    assert len(said["registry"]["models"]) == 4
    with Registry(tmp_path / "registry") as registry:
        assert len(registry.ancestors("merged")) == 3
    run_merge(Spec(models, "ties", base), tmp_path / "one.safetensors")
    merged = tmp_path / "merged.safetensors"
    assert merged.read_bytes() == (tmp_path / "one.safetensors").read_bytes()

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr

    from tests.recycling.tiny import recipe

    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    file.write_text(json.dumps(recipe(tmp_path)))  # JSON is YAML
    process = subprocess.Popen(
        submit(cluster.address, "recycle", file, "-o", out, "--backend", "ray"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    log = out / "work" / "log.jsonl"
    when(log.exists, lambda: process.send_signal(signal.SIGINT)).join()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command again" in err


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"stockpot\[ray\]"):
        make_backend("ray")


@with_ray
def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"workers": 0}, {"gpus": 1.5}, {"gpus": -1.0}):
        with pytest.raises(InputError, match="ray: "):
            Ray(**wrong)
    assert Ray("auto", 3, gpus=0.25).workers == 3
