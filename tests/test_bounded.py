"""A child process with limits: what it answers, and how it ends where it takes too much."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
import pytest

from stockpot.bounded import GIGABYTE, ChildLimits, in_bytes, run_bounded
from stockpot.errors import CheckpointError, InputError, LimitError, StockpotError

ROOMY = ChildLimits(4 * GIGABYTE, 120.0)


def echo(*values: Any) -> Any:
    sys.stdout.write("what a library says is no answer")
    return list(values)


def fail(kind: str) -> None:
    if kind == "input":
        raise CheckpointError("a file is bad", hint="take another")
    if kind == "bug":
        raise KeyError("nobody knows")
    if kind == "kill":
        os.kill(os.getpid(), 9)
    os._exit(3)


def take(gigabytes: float) -> float:
    return float(np.ones(int(gigabytes * GIGABYTE / 8)).sum())


def sleep() -> None:
    time.sleep(60)


def test_a_value_comes_back_as_it_is() -> None:
    numbers = [0.1, 1e-300, -0.0, 2.0**60]
    found = run_bounded(echo, numbers, "ümläut\n", limits=ROOMY, what="echo")
    assert found == [numbers, "ümläut\n"]
    assert str(found[0][2]) == "-0.0"


def test_errors_of_input_come_back_as_they_are() -> None:
    with pytest.raises(CheckpointError, match="a file is bad") as caught:
        run_bounded(fail, "input", limits=ROOMY, what="failing")
    assert caught.value.hint == "take another"


@pytest.mark.parametrize("kind", ["bug", "exit"])
def test_other_ends_are_one_line(kind: str) -> None:
    with pytest.raises(StockpotError, match=r"^failing failed: ") as caught:
        run_bounded(fail, kind, limits=ROOMY, what="failing")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, InputError)


def test_memory_has_a_limit_that_the_error_names() -> None:
    assert run_bounded(take, 0.5, limits=ChildLimits(2 * GIGABYTE, 120.0), what="taking") > 0
    with pytest.raises(LimitError, match=r"taking needs more than 2 GiB of memory, the limit"):
        run_bounded(take, 8.0, limits=ChildLimits(2 * GIGABYTE, 120.0), what="taking")


def test_a_child_that_the_system_killed_had_too_much() -> None:
    with pytest.raises(LimitError, match="memory"):
        run_bounded(fail, "kill", limits=ROOMY, what="failing")


def test_time_has_a_limit_that_the_error_names() -> None:
    started = time.monotonic()
    with pytest.raises(LimitError, match=r"sleeping takes more than 0\.2 s, the limit"):
        run_bounded(sleep, limits=ChildLimits(GIGABYTE, 0.2), what="sleeping")
    assert time.monotonic() - started < 30


def test_gibibytes_in_bytes() -> None:
    assert (in_bytes(None), in_bytes(0.5)) == (None, GIGABYTE // 2)
