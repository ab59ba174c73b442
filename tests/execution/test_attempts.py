"""Two attempts at one job at the same time: one counts, the other can do no harm."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stockpot.errors import JobError
from stockpot.execution import Job, Serial, run_jobs
from stockpot.execution.attempts import attempts, forget, settle, take_over
from stockpot.execution.cluster import attempt
from stockpot.execution.job import Outcome, Ticket, perform
from stockpot.version import VERSION
from tests.execution.helpers import count_attempts


def test_a_later_attempt_goes_on_and_the_earlier_one_has_nowhere_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    settle(folder)
    first = take_over(folder)
    (first / "half").write_text("done")
    second = take_over(folder)
    assert (second / "half").read_text() == "done"
    assert attempts(folder) == [second]
    with pytest.raises(FileNotFoundError):
        (first / "half").write_text("from a machine that was given up for lost")

    # Even one that makes its folder anew is older than the attempt that counts.
    first.mkdir()
    (first / "half").write_text("old")
    third = take_over(folder)
    assert third.name > second.name
    assert (third / "half").read_text() == "done"
    settle(folder)
    assert (folder / "half").read_text() == "done"
    forget(folder)
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_each_takes_over_from_one_other(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    settle(folder)
    (folder / "mark").touch()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: take_over(folder), range(8)))
    assert len(set(taken)) == 8
    assert attempts(folder) == [max(taken)]
    assert (max(taken) / "mark").exists()


def test_a_machine_without_the_storage_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="storage that all machines mount"):
        take_over(tmp_path / "key")
    ticket = Ticket("key", "tests.execution.helpers:write", {}, {}, str(tmp_path / "key"), 1)
    assert "does not see" in attempt(ticket, VERSION).error


def test_another_version_on_a_machine_is_refused(tmp_path: Path) -> None:
    ticket = Ticket("key", "tests.execution.helpers:write", {}, {}, str(tmp_path / "key"), 1)
    assert "the run was started by 0.0.1" in attempt(ticket, "0.0.1").error


class Lossy(Serial):
    """Every job is tried twice: the first time its process stops on the way."""

    def wait(self) -> Outcome:
        ticket = self._queue[0]
        lost = take_over(Path(ticket.folder))
        count_attempts(lost, {}, steps=3)
        done = attempt(self._queue.popleft(), VERSION)
        with pytest.raises(FileNotFoundError):
            count_attempts(lost, {}, steps=3)
        return done


def test_a_run_takes_the_folder_of_the_attempt_that_answered(tmp_path: Path) -> None:
    job = Job("tests.execution.helpers:count_attempts", {"steps": 5})
    folder = run_jobs([job], tmp_path, Lossy())[job]
    assert (folder / "steps").read_text().split() == list("01234")
    assert len((folder / "starts.log").read_text().split()) == 2
    assert list((tmp_path / "partial").iterdir()) == []


def test_what_a_lost_cluster_has_left_is_gone_on_from_on_this_machine(tmp_path: Path) -> None:
    job = Job("tests.execution.helpers:count_attempts", {"steps": 5})
    settle(tmp_path / "partial" / job.key)
    ticket = Ticket(job.key, job.function, {"steps": 2}, {}, "", 1)
    perform(Ticket(**{**vars(ticket), "folder": str(take_over(tmp_path / "partial" / job.key))}))
    folder = run_jobs([job], tmp_path, Serial())[job]
    assert (folder / "steps").read_text().split() == list("01234")
    assert len((folder / "starts.log").read_text().split()) == 2
