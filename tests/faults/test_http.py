"""Every request of ``push`` and ``pull`` fails once: refused, an error of the hub, a connection
that ends; and so does every call to the system that they make below their folders. One line and a
next step, nothing half written, and the same command again is whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.merging import merge
from tests.faults.harness import ERRORS, KILL, Faults, in_child
from tests.hub import test_hub
from tests.hub.standin import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
KINDS: tuple[int | str, ...] = (403, 500, "disconnect")
hub = test_hub.hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    models = [test_hub.model_folder(tmp_path / name, seed) for seed, name in enumerate("ab")]
    merge(models, output=tmp_path / "merged")
    return tmp_path / "merged"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again after seconds; here at once."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def reset(hub: Hub, fault: tuple[int, int | str] | None = None) -> None:
    hub.requests.clear()
    hub.fault = fault


def judged(done: Any, told: str) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), told
    assert done.exit_code in (0, 1, 2), told
    if done.exit_code:
        lines = done.stderr.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, told
        assert any(line.startswith("hint: ") for line in lines), told
        assert "Traceback" not in done.output, told


@pytest.mark.parametrize("kind", KINDS)
def test_push(hub: Hub, model: Path, kind: int | str) -> None:
    assert run("push", model, "me/soup").exit_code == 0
    whole, total = hub.files("me/soup"), len(hub.requests)
    assert total > 4
    for at in range(total):
        hub.commits.clear()
        hub.private.clear()
        hub.objects.clear()
        reset(hub, (at, kind))
        done = run("push", model, "me/soup")
        told = f"push, {kind} at request {at}: {done.output} {done.exception!r}"
        judged(done, told)
        sent = hub.commits.get("me/soup", [("", {})])[-1][1]
        assert sent in ({}, whole), told
        assert done.exit_code or sent == whole, told
        reset(hub)
        again = run("push", model, "me/soup")
        assert again.exit_code == 0, f"{told}\nagain: {again.output}"
        assert hub.files("me/soup") == whole, told


@pytest.mark.parametrize("kind", KINDS)
def test_pull(
    hub: Hub, model: Path, tmp_path: Path, kind: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    examine_here(monkeypatch)
    assert run("push", model, "me/soup").exit_code == 0
    reset(hub)
    assert run("pull", "me/soup", "-o", tmp_path / "whole").exit_code == 0
    whole, total = contents(tmp_path / "whole"), len(hub.requests)
    assert total > 4
    for at in range(total):
        cache = tmp_path / f"cache{at}"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        reset(hub, (at, kind))
        done = run("pull", "me/soup", "-o", tmp_path / "out")
        told = f"pull, {kind} at request {at}: {done.output} {done.exception!r}"
        judged(done, told)
        assert (tmp_path / "out").exists() == (done.exit_code == 0), told
        reset(hub)
        again = run("pull", "me/soup", "-o", tmp_path / "out", "--overwrite")
        assert again.exit_code == 0, f"{told}\nagain: {again.output}"
        assert contents(tmp_path / "out") == whole, told
        assert not list(tmp_path.glob(".out*")), told


def examine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each of so many runs takes minutes."""
    from stockpot import hub as stockpot_hub

    def here(function: Any, *arguments: Any, limits: Any, what: str) -> Any:
        return function(*arguments)

    monkeypatch.setattr(stockpot_hub, "run_bounded", here)


def struck(faults: Faults, *words: object) -> Any:
    """Run a command with a fault; what it did, None where that ended the process."""
    if faults.kind == KILL:

        def work() -> None:
            with faults.installed():
                run(*words)

        in_child(work)
        return None
    with faults.installed():
        return run(*words)


def points(total: int, sample: int | None, name: str) -> range:
    step = 1 if sample is None else max(1, total // sample)
    return range(len(name) % step, total, step)


SAMPLES = [pytest.param(6, id="sample"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("kind", [*ERRORS, KILL])
def test_push_at_every_call_to_the_system(
    hub: Hub, model: Path, kind: str, sample: int | None
) -> None:
    with Faults(model.parent).installed() as counted:
        assert run("push", model, "me/soup").exit_code == 0
    whole, total, before = hub.files("me/soup"), len(counted.calls), contents(model)
    assert total > 4
    for at in points(total, sample, f"push{kind}"):
        for held in (hub.commits, hub.private, hub.objects):
            held.clear()
        reset(hub)
        done = struck(Faults(model.parent, at, kind), "push", model, "me/soup")
        told = f"push, {kind} at call {at} ({counted.calls[at]}): {done and done.output}"
        if done is not None:
            judged(done, told)
        sent = hub.commits.get("me/soup", [("", {})])[-1][1]
        assert sent in ({}, whole), told
        assert contents(model) == before, told
        again = run("push", model, "me/soup")
        assert again.exit_code == 0, f"{told}\nagain: {again.output}"
        assert hub.files("me/soup") == whole, told


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("kind", [*ERRORS, KILL])
def test_pull_at_every_call_to_the_system(
    hub: Hub,
    model: Path,
    tmp_path: Path,
    kind: str,
    sample: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    examine_here(monkeypatch)
    assert run("push", model, "me/soup").exit_code == 0
    place = tmp_path / "place"

    def fresh() -> tuple[str, str, str, Path]:
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        (place / "out" / "stockpot.json").write_text("{}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "place" / "cache"))
        return "pull", "me/soup", "-o", place / "out"

    words = fresh()
    with Faults(place).installed() as counted:
        assert run(*words, "--overwrite").exit_code == 0
    whole, total = contents(place / "out"), len(counted.calls)
    assert total > 10
    for at in points(total, sample, f"pull{kind}"):
        words = fresh()
        before = contents(place / "out")
        done = struck(Faults(place, at, kind), *words, "--overwrite")
        told = f"pull, {kind} at call {at} ({counted.calls[at]}): {done and done.output}"
        if done is not None:
            judged(done, told)
        assert contents(place / "out") in (before, whole), told
        again = run(*words, "--overwrite")
        assert again.exit_code == 0, f"{told}\nagain: {again.output}"
        assert contents(place / "out") == whole, told
        # Of a run that did its work what it could not remove may lie there, until it has ended.
        if done is None or done.exit_code:
            assert not list(place.glob(".out*")), told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
