"""Every call to the system that a command makes fails once: nothing is lost, nobody sees a
traceback, and the same command again gives what an undisturbed run gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import ERRORS, KILL, Faults, in_child
from tests.faults.world import COMMANDS, World, blobs, fingerprint, run, strays

SAMPLE = 6
"""Points of a command and kind in the tests that always run."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("kind", [*ERRORS, KILL])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_sample_of_the_calls(world: World, name: str, kind: str) -> None:
    every(world, name, kind, SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*ERRORS, KILL])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_call(world: World, name: str, kind: str) -> None:
    every(world, name, kind, None)


def every(world: World, name: str, kind: str, sample: int | None) -> int:
    """Let calls of a command fail, one in each run; how many there were."""
    command = COMMANDS[name]
    place = world.fresh(command)
    before = fingerprint(place)
    with Faults(place).installed() as faults:
        done = run(command, place)
    assert done.exit_code == command.code, done.output
    after, kept = fingerprint(place), blobs(place)
    total = len(faults.calls)
    assert total > 3, faults.calls
    step = 1 if sample is None else max(1, total // sample)
    # Not always the same ones: names differ in length.
    for at in range(len(name + kind) % step, total, step):
        one(world, name, kind, at, before, after, kept)
    return total


def one(
    world: World,
    name: str,
    kind: str,
    at: int,
    before: dict[str, Any],
    after: dict[str, Any],
    kept: list[str],
) -> None:
    command = COMMANDS[name]
    place = world.fresh(command)
    faults = Faults(place, at, kind)
    if kind == KILL:
        with_faults(command, place, faults)
        told = f"{name} killed at call {at}"
    else:
        with faults.installed():
            done = run(command, place)
        call = faults.calls[at] if faults.struck else "no call"
        told = f"{name}, {kind} at call {at} ({call}): {done.output}"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise AssertionError(told) from done.exception
        assert done.exit_code in (0, 1, 2), told
        if done.exit_code != command.code:
            lines = done.stderr.splitlines()
            assert sum(line.startswith("error: ") for line in lines) == 1, told
            assert any(line.startswith("hint: ") for line in lines), told
    found = fingerprint(place)
    assert set(before["models"]) <= set(found["models"]) or name == "remove", told
    assert found["problems"] in (before["problems"], after["problems"]), told
    _old_or_new(found, before, after, told)
    if found != after or kind == KILL or name == "gc":
        again = run(command, place)
        whole = fingerprint(place)
        assert whole == after, f"{told}\nagain: {again.output}"
        assert again.exit_code == command.code or found == after, f"{told}\nagain: {again.output}"
    if name in ("gc", "merge", "merge into a file", "checkout"):
        assert blobs(place) == kept, told
        # Of a run that did its work what it could not remove may lie there, until it has ended.
        if kind == KILL or done.exit_code:
            assert not [stray for stray in strays(place) if stray.startswith(".out")], told


def _old_or_new(
    found: dict[str, Any], before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    """Outputs are the ones of before or those of after, never a part of either."""
    names = [key for key in {*found, *before, *after} if key.startswith("out/")]
    whole = [{key: value.get(key) for key in names} for value in (found, before, after)]
    assert whole[0] in whole[1:], told


def with_faults(command: Any, place: Path, faults: Faults) -> None:
    """Run a command in a child that the fault may kill."""

    def work() -> None:
        with faults.installed():
            run(command, place)

    in_child(work)
