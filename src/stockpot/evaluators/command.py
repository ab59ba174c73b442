"""An evaluator that is a program: it is given a model folder and prints scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.commands import filled, named_files, placeholders, run_command, split_command
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import LOSS, SCORE, Evaluator, Rows, Scores, checked, named_metric
from stockpot.evaluators.scratch import ScratchFolder, fresh_folder
from stockpot.files import digest, file_digest
from stockpot.reading import read_bytes

MODEL, ROWS = "model", "rows"
TIMEOUT = 3600.0
_MOST_ROWS = 1_000_000_000  # bytes of the file of rows
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
        self._root = Path(root or ".").resolve()
        self._words = split_command(command, self._root)
        self._timeout = timeout
        self._lines = None if rows is None else _lines(rows)
        self._scratch = ScratchFolder()
        self.label = command
        self.metric, self._lower = known.name, not known.higher_is_better
        named = placeholders(self._words)
        self.takes_rows = ROWS in named
        if MODEL not in named:
            raise InputError(f"command '{command}' is given no model", hint="add {model}")
        if self.takes_rows and self._lines is None:
            raise InputError(f"command '{command}' asks for {{rows}}", hint="name the file as rows")
        self.size = None if self._lines is None else len(self._lines)
        read = [*named_files(self._words, self._root), *files, *([rows] if rows else [])]
        self.identity = digest(["command", self._words, self.metric, [*map(file_digest, read)]])

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Run the command on a scratch folder with the model."""
        folder = self._scratch.write(model)
        scratch = fresh_folder()
        try:
            chosen = scratch / "rows"
            if self._lines is not None:
                lines = self._lines if rows is None else [self._lines[row] for row in rows]
                chosen.write_bytes(b"\n".join(lines) + b"\n")
            words = filled(self._words, {MODEL: str(folder), ROWS: str(chosen)})
            # Its pipes are files: nobody waits for a child that keeps them.
            with (scratch / "out").open("w+b") as out, (scratch / "err").open("w+b") as err:
                run_command(
                    words, self._root, out, err, timeout=self._timeout, error=EvaluationError
                )
                out.seek(0)
                printed = out.read(_LONGEST).decode("utf-8", "replace")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        count = self.size if rows is None else len(rows)
        return checked(_parsed(printed), LOSS if self._lower else SCORE, count)

    def close(self) -> None:
        """Remove the scratch folder."""
        self._scratch.close()


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


def _lines(path: Path) -> list[bytes]:
    try:
        raw = read_bytes(path, limit=_MOST_ROWS)
    except OSError as error:
        raise InputError(f"{path}: cannot read the rows: {error.strerror}") from error
    lines = [line for line in raw.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no rows")
    return lines
