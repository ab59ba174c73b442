"""Registries in several states, and the commands that change them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.registry import Registry
from stockpot.registry.checking import verify
from tests.registry.models import BASE, State, moved, write_model

SMALL: State = {name: BASE[name] for name in ("blocks.0.fc.weight", "head.bias")}
LEFT = ("registry.db", "registry.db-wal", "registry.db-shm", "lock")


@dataclass(frozen=True)
class Command:
    """A command line with the state of the registry that it starts from.

    ``arguments``: ROOT stands for the folder of the world. ``code``: of an undisturbed run.
    """

    start: str
    arguments: tuple[str, ...]
    code: int = 0


IN = ("-r", "ROOT/registry")
COMMANDS: dict[str, Command] = {
    "add": Command("base", ("registry", "add", "ROOT/models/ada", "--parent", "base", *IN)),
    "contribute": Command("base", ("contribute", "ROOT/models/ada", *IN)),
    "review": Command("proposed", ("review", "ada", *IN)),
    "refuse": Command("proposed", ("review", "ada", "--refuse", "not now", *IN)),
    "accept": Command("reviewed", ("accept", "ada", "ben", *IN)),
    "revert": Command("accepted", ("revert", "ada", *IN)),
    "remove": Command("proposed", ("registry", "remove", "ada", "--yes", *IN)),
    "gc": Command("garbage", ("registry", "gc", "--grace", "0", *IN)),
    "repair": Command("strays", ("registry", "repair", *IN)),
    "checkout": Command(
        "base", ("registry", "checkout", "base", "-o", "ROOT/out", "--overwrite", *IN)
    ),
    "merge": Command(
        "base", ("merge", "ROOT/models/ada", "ROOT/models/ben", "-o", "ROOT/out", "--overwrite")
    ),
    "merge into a file": Command(
        "base",
        (
            *("merge", "ROOT/models/ada", "ROOT/models/ben"),
            *("-o", "ROOT/out.safetensors", "--overwrite"),
        ),
    ),
}


class World:
    """``starts`` holds one folder a state; each case works on a copy of one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        models = root / "models"
        write_model(models / "base", SMALL)
        for seed, name in enumerate(("ada", "ben", "eve"), 1):
            write_model(models / name, moved(SMALL, seed))
        self._make(
            "base", ["registry init ROOT/registry", "registry add ROOT/models/base --line main"]
        )
        self._make("proposed", ["contribute ROOT/models/ada", "contribute ROOT/models/ben"], "base")
        self._make("reviewed", ["review ada ben"], "proposed")
        self._make("accepted", ["accept ada ben"], "reviewed")
        self._make("garbage", ["registry add ROOT/models/eve", "registry remove eve --yes"], "base")
        self._make("strays", [], "proposed")
        stray = root / "starts" / "strays" / "registry"
        (stray / "models" / "copy.json").write_text("{}")
        next((stray / "proposals").iterdir()).write_text("damaged")

    def _make(self, state: str, commands: list[str], start: str | None = None) -> None:
        place = self.root / "starts" / state
        if start is not None:
            shutil.copytree(self.root / "starts" / start, place)
        place.mkdir(parents=True, exist_ok=True)
        for command in commands:
            words = command.split()
            at = [] if "init" in words else ["-r", str(place / "registry")]
            known = [
                word.replace("ROOT/registry", str(place / "registry")).replace(
                    "ROOT", str(self.root)
                )
                for word in words
            ]
            done = CliRunner().invoke(app, known + at)
            assert done.exit_code == 0, done.output
        out = place / "out"
        if state == "base":
            write_model(out, moved(SMALL, 9))
            shutil.copyfile(out / "model.safetensors", place / "out.safetensors")

    def fresh(self, command: Command) -> Path:
        """A copy of the state that a command starts from."""
        place = self.root / "case"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.root / "starts" / command.start, place)
        shutil.copytree(self.root / "models", place / "models")
        return place


def run(command: Command, place: Path) -> Any:
    """Run a command in this process."""
    arguments = [word.replace("ROOT", str(place)) for word in command.arguments]
    return CliRunner().invoke(app, arguments)


def fingerprint(place: Path) -> dict[str, Any]:
    """What a registry holds, and the outputs beside it, but for times.

    Raises ``AssertionError`` where anything in it is damaged.
    """
    with Registry(place / "registry") as registry:
        found = verify(registry, threads=1)
        value: dict[str, Any] = {
            "problems": [problem.key for problem in found.problems],
            "models": sorted(row.id for row in registry.index.rows()),
            "lines": {
                line: [
                    {key: value for key, value in version.items() if key != "time"}
                    for version in registry.line(line)
                ]
                for line in registry.lines()
            },
            "proposals": sorted(key for key, _ in registry.documents("proposals")),
            # A review that was interrupted after it was written is made once more.
            "reviews": {
                key.rpartition("/")[0]: json.dumps(review, sort_keys=True)
                for key, review in registry.documents("reviews")
            },
            "quarantine": [entry.key for entry in registry.quarantine()],
        }
    for path in sorted(place.glob("out*")):
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file():
                value[file.relative_to(place).as_posix()] = _content(file)
    return value


def _content(file: Path) -> Any:
    """Bytes of a file; of a report all but the seconds."""
    if file.name.endswith("merge_report.json") or file.name.endswith(".merge.json"):
        report = json.loads(file.read_text())
        return {key: value for key, value in report.items() if key != "seconds"}
    return file.read_bytes()


def blobs(place: Path) -> list[str]:
    """Names of all blobs."""
    return sorted(path.name for path in (place / "registry" / "blobs").rglob("*") if path.is_file())


def strays(place: Path) -> list[str]:
    """Temporaries that lie about."""
    return sorted(
        path.relative_to(place).as_posix()
        for path in place.rglob("*")
        if ".tmp" in path.name or path.parent.name == "tmp"
    )
