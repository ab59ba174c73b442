"""What every command must do with a hostile file: refuse it in one line, quickly, and leave no
trace.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from stockpot.cli.main import app

SECONDS, MEGABYTES = 10.0, 400
"""Bounds of one refusal, in time of the processor. Files here have kilobytes."""
PATIENCE = 60
"""Seconds of the clock after which a command waits for something that never comes."""


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder, with what lies there."""
    seen = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            seen[name] = f"link {path.readlink()}"
        elif path.is_file():
            seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            seen[name] = "folder" if path.is_dir() else "special"
    return seen


def refused(
    root: Path, *arguments: object, names: str, code: int = 2, changes: tuple[str, ...] = ()
) -> str:
    """Run a command on hostile input below ``root`` and judge how it ends; what it said.

    ``names``: the file that the error must name. ``changes``: beginnings of paths that may change.
    """
    before, started = tree(root), time.process_time()
    reset = _reset_peak()
    with _patience():
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    spent, grown = time.process_time() - started, _peak() - reset
    said = f"{arguments}\n{done.output}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"a traceback: {done.exception!r} from {said}") from done.exception
    assert done.exit_code == code, f"exit code {done.exit_code}, expected {code}: {said}"
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert names in errors[0], f"'{names}' is not named: {said}"
    assert len(errors[0]) < 2500, said
    assert errors[0].isprintable(), f"control characters: {errors[0]!r}"
    assert "Traceback" not in done.output, said
    after = {k: v for k, v in tree(root).items() if not k.startswith(changes or ("\0",))}
    before = {k: v for k, v in before.items() if not k.startswith(changes or ("\0",))}
    assert after == before, f"something was written: {set(after) ^ set(before)} by {said}"
    assert not (root / "ran").exists(), f"code ran: {said}"
    assert spent < SECONDS, f"{spent:.1f} s: {said}"
    assert grown < MEGABYTES, f"{grown:.0f} MB: {said}"
    return errors[0]


@contextmanager
def _patience() -> Iterator[None]:
    """End what waits for ever, such as for a pipe."""

    def end(*_: object) -> None:
        raise AssertionError(f"nothing came in {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def works(*arguments: object, code: int = 0) -> str:
    """Run a command that must end well, whatever lies around; all that it said."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{arguments}: {done.exception!r}") from done.exception
    assert done.exit_code == code, f"{arguments}\n{done.output}"
    return done.output


def _reset_peak() -> float:
    """Begin to measure the peak of memory anew; megabytes in use now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(float(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:"))
