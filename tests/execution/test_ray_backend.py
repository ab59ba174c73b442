"""What the Ray backend asks of Ray and makes of its answers; Ray itself is a stand-in here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stockpot.errors import InputError, JobError
from stockpot.execution import Job, Ray, conductor, run_jobs
from stockpot.execution.cluster import connect
from tests.execution.fake_ray import FakeRay

HELPERS = "tests.execution.helpers"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setattr("stockpot.execution.cluster.require_ray", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


def job(text: str, threads: int = 1, **inputs: Job) -> Job:
    return Job(f"{HELPERS}:write", {"text": text}, inputs, threads=threads)


def test_jobs_ask_for_their_threads_and_their_part_of_a_gpu(ray: FakeRay, tmp_path: Path) -> None:
    ray.node["Resources"] = {"CPU": 4, "GPU": 2}
    last = job("b", 2, first=job("a"))
    folders = run_jobs([last], tmp_path / "whole", Ray("head:6379"))
    assert (folders[last] / "text").read_text() == "a+b"
    assert [(o["num_cpus"], o["num_gpus"]) for o in ray.options] == [(1, 1.0), (2, 1.0)]
    assert ray.options[1]["runtime_env"] == {"env_vars": {"OMP_NUM_THREADS": "2"}}
    run_jobs([job("c")], tmp_path / "part", Ray("head:6379", gpus=0.25))
    assert ray.options[-1]["num_gpus"] == 0.25
    assert ray.addresses == ["head:6379", "head:6379"]
    assert not ray.connected


def test_a_cluster_of_this_process_is_used_and_left_alone(ray: FakeRay, tmp_path: Path) -> None:
    ray.init("mine")
    run_jobs([job("a")], tmp_path, Ray())
    assert ray.addresses == ["mine"]
    assert ray.connected
    assert ray.options[0]["num_gpus"] == 0


def test_where_the_cluster_is_looked_for(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.running = False
    run_jobs([job("a")], tmp_path / "a", Ray())
    assert ray.addresses == ["auto", "local"]
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    run_jobs([job("a")], tmp_path / "b", Ray())
    assert ray.addresses[2:] == ["head:1"]
    with pytest.raises(InputError, match="no Ray cluster answers at nowhere:1: no answer \\("):
        connect("nowhere:1")


def test_a_lost_machine_is_replaced_until_it_happens_too_often(
    ray: FakeRay, tmp_path: Path
) -> None:
    ray.losses = 2
    run_jobs([job("a")], tmp_path, Ray(retries=2))
    ray.losses = 2
    with pytest.raises(JobError, match=r"was lost 2 times \(NodeDiedError\)"):
        run_jobs([job("b")], tmp_path, Ray(retries=1))


def test_a_job_that_no_machine_can_take_ends_the_run(ray: FakeRay, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no machine of the cluster has 3 processors"):
        run_jobs([job("wide", 3)], tmp_path, Ray(patience=0.0))
    assert len(ray.cancelled) == 1
    with pytest.raises(JobError, match="1 processor and 2 GPUs"):
        run_jobs([job("x")], tmp_path, Ray(gpus=2, patience=0.0))


def conduct(*words: str) -> tuple[int, bytes, bytes]:
    out, err = bytearray(), bytearray()
    code = conductor.conduct(words, None, write_out=out.extend, write_err=err.extend)
    return code, bytes(out), bytes(err)


def test_a_command_is_conducted_to_its_end(ray: FakeRay, tmp_path: Path) -> None:
    code, out, err = conduct("inspect", str(tmp_path / "none"))
    assert (code, out) == (2, b"")
    assert b"does not exist" in err
    assert ray.options[0]["lifetime"] == "detached"
    assert len(ray.killed) == 1
    assert not ray.connected


def test_ctrl_c_is_passed_on(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class Impatient:
        def __init__(self, *arguments: object) -> None:
            self.looks = 0

        def look(self, out: int, err: int) -> object:
            self.looks += 1
            if self.looks == 2:
                raise KeyboardInterrupt
            return (b"", 0), (b"", 0), 130 if told else None

        def interrupt(self) -> None:
            told.append(self.looks)

    monkeypatch.setattr(conductor, "Conductor", Impatient)
    assert conduct("recycle")[0] == 130
    assert told == [2]


def test_a_command_that_the_cluster_loses_is_told(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quiet:
        def __init__(self, *arguments: object) -> None:
            pass

        def look(self, out: int, err: int) -> None:
            raise AssertionError("it was lost")

    monkeypatch.setattr(conductor, "Conductor", Quiet)
    ray.losses = 1
    with pytest.raises(JobError, match="lost the command: the node is gone"):
        conduct("doctor")
    assert not ray.connected
