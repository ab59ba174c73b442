"""A command beside a cluster's actor: what it says, how it ends, seen by one who comes late."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stockpot.errors import JobError
from stockpot.execution.conductor import _KEPT, Conductor, _Stream
from stockpot.version import VERSION


def watch(conductor: Conductor, out: int = 0, err: int = 0) -> tuple[bytes, bytes, int]:
    """Everything from these places on, and the exit code."""
    words: tuple[bytes, bytes] = (b"", b"")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (data_out, out), (data_err, err), code = conductor.look(out, err)
        words = (words[0] + data_out, words[1] + data_err)
        if code is not None:
            return *words, code
        time.sleep(0.02)
    raise AssertionError("it does not end")


def start(words: Sequence[str], terminal: tuple[int, int] | None = None) -> Conductor:
    return Conductor(words, VERSION, None, terminal)


def test_output_and_exit_code_are_the_commands() -> None:
    conductor = start(["merge", "--list-methods", "--json"])
    out, err, code = watch(conductor)
    assert code == 0
    assert {method["name"] for method in json.loads(out)["methods"]} >= {"ties", "stock"}
    assert err == b""
    # Who asks later sees it from the start, or from where it was.
    assert watch(conductor)[0] == out
    assert watch(conductor, len(out) - 5)[0] == out[-5:]
    conductor.interrupt()  # of something that has ended is nothing


def test_an_error_is_told_on_a_terminal_of_the_viewers_size(tmp_path: Path) -> None:
    out, err, code = watch(start(["inspect", str(tmp_path / "none")], (80, 24)))
    assert code == 2
    assert out == b""
    assert b"does not exist" in err
    assert b"\r\n" in err  # a terminal's way to end a line


def test_another_version_is_refused() -> None:
    with pytest.raises(JobError, match=r"came from 0\.0\.1"):
        Conductor(["doctor"], "0.0.1", None, None)


def test_of_a_long_output_the_end_is_kept() -> None:
    ours, theirs = os.pipe()
    stream = _Stream(ours)
    for number in range(300):
        os.write(theirs, b"%05d\n" % number * 1000)
    os.close(theirs)
    stream.thread.join()
    data, place = stream.since(0)
    assert place == 300 * 6000
    assert len(data) == _KEPT
    assert data.endswith(b"00299\n")
    assert stream.since(place) == (b"", place)


def test_ctrl_c_reaches_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "stockpot"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys, time\n"
        "try:\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
    try:
        conductor = start([])
    finally:
        signal.signal(signal.SIGINT, before)
    while conductor.look(0, 0)[0][0] != b"at work\n":
        assert conductor.look(0, 0)[2] is None
        time.sleep(0.02)
    conductor.interrupt()
    assert watch(conductor)[2] == 130
