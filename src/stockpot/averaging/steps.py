"""The checkpoints of one run, in the order of their steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from stockpot.errors import InputError
from stockpot.inspection.sources import Source, short_name

_FOLDER = re.compile(r"checkpoint-(\d+)")
_FILE = re.compile(r"(?:.*[^a-z])?step=(\d+)(?:[^\d.].*)?\.ckpt")
_LAST = re.compile(r"last(-v\d+)?\.ckpt")  # Lightning's copy of the newest checkpoint
_HINT = "give the checkpoints one by one, the oldest first"

Run: TypeAlias = "Source | Sequence[Source]"
"""A trainer's output folder, or checkpoints one by one."""


@dataclass(frozen=True)
class RunCheckpoint:
    """A checkpoint and the step at which it was written; None where its name has none."""

    source: Source
    step: int | None

    @property
    def name(self) -> str:
        """What to call it."""
        return short_name(self.source) or "state in memory"


def run_folder(run: Run) -> Path | None:
    """The folder, where a run is given as one; None for checkpoints one by one."""
    listed = _listed(run)
    if len(listed) == 1 and isinstance(listed[0], str | Path):
        folder = Path(listed[0]).expanduser()
        return folder if folder.is_dir() else None
    return None


def find_checkpoints(run: Run) -> tuple[list[RunCheckpoint], list[str]]:
    """The checkpoints of a run by their steps, the oldest first, and what to know about them.

    ``run``: a folder that holds ``checkpoint-N`` folders (transformers, TRL, axolotl) or Lightning
    files ``...step=N.ckpt`` (also one folder down, in ``checkpoints``); or a list of folders, files
    and states. A list of which every name has a step is put in the order of the steps, any other
    stays as it is. Nothing is opened.

    Raises ``InputError`` for a folder without checkpoints, and for two of one step.
    """
    folder, notes = run_folder(run), list[str]()
    paths = _listed(run) if folder is None else _inside(folder, notes)
    if not paths:
        raise InputError("nothing to average", hint="give a run's folder, or checkpoints")
    every = [RunCheckpoint(path, _step_of(path)) for path in paths]
    nameless = next((one for one in every if one.step is None), None)
    if nameless is not None:
        if folder is not None:
            raise InputError(f"{nameless.source} has no step=N in its name", hint=_HINT)
        return every, notes
    every.sort(key=lambda one: one.step or 0)
    for one, other in pairwise(every):
        if one.step == other.step:
            problem = f"{one.source} and {other.source} are both of step {one.step}"
            raise InputError(problem, hint="name the checkpoints of one run, each step once")
    return every, notes


def window(run: Run, last: int | None) -> tuple[list[RunCheckpoint], list[str]]:
    """The ``last`` checkpoints of a run, all by default, and what to know about them.

    Raises ``InputError`` for a run that has less, and for a folder in which a step of the window
    is missing; besides what :func:`find_checkpoints` raises.
    """
    every, notes = find_checkpoints(run)
    count = len(every) if last is None else last
    if not 1 <= count <= len(every):
        raise InputError(f"last: got {count}", hint=f"the run has {len(every)} checkpoints")
    chosen = every[len(every) - count :]
    steps = [one.step for one in every if one.step is not None]
    if len(steps) < len(every) or count < 2:
        return chosen, notes
    gaps = Counter(b - a for a, b in pairwise(steps))
    usual = min(gaps, key=lambda gap: (-gaps[gap], gap))
    uneven = [(a, b) for a, b in pairwise(steps[-count:]) if b - a != usual]
    folder = run_folder(run)
    for a, b in uneven:
        if b - a > usual and folder is not None:
            problem = f"step {a + usual} is missing between the checkpoints of steps {a} and {b}"
            raise InputError(f"{folder}: {problem}", hint=f"take a later window, or {_HINT}")
    if uneven:
        notes.append("the checkpoints are not evenly spaced, and every one counts as one")
    return chosen, notes


def _listed(run: Run) -> Sequence[Source]:
    return run if isinstance(run, Sequence) and not isinstance(run, str) else [run]


def _inside(folder: Path, notes: list[str]) -> list[Source]:
    """The checkpoints in a trainer's folder, in any order."""
    for home in (folder, folder / "checkpoints"):
        folders = [path for path in home.glob("checkpoint-*") if _step_of(path) is not None]
        files = list(home.glob("*.ckpt"))
        if folders and files:
            problem = f"{home} holds {folders[0].name} and {files[0].name}: two kinds of runs"
            raise InputError(problem, hint=_HINT)
        copies = [file for file in files if _LAST.fullmatch(file.name)]
        if len(files) > len(copies):
            notes += [f"{file.name} is left out: a copy of the newest" for file in copies]
            files = [file for file in files if file not in copies]
        if folders or files:
            return [*sorted(folders), *sorted(files)]
    raise InputError(
        f"{folder} holds no checkpoint-N folders and no .ckpt files",
        hint="give the folder that a trainer wrote its checkpoints to, or the checkpoints",
    )


def _step_of(source: Source) -> int | None:
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    for pattern, name in ((_FOLDER, path.name), (_FILE, path.name), (_FOLDER, path.parent.name)):
        if (step := pattern.fullmatch(name)) is not None:
            return int(step[1])
    return None
