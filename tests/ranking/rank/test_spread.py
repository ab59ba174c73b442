"""Features as jobs on other machines: the same features and failures as in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.execution import Serial
from stockpot.execution.job import Outcome, Ticket
from stockpot.ranking.verb import rank
from tests.ranking.rank.tiny import write_task, zoo


class Far:
    """A backend that is not of this machine: counts the jobs that it is given."""

    workers = 3

    def __init__(self) -> None:
        self._inner = Serial()
        self.functions: list[str] = []

    def submit(self, ticket: Ticket) -> None:
        self.functions.append(ticket.function)
        self._inner.submit(ticket)

    def wait(self) -> Outcome:
        return self._inner.wait()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("keep", ["features", "moments"])
def test_a_job_a_model_and_the_same_ranking(tmp_path: Path, keep: str) -> None:
    task, models = write_task(tmp_path), zoo(broken="broken")
    if keep == "moments":
        task.write_text(
            task.read_text().replace("first: 60, most: 120}", "most: 120, keep: moments}")
        )
    here = rank(task, models, tmp_path / "here", backend="serial", quiet=True)
    far = Far()
    there = rank(task, models, tmp_path / "there", backend=far, quiet=True)
    assert set(far.functions) == {"stockpot.ranking.spread:extract"}
    # The broken one is asked for in the first round only.
    assert len(far.functions) == 4 * max(1, len(here.results.sample.rounds)) + 1
    assert there.results.failed == here.results.failed
    assert [m.name for m in there.results.models] == [m.name for m in here.results.models]
    for one, two in zip(here.results.models, there.results.models, strict=True):
        assert one.scores == two.scores
    for file in (tmp_path / "here" / "work" / "features").glob("*/chunk-*.npz"):
        other = tmp_path / "there" / "work" / "features" / file.parent.name / file.name
        with np.load(file) as first, np.load(other) as second:
            assert all(np.array_equal(first[name], second[name]) for name in first.files)


def test_what_failed_is_tried_again_and_what_worked_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, models = write_task(tmp_path), zoo(broken="broken")
    far = Far()
    first = rank(task, models, tmp_path / "out", backend=far, quiet=True)
    assert [one.model for one in first.results.failed] == ["broken"]
    monkeypatch.setattr("tests.ranking.rank.tiny.broken", lambda: _mended())
    far = Far()
    again = rank(task, models, tmp_path / "out", backend=far, quiet=True)
    assert list(again.results.failed) == []
    assert len(far.functions) == len(again.results.sample.rounds)  # the mended one's


def _mended() -> object:
    from tests.ranking.rank.tiny import net

    return net(0.5)
