"""Jobs are done once, resume after a kill, and give the same bytes on every backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stockpot.errors import InputError, JobError, OutputError
from stockpot.execution import Backend, Job, Local, Serial, in_order, make_backend, run_jobs

HELPERS = "tests.execution.helpers"


def job(text: str, **inputs: Job) -> Job:
    return Job(f"{HELPERS}:write", {"text": text}, inputs, label=text)


def diamond() -> Job:
    top = job("a")
    return job("d", left=job("b", top=top), right=job("c", top=top))


def starts(workplace: Path) -> list[str]:
    lines = (workplace / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["label"] for line in lines]


@pytest.mark.parametrize("make", [Serial, lambda: Local(2)])
def test_inputs_come_first_and_each_job_runs_once(tmp_path: Path, make) -> None:
    last = diamond()
    folders = run_jobs([last], tmp_path, make())
    assert (folders[last] / "text").read_text() == "a+b+a+c+d"
    assert sorted(starts(tmp_path)) == ["a", "b", "c", "d"]

    reused = []
    run_jobs([last], tmp_path, make(), on_finished=lambda one, old: reused.append(old))
    assert reused == [True] * 4
    assert len(starts(tmp_path)) == 4


def test_the_key_depends_on_what_goes_in_and_on_nothing_else() -> None:
    one = Job("m:f", {"a": 1}, {}, places={"root": "/x"}, label="one", weight=2.0)
    assert one == Job("m:f", {"a": 1}, {}, places={"root": "/y"}, label="two")
    assert one != Job("m:f", {"a": 2})
    assert one != Job("m:g", {"a": 1})
    assert one != Job("m:f", {"a": 1}, threads=2)
    assert one != Job("m:f", {"a": 1}, {"in": Job("m:f")})


def test_a_shared_input_is_visited_once() -> None:
    assert [one.label for one in in_order([diamond()])] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("make", [Serial, lambda: Local(2)])
def test_a_failure_names_the_job_and_its_log(tmp_path: Path, make) -> None:
    good = job("good")
    bad = Job(f"{HELPERS}:fail", {}, {"good": good}, label="the bad one")
    with pytest.raises(JobError, match="job 'the bad one' failed: the cause") as caught:
        run_jobs([bad], tmp_path, make())
    log = tmp_path / "partial" / bad.key / "error.log"
    assert str(log) in str(caught.value)
    assert "RuntimeError: the cause" in log.read_text()
    assert (tmp_path / "jobs" / good.key / "done.json").exists()


def test_wrong_input_found_by_a_job_stays_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check: row 3 is bad"):
        run_jobs([Job(f"{HELPERS}:fail_on_input", label="check")], tmp_path, Serial())


def test_a_worker_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="'mortal' failed: its worker process died \\(signal 9"):
        run_jobs([Job(f"{HELPERS}:die", label="mortal")], tmp_path, Local(1))


def test_two_runs_in_one_workplace_are_refused(tmp_path: Path) -> None:
    class Nested(Serial):
        def submit(self, ticket) -> None:
            run_jobs([job("inner")], tmp_path, Serial())

    with pytest.raises(OutputError, match="another run is using"):
        run_jobs([job("outer")], tmp_path, Nested())


def test_backends_by_name() -> None:
    assert make_backend("serial").workers == 1
    local: Backend = make_backend("local", 3)
    assert local.workers == 3
    local.close()
    with pytest.raises(InputError, match="unknown backend 'slurm'"):
        make_backend("slurm")
    with pytest.raises(InputError, match="at least 1"):
        make_backend("local", 0)


SCRIPT = """
import sys
from pathlib import Path
from stockpot.execution import Job, make_backend, run_jobs

if __name__ == "__main__":
    long = Job("tests.execution.helpers:count_up", {"steps": 12, "pause": 0.05})
    after = Job("tests.execution.helpers:write", {"text": "x"}, {}, label="first")
    run_jobs([after, long], Path(sys.argv[1]), make_backend(sys.argv[2], 2))
"""


@pytest.mark.parametrize("backend", ["serial", "local"])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, backend: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    workplace = tmp_path / "work"
    command = [sys.executable, str(script), str(workplace), backend]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        files = list(workplace.glob("partial/*/steps"))
        if files and len(files[0].read_text().split()) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    if backend == "local":  # the workers leave with their parent
        time.sleep(0.5)
    before = files[0].read_text().split()
    time.sleep(0.3)
    assert files[0].read_text().split() == before
    assert len(before) < 12

    subprocess.run(command, env=environment, check=True)
    steps = next(workplace.glob("jobs/*/steps")).read_text().split()
    assert steps == [str(i) for i in range(12)]
    assert starts(workplace).count("first") == 1
