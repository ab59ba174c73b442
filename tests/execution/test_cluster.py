"""Ray: the bytes of the serial backend, on three nodes of which one is killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import InputError, JobError, MissingDependencyError
from stockpot.execution import Job, Ray, Serial, make_backend, run_jobs

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
HELPERS = "tests.execution.helpers"

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'stockpot[ray]'"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
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
