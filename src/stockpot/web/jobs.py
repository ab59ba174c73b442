"""How far runs are: read from their folders, without touching them."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stockpot.reading import parse_json, read_bytes
from stockpot.web.runs import RunFolder

_LEVELS = 3  # folders of a run between its own and a file that is read
_KEY = re.compile(r"[0-9a-f]{20}")
_RECENT = 60.0  # seconds: a folder that was written to so lately belongs to a living run
_TEXT = 20_000_000  # bytes of a log or plan
_TRACE = 4000


@dataclass(frozen=True)
class JobView:
    """``state``: "done", "running", "failed", "waiting", or "stopped": begun, and nobody at it.

    ``seconds`` it took, where it is done; ``idle`` seconds since it last wrote, where it is not.
    """

    key: str
    label: str
    state: str
    weight: float = 1.0
    seconds: float | None = None
    idle: float | None = None
    error: str = ""


@dataclass(frozen=True)
class RunProgress:
    """``active``: whether a process holds the run's lock. ``share`` of the work done, 0 to 1.

    ``jobs`` are those of the latest plan, in its order; of runs without one, those ever started.
    ``earlier``: finished jobs of plans before. Some commands plan a few jobs at a time.
    """

    run: RunFolder
    active: bool
    jobs: tuple[JobView, ...]
    planned: bool
    earlier: tuple[JobView, ...] = ()

    def count(self, state: str) -> int:
        """Jobs in a state."""
        return sum(job.state == state for job in self.jobs)

    @property
    def share(self) -> float:
        whole = sum(job.weight for job in self.jobs)
        return sum(job.weight for job in self.jobs if job.state == "done") / whole if whole else 0.0

    @property
    def state(self) -> str:
        """One word for the whole run."""
        if self.active:
            return "running"
        if self.count("failed"):
            return "failed"
        return "finished" if self.count("done") == len(self.jobs) else "stopped"

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, by what was done so far; None before that is known."""
        done = [job for job in self.jobs if job.state == "done" and job.seconds is not None]
        pace = sum(job.weight for job in done)
        if not self.active or not self.planned or len(done) < 3 or not pace:
            return None
        rest = sum(job.weight for job in self.jobs if job.state != "done")
        spent = sum(job.seconds or 0.0 for job in done)
        return rest * spent / pace / max(1, self.count("running"))


def progress(run: RunFolder, now: float | None = None) -> RunProgress:
    """How far a run is."""
    place = run.work
    assert place is not None
    now = time.time() if now is None else now
    plan, started = _plan(place), _started(place)
    known = plan or started
    latest = _latest(place)
    active = is_locked(place / ".lock")
    if active is None:
        left = [latest[key] for key, _, _ in known if key in latest]
        alive = any(now - when < _RECENT for _, when in left)
        active = alive and not any(_error(folder) for folder, _ in left)
    jobs = tuple(
        _job(place, key, label, weight, latest, active, now) for key, label, weight in known
    )
    planned = {key for key, _, _ in known}
    others = (_job(place, *each, {}, active, now) for each in started if each[0] not in planned)
    earlier = tuple(job for job in others if job.state == "done")
    return RunProgress(run, active, jobs, bool(plan), earlier)


def watch(runs: Iterable[RunFolder]) -> list[RunProgress]:
    """All runs that have jobs: those at work first, then the latest first."""
    found = [progress(run) for run in runs if run.work is not None]
    return sorted(
        (each for each in found if each.jobs), key=lambda each: (not each.active, -each.run.changed)
    )


def is_locked(path: Path) -> bool | None:
    """Whether some process holds a lock on a file, without trying to take it; None: unknown.

    Trying would make a run that begins at this moment fail. Linux lists all locks.
    """
    try:
        inode = path.stat().st_ino
        listing = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    held = {field.rsplit(":", 1)[-1] for field in listing.split() if field.count(":") == 2}
    # A lock of another machine on shared storage is not listed here.
    return True if str(inode) in held else None


def _plan(place: Path) -> list[tuple[str, str, float]]:
    try:
        value = parse_json(_read(place / "plan.json"))
        found = [(str(e["key"]), str(e["label"]), float(e["weight"])) for e in value]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [each for each in found if _KEY.fullmatch(each[0])]


def _started(place: Path) -> list[tuple[str, str, float]]:
    """Jobs in the order in which they were first started."""
    found: dict[str, str] = {}
    try:
        lines = _read(place / "log.jsonl").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = parse_json(line)
            if _KEY.fullmatch(entry["key"]):
                found.setdefault(entry["key"], str(entry["label"]))
        except (ValueError, TypeError, KeyError):
            continue  # the line that is being written
    return [(key, label, 1.0) for key, label in found.items()]


def _latest(place: Path) -> dict[str, tuple[Path, float]]:
    """The newest attempt at each unfinished job, and when it last wrote."""
    found: dict[str, tuple[Path, float]] = {}
    try:
        folders = sorted((place / "partial").iterdir())
    except OSError:
        return found
    for folder in folders:
        if folder.is_symlink():
            continue
        try:
            times = [folder.stat().st_mtime]
            times += [each.stat().st_mtime for each in folder.iterdir()]
        except OSError:
            continue  # finished at this moment
        found[folder.name.partition("~")[0]] = (folder, max(times))
    return found


def _job(
    place: Path,
    key: str,
    label: str,
    weight: float,
    latest: dict[str, tuple[Path, float]],
    active: bool,
    now: float,
) -> JobView:
    label = label or key
    done = _done(place / "jobs" / key / "done.json")
    if done is not None:
        return JobView(key, label, "done", weight, seconds=done)
    if key not in latest:
        return JobView(key, label, "waiting", weight)
    folder, when = latest[key]
    error = _error(folder)
    state = "failed" if error and not active else "running" if active else "stopped"
    return JobView(key, label, state, weight, idle=max(0.0, now - when), error=error)


def _done(path: Path) -> float | None:
    return _seconds(path) if path.is_file() else None


@lru_cache(maxsize=100_000)
def _seconds(path: Path) -> float:
    """A finished job never changes."""
    try:
        value: Any = parse_json(_read(path))
        return float(value["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


def _error(folder: Path) -> str:
    try:
        return _read(folder / "error.log")[-_TRACE:]
    except OSError:
        return ""


def _read(path: Path) -> str:
    """A text of a run. Raises ``OSError`` where a link leads to it: nothing else is shown."""
    for folder in path.parents[:_LEVELS]:
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "is behind a link", str(path))
    return read_bytes(path, limit=_TEXT, follow=False).decode("utf-8", "replace")
