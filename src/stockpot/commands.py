"""Programs that stockpot runs for somebody: how their command lines are read, and how they end.

A program is started by a *guard*, a small process of its own that ends the program, with all that
it started, as soon as nobody waits for it any more: also where the one who waited was killed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from stockpot.errors import InputError, StockpotError

_TAIL = 5  # lines of stderr that are shown of a command that failed
_PATIENCE = 30.0  # seconds that a guard has for ending a command
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_SCRIPT = re.compile(r"[^-\s{}=][^\s{}=]*\.(py|sh)")
# The end of the pipe on stdin is the end of whoever holds its other end.
_GUARD = """
import os, signal, subprocess, sys, threading
try:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
except OSError as error:
    sys.exit(f"cannot start '{sys.argv[1]}': {error.strerror}")
def end():
    try:
        os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
    except OSError:
        pass
def watch():
    os.read(0, 1)
    end()
threading.Thread(target=watch, daemon=True).start()
code = child.wait()
end()
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code % 256)
"""


def split_command(command: str, root: Path) -> list[str]:
    """The words of a command that runs in ``root``.

    Raises ``InputError`` for quotes that do not end, for a program that is not there, and for a
    script that is not.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"command '{command}': {error}") from error
    if not words or not _is_program(words[0], root):
        raise InputError(f"command '{command}': there is no program '{(words or [''])[0]}'")
    for word in words[1:]:
        if _SCRIPT.fullmatch(word) and not (root / word).is_file():
            raise InputError(f"command '{command}': there is no file {root / word}")
    return words


def placeholders(words: Sequence[str]) -> list[str]:
    """The names that stand in braces, in order, once."""
    return list(dict.fromkeys(name for word in words for name in _PLACEHOLDER.findall(word)))


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words with values in place of the names that stand in braces; others stay."""
    return [_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word) for word in words]


def named_files(words: Sequence[str], root: Path) -> list[Path]:
    """The files that a command names."""
    return [root / word for word in words if (root / word).is_file()]


def run_command(
    words: Sequence[str],
    root: Path,
    out: IO[bytes],
    err: IO[bytes],
    *,
    timeout: float,
    error: type[StockpotError],
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a command in ``root``; it writes to the files ``out`` and ``err``.

    What it started and left behind is ended with it. ``timeout``: seconds. ``variables``: put over
    the environment's. Raises ``error`` where it fails or takes too long, with the end of ``err``.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, *words],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=err,
        env={**_environment(), **(variables or {})},
        start_new_session=True,
    )
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        raise error(
            f"the command took longer than {timeout:g} s and was ended{_tail(err)}",
            hint="say timeout where it may take longer",
        ) from None
    finally:
        _end(process)
    if code != 0:
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise error(f"the command ended with {cause}{_tail(err)}")


def _is_program(word: str, root: Path) -> bool:
    """Whether a first word can be started: a path from ``root``, or a name on the search path."""
    if Path(word).name != word:
        word = str(root / word)
    return shutil.which(word, path=_environment()["PATH"]) is not None


def _environment() -> dict[str, str]:
    """Of the command: where no environment is activated, ``python`` is the one that runs us."""
    environment = dict(os.environ)
    if not {"VIRTUAL_ENV", "CONDA_PREFIX"} & environment.keys():
        own = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([own, environment.get("PATH", os.defpath)])
    return environment


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the guard end the command and everything that it started."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(err: IO[bytes]) -> str:
    """The last lines of stderr, to stand behind a message."""
    err.seek(0, os.SEEK_END)
    err.seek(max(err.tell() - 10_000, 0))
    lines = [line.strip() for line in err.read().decode("utf-8", "replace").splitlines()]
    last = [line for line in lines if line][-_TAIL:]
    return f": {' | '.join(last)}" if last else ""
