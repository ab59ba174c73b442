"""Every call that a registry makes to fsspec fails once: no permission, an error of the service, a
connection that ends. What was there stays, and the same command again gives what it should.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

fsspec = pytest.importorskip("fsspec")

from stockpot.cli.main import app  # noqa: E402
from stockpot.registry import Registry  # noqa: E402
from stockpot.registry.checking import verify  # noqa: E402
from tests.faults.world import SMALL  # noqa: E402
from tests.registry.models import moved, write_model  # noqa: E402

CALLS = ("cat_file", "pipe_file", "exists", "find", "info", "modified", "rm_file")
SAMPLE = 8


class ServiceError(Exception):
    """As botocore raises them."""


ServiceError.__module__ = "botocore.exceptions"
FAULTS: dict[str, Exception] = {
    "403": PermissionError("Forbidden"),
    "500": ServiceError("An error occurred (500) when calling the service"),
    "disconnect": ConnectionResetError(104, "Connection reset by peer"),
}
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    # what is done before, and the command
    "add": ([], ["registry", "add", "MODELS/ada", "--parent", "base"]),
    "contribute": ([], ["contribute", "MODELS/ada"]),
    "review": (["contribute MODELS/ada"], ["review", "ada"]),
    "accept": (["contribute MODELS/ada", "review ada"], ["accept", "ada"]),
    "revert": (["contribute MODELS/ada", "review ada", "accept ada"], ["revert", "ada"]),
    "gc": (
        ["registry add MODELS/eve", "registry remove eve --yes"],
        ["registry", "gc", "--grace", "0"],
    ),
}


@contextmanager
def failing(at: int | None, error: Exception | None) -> Iterator[list[str]]:
    """Count the calls of the block, and let the one numbered ``at`` fail."""
    from fsspec.implementations.memory import MemoryFileSystem

    calls: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == at and error is not None:
                raise error
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(MemoryFileSystem, name, counted(name, getattr(MemoryFileSystem, name)))
        yield calls


class Cloud:
    """Registries in memory, each a copy of one that was made once."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models = root / "models"
        monkeypatch.setenv("STOCKPOT_CACHE", str(root / "cache"))
        for seed, name in enumerate(("base", "ada", "eve")):
            write_model(self.models / name, moved(SMALL, seed) if seed else SMALL)
        self.files = fsspec.filesystem("memory")
        self.start = f"start-{uuid.uuid4().hex}"
        self.run(self.start, "registry", "init", f"memory://{self.start}")
        self.run(self.start, "registry", "add", "MODELS/base", "--line", "main")

    def run(self, place: str, *words: str) -> Any:
        known = [word.replace("MODELS", str(self.models)) for word in words]
        at = [] if "init" in words else ["-r", f"memory://{place}"]
        return CliRunner().invoke(app, [*known, *at])

    def copy(self, start: str) -> str:
        place = f"case-{uuid.uuid4().hex}"
        for path in self.files.find(f"/{start}"):
            self.files.pipe_file(path.replace(start, place), self.files.cat_file(path))
        return place

    def state(self, place: str) -> dict[str, Any]:
        with Registry(f"memory://{place}") as registry:
            assert not verify(registry, threads=1).problems
            return {
                "models": sorted(row.id for row in registry.index.rows()),
                "lines": [version["model"] for version in registry.line("main")],
                "proposals": [key for key, _ in registry.documents("proposals")],
                "reviews": {key[:25] for key, _ in registry.documents("reviews")},
            }


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_sample_of_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    every(Cloud(tmp_path, monkeypatch), name, kind, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    every(Cloud(tmp_path, monkeypatch), name, kind, None)


def every(cloud: Cloud, name: str, kind: str, sample: int | None) -> None:
    prepare, command = COMMANDS[name]
    start = cloud.copy(cloud.start)
    for line in prepare:
        assert cloud.run(start, *line.split()).exit_code == 0
    before = cloud.state(start)
    place = cloud.copy(start)
    with failing(None, None) as calls:
        assert cloud.run(place, *command).exit_code == 0
    after, total = cloud.state(place), len(calls)
    step = 1 if sample is None else max(1, total // sample)
    for at in range(len(name + kind) % step, total, step):
        place = cloud.copy(start)
        with failing(at, FAULTS[kind]) as calls:
            done = cloud.run(place, *command)
        told = f"{name}, {kind} at call {at} ({calls[at]}): {done.output} {done.exception!r}"
        assert done.exception is None or isinstance(done.exception, SystemExit), told
        assert done.exit_code in (0, 1, 2), told
        if done.exit_code:
            lines = done.stderr.splitlines()
            assert sum(line.startswith("error: ") for line in lines) == 1, told
            assert any(line.startswith("hint: ") for line in lines), told
        found = cloud.state(place)
        assert set(before["models"]) <= set(found["models"]), told
        _expire(cloud, place)
        if found != after:
            again = cloud.run(place, *command)
            assert again.exit_code == 0, f"{told}\nagain: {again.output}"
            assert cloud.state(place) == after, told


def _expire(cloud: Cloud, place: str) -> None:
    """Leases of writers that died end after a quarter of an hour."""
    for path in cloud.files.find(f"/{place}/leases"):
        cloud.files.rm_file(path)
