"""An evaluator that is a program: it is given a model folder and prints scores."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from stockpot.checkpoints import Checkpoint
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import LOSS, SCORE, Evaluator, Rows, Scores, checked, named_metric
from stockpot.evaluators.scratch import ScratchFolder, fresh_folder
from stockpot.files import digest, file_digest

MODEL, ROWS = "{model}", "{rows}"
TIMEOUT = 3600.0
_TAIL = 5  # lines of stderr that are shown of a command that failed
_LONGEST = 200_000_000  # bytes of stdout


class CommandEvaluator(Evaluator):
    """``python eval.py {model}``: the last line of its stdout that is JSON holds the result.

    ``{"scores": [...]}``, one a row, or ``{"score": 0.71}``, higher is better unless
    ``lower_is_better``. ``{model}`` is a model folder. ``{rows}``, where the command has it, is a
    file with the lines of ``rows`` that shall be scored, in order: the command then scores those.

    ``root``: the folder in which it runs. ``files``: what else its scores depend on, besides the
    command and the files that it names. ``timeout``: seconds; a command that takes longer is ended
    with all that it started.

    Raises ``InputError`` for a program that is not there, a command that is given no model, or rows
    without a file of them.
    """

    def __init__(
        self,
        command: str,
        *,
        root: Path | None = None,
        rows: Path | None = None,
        files: Sequence[Path] = (),
        lower_is_better: bool = False,
        metric: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        known = named_metric(metric, lower_is_better=lower_is_better)
        self._words = shlex.split(command)
        self._root = Path(root or ".").resolve()
        self._timeout = timeout
        self._lines = None if rows is None else _lines(rows)
        self._scratch = ScratchFolder()
        self.label = command
        self.metric, self._lower = known.name, not known.higher_is_better
        self.takes_rows = any(ROWS in word for word in self._words)
        if not any(MODEL in word for word in self._words):
            raise InputError(f"command '{command}' is given no model", hint=f"add {MODEL}")
        if not _is_program(self._words[0], self._root):
            raise InputError(f"command '{command}': there is no program '{self._words[0]}'")
        if self.takes_rows and self._lines is None:
            raise InputError(f"command '{command}' asks for {ROWS}", hint="name the file as rows")
        self.size = None if self._lines is None else len(self._lines)
        named = [self._root / word for word in self._words if (self._root / word).is_file()]
        read = [file_digest(path) for path in (*named, *files, *([rows] if rows else []))]
        self.identity = digest(["command", self._words, self.metric, read])

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Run the command on a scratch folder with the model."""
        folder = self._scratch.write(model)
        scratch = fresh_folder()
        try:
            chosen = scratch / "rows"
            if self._lines is not None:
                lines = self._lines if rows is None else [self._lines[row] for row in rows]
                chosen.write_bytes(b"\n".join(lines) + b"\n")
            places = {MODEL: str(folder), ROWS: str(chosen)}
            printed = self._run([_filled(word, places) for word in self._words], scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        count = self.size if rows is None else len(rows)
        return checked(_parsed(printed), LOSS if self._lower else SCORE, count)

    def close(self) -> None:
        """Remove the scratch folder."""
        self._scratch.close()

    def _run(self, words: list[str], scratch: Path) -> str:
        """What the command prints. Its pipes are files: nobody waits for a child that keeps them.

        Raises ``EvaluationError`` where it cannot be started, fails or takes too long.
        """
        with (scratch / "out").open("w+b") as out, (scratch / "err").open("w+b") as err:
            try:
                process = subprocess.Popen(
                    words,
                    cwd=self._root,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise EvaluationError(f"cannot start '{words[0]}': {error.strerror}") from error
            try:
                code = process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                raise EvaluationError(
                    f"the command took longer than {self._timeout:g} s and was ended{_tail(err)}",
                    hint="say timeout where it may take longer",
                ) from None
            finally:
                _end(process)
            if code != 0:
                cause = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise EvaluationError(f"the command ended with {cause}{_tail(err)}")
            out.seek(0)
            return out.read(_LONGEST).decode("utf-8", "replace")


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
    """End a command and everything that it started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _tail(err: IO[bytes]) -> str:
    """The last lines of stderr, to stand behind a message."""
    err.seek(0, os.SEEK_END)
    err.seek(max(err.tell() - 10_000, 0))
    lines = [line.strip() for line in err.read().decode("utf-8", "replace").splitlines()]
    last = [line for line in lines if line][-_TAIL:]
    return f": {' | '.join(last)}" if last else ""


def _parsed(printed: str) -> Any:
    """The scores in the last line of JSON that has any."""
    for line in reversed(printed.splitlines()):
        if not line.lstrip().startswith("{"):
            continue
        try:
            value = json.loads(line)
        except ValueError:
            continue
        for key in ("scores", "score"):
            if key in value:
                return value[key]
    last = " ".join((printed.strip().splitlines() or ["nothing"])[-1].split())[:80]
    raise EvaluationError(
        f"the command printed no score, its last line is: {last}",
        hint='its last line of stdout must be {"scores": [...]} or {"score": 0.71}',
    )


def _filled(word: str, places: dict[str, str]) -> str:
    for mark, value in places.items():
        word = word.replace(mark, value)
    return word


def _lines(path: Path) -> list[bytes]:
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{path}: cannot read the rows: {error.strerror}") from error
    if not lines:
        raise InputError(f"{path} holds no rows")
    return lines
