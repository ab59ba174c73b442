"""An output folder belongs to the recipe that filled it: another one never replaces it unasked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from errno import EACCES
from pathlib import Path
from typing import Any

from stockpot.errors import OutputError
from stockpot.files import digest, output_error
from stockpot.reading import parse_json, read_bytes

RECIPE_DIGEST = "recipe_digest"
"""The key under which results carry what ``recipe_digest`` gives."""
WORK = "work"
"""The folder, in every output, of what a rerun reuses."""
_LOCKED = {".lock", "plan.json"}
_UNLOCKED = {"cache", "features", "scores"}
"""What ``WORK`` holds before its first job, and of verbs that run none."""


def recipe_digest(*parts: dict[str, Any]) -> str:
    """Hash of what a recipe says, defaults included; its title is only shown and does not count."""
    return digest([{key: part[key] for key in part if key != "title"} for part in parts])


def check_output(
    folder: Path,
    results: str,
    recipe: str,
    *,
    overwrite: bool,
    writes: Sequence[str] = (),
    data: Iterable[Path] = (),
) -> None:
    """Raise ``OutputError`` where writing to ``folder`` would lose what others put there.

    That is where it is a file, is or lies in the ``data`` of the task, holds the results of another
    recipe, or, not being a folder that stockpot filled, has a file or folder of a name that the
    verb ``writes``. ``overwrite`` allows the results of another recipe and nothing else. So it is
    where the folder cannot be made or written to.

    ``results``: name of the JSON file that the verb writes last. ``recipe``: this recipe's digest.
    Results that do not say what recipe they are of count as another's. A run that was interrupted
    before it wrote results has nothing to lose, and any recipe goes on from its finished jobs.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", hint="give a folder for the output")
    _check_can_be(folder)
    hint = "give another folder for the output"
    written = [folder / name for name in (results, WORK, "report.html", *writes)]
    for path in filter(Path.exists, data):
        own = path.resolve()
        if folder.resolve().is_relative_to(own) or any(map(own.is_relative_to, written)):
            raise OutputError(f"{folder} is the data of the task, or in it: {path}", hint=hint)
    known = _read(folder / results)
    if RECIPE_DIGEST not in known and not _has_worked(folder / WORK):
        for path in filter(os.path.lexists, written):
            raise OutputError(f"{path} is in the way, and is not stockpot's", hint=hint)
    if overwrite or not (folder / results).exists():
        return
    if known.get(RECIPE_DIGEST) != recipe:
        raise OutputError(
            f"{folder} holds the results of another recipe",
            hint="give another folder, or --overwrite (in Python overwrite=True): jobs that have "
            "not changed are not run again",
        )


def _check_can_be(folder: Path) -> None:
    """Make the folder where there is none, and take it away again: asked before hours of work."""
    made: list[Path] = []
    try:
        for one in (*reversed(folder.parents), folder):
            if not one.is_dir():
                one.mkdir()
                made.append(one)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        with suppress(OSError):  # somebody else has begun to fill it
            for one in reversed(made):
                one.rmdir()


def _read(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _has_worked(work: Path) -> bool:
    """Whether ``work`` is what a run has left, finished or not."""
    names = {path.name for path in work.iterdir()} if work.is_dir() else set()
    return bool(names & _LOCKED) or (bool(names) and names <= _UNLOCKED)
