"""Job functions for the tests; importable by worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from stockpot.errors import TaskError


def write(out: Path, inputs: dict[str, Path], *, text: str, **places: str) -> None:
    parts = [(folder / "text").read_text() for _, folder in sorted(inputs.items())]
    (out / "text").write_text("+".join([*parts, text]))


def fail(out: Path, inputs: dict[str, Path]) -> None:
    raise RuntimeError("the cause")


def fail_on_input(out: Path, inputs: dict[str, Path]) -> None:
    raise TaskError("row 3 is bad")


def die(out: Path, inputs: dict[str, Path]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count_up(out: Path, inputs: dict[str, Path], *, steps: int, pause: float) -> None:
    """A long job that keeps its state: one line per step, going on from what is there."""
    file = out / "steps"
    done = len(file.read_text().split()) if file.exists() else 0
    for step in range(done, steps):
        with file.open("a") as handle:
            handle.write(f"{step}\n")
        time.sleep(pause)


def count_attempts(out: Path, inputs: dict[str, Path], *, steps: int, pause: str = "0") -> None:
    """``count_up`` that writes down every start; ``pause`` is a place, not part of the name."""
    with (out / "starts.log").open("a") as handle:
        handle.write(f"{os.getpid()}\n")
    count_up(out, inputs, steps=steps, pause=float(pause))
    (out / "sum").write_text(str(sum(map(int, (out / "steps").read_text().split()))))


def talk(out: Path, inputs: dict[str, Path], *, text: str) -> None:
    """Print, also past Python, and read what there is to read."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    os.write(1, b"from below\n")
    (out / "heard").write_text(sys.stdin.read())
