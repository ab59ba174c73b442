"""Folders in which runs leave their results and their work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.reading import parse_json, read_bytes

_DEPTH = 2  # levels below a given folder
_LARGEST = 50_000_000
_MOST = 500


@dataclass(frozen=True)
class RunFolder:
    """One run. ``key`` names it in addresses; ``changed`` is when it last wrote (seconds).

    ``results`` is its ``results.json``, ``work`` the folder of its jobs; None where it lacks one.
    """

    key: str
    name: str
    folder: Path
    results: Path | None
    work: Path | None
    changed: float


def find_runs(roots: Iterable[Path]) -> list[RunFolder]:
    """Runs in folders and up to two levels below, in order; links to folders are not followed."""
    found: dict[Path, RunFolder] = {}
    for root in roots:
        for folder in _walk(Path(root).resolve(), _DEPTH):
            run = _run(folder, Path(root).resolve())
            if run is not None:
                found.setdefault(run.folder, run)
            if len(found) >= _MOST:
                break
    return list(found.values())


def find_run(roots: Iterable[Path], key: str) -> RunFolder:
    """The run of a key. Raises ``InputError`` where there is none."""
    for run in find_runs(roots):
        if run.key == key:
            return run
    raise InputError(f"there is no run {key}")


def kind(results: Mapping[str, Any]) -> str:
    """Which command wrote results: "rank", "recycle", "continual", or "" for none we know."""
    if "models" in results and "budget" in results:
        return "rank"
    if "table" in results and "final" in results:
        return "recycle"
    return "continual" if results.get("kind") == "continual" else ""


def read_results(run: RunFolder) -> dict[str, Any]:
    """The content of ``results.json``. Raises ``InputError`` where it cannot be read."""
    try:
        if run.results is None or run.results.lstat().st_size > _LARGEST:
            raise InputError(f"{run.name} has no results that can be shown")
        value = parse_json(read_bytes(run.results, limit=_LARGEST, follow=False))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the results of {run.name} cannot be read: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"the results of {run.name} are no results of stockpot")
    return value


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    yield folder
    if depth == 0 or _work(folder) is not None or (folder / "results.json").is_file():
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for each in inside:
        if not each.name.startswith(".") and each.is_dir() and not each.is_symlink():
            yield from _walk(each, depth - 1)


def _work(folder: Path) -> Path | None:
    """Where a run's jobs are: in ``work``, or in the folder itself for a bare set of jobs."""
    for place in (folder / "work", folder):
        notes = place / "log.jsonl", place / "plan.json"
        if not place.is_symlink() and any(note.is_file() for note in notes):
            return place
    return None


def _run(folder: Path, root: Path) -> RunFolder | None:
    results, work = folder / "results.json", _work(folder)
    has_results = results.is_file() and not results.is_symlink()
    if not has_results and work is None:
        return None
    try:
        times = [results.stat().st_mtime] if has_results else []
        times += [work.stat().st_mtime] if work is not None else []
    except OSError:
        return None
    inside = folder.relative_to(root)
    return RunFolder(
        key=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
        name="/".join((root.name, *inside.parts)),
        folder=folder,
        results=results if has_results else None,
        work=work,
        changed=max(times),
    )
