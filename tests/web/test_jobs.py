"""What the page of jobs says is what the runs' folders say, and looking disturbs nothing."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from stockpot.execution import Job, Serial, run_jobs
from stockpot.web import ServerSettings, make_app
from stockpot.web.jobs import is_locked, progress, watch
from stockpot.web.runs import RunFolder, find_runs
from tests.web.conftest import HELPERS


def only(root: Path) -> RunFolder:
    (run,) = [run for run in find_runs([root]) if run.work is not None]
    return run


def test_a_failed_run(client: TestClient, runs: Path) -> None:
    (found,) = watch(find_runs([runs]))
    states = {job.label: job.state for job in found.jobs}
    assert states == {
        "write <a>": "done",
        "write <b>": "done",
        "fail on purpose": "failed",
        "never reached": "waiting",
    }
    assert found.planned
    assert found.state == "failed"
    late = progress(found.run, now=time.time() + 1000)
    assert late.state == "failed"
    assert late.share == 0.5
    assert late.left is None
    failed = next(job for job in late.jobs if job.state == "failed")
    assert "RuntimeError: the cause" in failed.error
    assert failed.idle is not None
    assert failed.idle > 900


def test_the_page_escapes_labels_and_polls_a_part(client: TestClient) -> None:
    text = client.get("/jobs").text
    assert "write &lt;a&gt;" in text
    part = client.get("/jobs/now").text
    assert "<html" not in part
    assert 'data-poll="/jobs/now"' in text


def test_a_run_at_work(tmp_path: Path) -> None:
    quick = [Job(f"{HELPERS}:write", {"text": str(n)}, label=f"job {n}", weight=2) for n in "123"]
    slow = Job(
        f"{HELPERS}:count_up",
        {"steps": 15, "pause": 0.1},
        {str(place): job for place, job in enumerate(quick)},
        label="slow",
        weight=4,
    )
    run = threading.Thread(target=run_jobs, args=([slow], tmp_path / "run" / "work", Serial()))
    run.start()
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            known = find_runs([tmp_path])
            if (
                known
                and known[0].work
                and (found := progress(known[0])).jobs[-1:]
                and found.jobs[-1].state == "running"
            ):
                break
            time.sleep(0.02)
        assert found.active
        assert found.state == "running"
        assert [job.state for job in found.jobs] == ["done"] * 3 + ["running"]
        assert found.share == pytest.approx(0.6)
        assert found.left is not None
        client = TestClient(
            make_app(ServerSettings(None, (tmp_path,))), base_url="http://localhost"
        )
        text = client.get("/jobs").text
        assert "3 of 4 jobs done, 1 at work" in text
        assert 'http-equiv="refresh"' in text  # for browsers without scripts
    finally:
        run.join()
    done = progress(only(tmp_path))
    assert done.state == "finished"
    assert done.share == 1.0
    assert 'http-equiv="refresh"' not in client.get("/jobs").text


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs a list of file locks")
def test_looking_at_a_lock_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert is_locked(path) is None
    with path.open("w") as handle:
        assert is_locked(path) is None
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert is_locked(path) is True
        fcntl.flock(handle, fcntl.LOCK_UN)
        assert is_locked(path) is None
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_runs_of_older_versions_have_a_log_alone(tmp_path: Path) -> None:
    key = "0123456789abcdef0123"
    lines = [
        json.dumps({"event": "start", "key": key, "label": "first"}),
        json.dumps({"event": "start", "key": key, "label": "first"}),
        json.dumps({"event": "start", "key": "../../../etc/passwd", "label": "x"}),
        json.dumps({"event": "start", "key": key[::-1]}),
        "[]",
        '{"event": "sta',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    (tmp_path / "plan.json").write_text("{")
    found = progress(only(tmp_path))
    assert [(job.label, job.state) for job in found.jobs] == [("first", "waiting")]
    assert not found.planned
    assert found.state == "stopped"
    folder = tmp_path / "jobs" / key
    folder.mkdir(parents=True)
    (folder / "done.json").write_text("broken")
    assert progress(only(tmp_path)).jobs[0].state == "done"


def test_attempts_on_a_cluster_are_one_job(tmp_path: Path) -> None:
    key = "0123456789abcdef0123"
    plan = [{"key": key, "label": "", "weight": 1.0}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for attempt in ("", "~0001-aaaaaa", "~0002-bbbbbb"):
        (tmp_path / "partial" / f"{key}{attempt}").mkdir(parents=True)
    (job,) = progress(only(tmp_path)).jobs
    assert job.label == key
    assert job.state == "running"


def test_folders_are_searched_two_levels_deep_without_links(tmp_path: Path) -> None:
    for place in ("a", "a/b", "a/b/c", ".hidden", "a/run/work/inside"):
        (tmp_path / "root" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / place / "note").write_text("")
    (tmp_path / "root" / "a" / "run" / "results.json").write_text("{}")
    (tmp_path / "root" / "a" / "b" / "c" / "results.json").write_text("{}")
    (tmp_path / "root" / ".hidden" / "results.json").write_text("{}")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "a" / "run")
    found = find_runs([tmp_path / "root", tmp_path / "root" / "a", tmp_path / "gone"])
    assert [run.name for run in found] == ["root/a/run", "a/b/c"]


def test_large_files_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.jsonl").write_text("x" * 100)
    (tmp_path / "results.json").write_text("{}" + " " * 100)
    monkeypatch.setattr("stockpot.web.jobs._TEXT", 50)
    monkeypatch.setattr("stockpot.web.runs._LARGEST", 50)
    client = TestClient(make_app(ServerSettings(None, (tmp_path,))), base_url="http://localhost")
    assert client.get("/jobs").status_code == 200
    assert "no results that can be shown" in client.get("/results").text
