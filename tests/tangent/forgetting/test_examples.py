"""One example goes: statistics have the bytes of never having had it, others are not touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.tangent import Component, forget, train, verify
from tests.tangent.core.test_command import run
from tests.tangent.core.world import write_world

KINDS = {
    "statistics": {
        "kind": "statistics",
        "dimension": 32,
        "random_dimension": 32,
        "directions": 1,
        "blocks": 4,
    },
    "average": {"kind": "average"},
}


def without_row(folder: Path, row: int) -> dict[str, np.ndarray]:
    with np.load(folder / "data.npz") as stored:
        return {key: np.delete(stored[key], row, 0) for key in stored.files}


def trained_row(folder: Path, recipe: Path) -> int:
    """A row that component east was made of."""
    from stockpot.tangent.opened import open_run

    division = open_run(recipe, folder / "out").division
    return int(next(shard for shard in division.shards if shard.name == "east").train[5])


@pytest.mark.parametrize("kind", KINDS)
def test_one_example_goes_as_if_it_had_never_been(kind: str, tmp_path: Path) -> None:
    recipe = write_world(tmp_path, training={"epochs": 2}, composer=KINDS[kind])
    out = tmp_path / "out"
    train(recipe, out, backend="serial", quiet=True)
    files = {path.name: path.read_bytes() for path in (out / "components").iterdir()}
    row = trained_row(tmp_path, recipe)
    jobs = {path.name for path in (out / "work" / "jobs").iterdir()}
    done = forget(recipe, out, ["east"], examples=[str(row)], retrain=True, quiet=True)
    assert done.certificate.exact
    assert done.certificate.against_retrained.equal_components
    about = done.certificate.examples
    assert (about.component, about.count) == ("east", 1)
    new = {path.name for path in (out / "work" / "jobs").iterdir()} - jobs
    # One block and the sum of blocks; or the component.
    assert len(new) == (2 if kind == "statistics" else 1)
    for name in ("north", "south"):
        path = out / "components" / f"{name}.safetensors"
        assert path.read_bytes() == files[path.name]

    never = tmp_path / "never"
    never.mkdir()
    other = write_world(never, training={"epochs": 2}, composer=KINDS[kind])
    np.savez(never / "data.npz", **without_row(tmp_path, row))
    train(other, never / "out", backend="serial", quiet=True)
    one, two = (
        Component.load(folder / "out" / "components" / "east.safetensors")
        for folder in (tmp_path, never)
    )
    assert one.digest == two.digest
    assert one.examples == two.examples

    # The row is gone from the data as well: all holds, and training goes on with what is there.
    np.savez(tmp_path / "data.npz", **without_row(tmp_path, row))
    checked = verify(done.path, recipe=recipe, run=out, retrain=True, quiet=True)
    assert checked.holds, [one for one in checked.checks if not one.holds]
    jobs = sorted((out / "work" / "jobs").iterdir())
    train(recipe, out, backend="serial", quiet=True)
    assert sorted((out / "work" / "jobs").iterdir()) == jobs  # nothing was trained again


def test_the_row_does_not_come_back(tmp_path: Path) -> None:
    recipe = write_world(tmp_path, training={"epochs": 1}, composer=KINDS["statistics"])
    out = tmp_path / "out"
    train(recipe, out, backend="serial", quiet=True)
    old = (out / "components" / "east.safetensors").read_bytes()
    row = trained_row(tmp_path, recipe)
    said = run("forget", recipe, out, "east", "--example", row, "-q")
    assert "removed: east" in said
    assert "1 record of <b>east</b>" in " ".join((out / "forgotten-east.html").read_text().split())
    assert "1 of its" in run("train", recipe, "-o", out, "--backend", "serial", code=2)
    (out / "components" / "west.safetensors").write_bytes(old)
    assert "was forgotten on" in run("compose", out, "-o", tmp_path / "all.safetensors", code=2)
    value = json.loads((out / "forgotten-east.json").read_text())
    assert value["membership"] is None
    assert not verify(out / "forgotten-east.json", run=out).holds


@pytest.mark.parametrize(
    ("names", "wanted", "words"),
    [
        (["east"], ["99999"], "no position in the data"),
        (["east"], ["deadbeef"], "is no row that component 'east'"),
        (["east", "north"], ["1"], "from one component"),
        (["east"], ["all"], "no position in the data"),
    ],
)
def test_examples_that_are_not_there_are_refused(tmp_path, names, wanted, words) -> None:
    recipe = write_world(tmp_path, rows=60, training={"epochs": 1}, composer=KINDS["statistics"])
    train(recipe, tmp_path / "out", backend="serial", quiet=True)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match=words):
        forget(recipe, tmp_path / "out", names, examples=wanted, quiet=True)
    assert sorted((tmp_path / "out").rglob("*")) == before
