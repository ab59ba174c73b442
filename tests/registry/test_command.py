"""The commands: words for people, JSON for machines, exit codes, the tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.registry import Registry, add, init_registry
from stockpot.registry.registry import blob_key
from stockpot.registry.tree import family, lineage, text
from tests.registry.models import BASE, files, mean, moved, write_model


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with init_registry(tmp_path / "r") as registry:
        add(registry, write_model(tmp_path / "base", BASE))
        states = [moved(BASE, seed) for seed in range(2)]
        for number, state in enumerate(states):
            add(registry, write_model(tmp_path / f"m{number}", state), parents=["base"])
        add(
            registry,
            write_model(tmp_path / "soup", mean(*states)),
            kind="merge",
            parents=["base", "m0", "m1"],
        )
        registry.advance("main", "soup", {"what": "add"})
    return tmp_path / "r"


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_session(tmp_path: Path) -> None:
    place = tmp_path / "new"
    assert "registry at" in run("registry", "init", place)
    base, tuned = write_model(tmp_path / "b", BASE), write_model(tmp_path / "t", moved(BASE, 1))
    added = json.loads(run("registry", "add", base, "-r", place, "--line", "main", "--json"))
    assert (added["schema"], added["name"], added["new"]) == (1, "b", True)
    assert "t " in run("registry", "add", tuned, "-r", place, "--parent", "b", "--note", "hello")
    assert "was there already" in run(
        "registry", "add", tuned, "-r", place, "--parent", "b", "--note", "hello"
    )
    words = run(
        "registry", "add", tuned, "-r", place, "--parent", "b", "--lossy", "int8", "--name", "small"
    )
    assert "small" in words
    shown = run("registry", "show", "t", "-r", place)
    assert "from     b (base" in shown
    assert "note     hello" in shown
    assert "int8: difference to the base off by" in run("registry", "show", "small", "-r", place)
    assert json.loads(run("registry", "show", "main", "-r", place, "--json"))["name"] == "b"
    run("registry", "checkout", "t", "-r", place, "-o", tmp_path / "out")
    assert files(tmp_path / "out") == files(tuned)
    assert "changed (same ancestor)" in run("registry", "diff", "b", "t", "-r", place)
    assert "everything is as it was written" in run("registry", "verify", "-r", place)
    assert len(json.loads(run("registry", "log", "-r", place, "--json"))["models"]) == 3
    assert "version" in run("registry", "log", "-r", place, "--line", "main")
    run("registry", "log", "-r", place, "--line", "none", code=2)
    assert "0 blobs" in run("registry", "gc", "-r", place, "--dry-run")
    run("registry", "remove", "small", "-r", place, code=2)
    assert "removed" in run("registry", "remove", "small", "-r", place, "--yes")
    assert "marked" in run("registry", "gc", "-r", place, "--grace", "0")
    assert "2 models" in run("registry", "reindex", "-r", place)


def test_verify_ends_with_1_and_names_what_is_hit(place: Path) -> None:
    with Registry(place) as registry:
        blob = registry.manifest("m0").tensors()["head.weight"].blob
    path = place / blob_key(blob)
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    said = run("registry", "verify", "-r", place, code=1)
    assert f"blobs/{blob[:2]}/{blob}" in said
    assert "hits m0" in said


def test_trees_are_drawn(place: Path, tmp_path: Path) -> None:
    drawn = run("registry", "tree", "-r", place, "--svg", tmp_path / "tree.svg")
    with Registry(place) as registry:
        ids = {name: registry.find(name)[:8] for name in ("base", "m0", "m1", "soup")}
    assert drawn.splitlines() == [
        f"base  {ids['base']}  base",
        f"├── m0  {ids['m0']}  finetune",
        f"│   └── soup  {ids['soup']}  merge  [main 1*]  (also from base, m1)",
        f"└── m1  {ids['m1']}  finetune",
    ]
    picture = (tmp_path / "tree.svg").read_text()
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "soup (main 1)" in picture
    value = json.loads(run("registry", "tree", "m0", "-r", place, "--json"))
    assert {row["name"] for row in value["models"]} == {"base", "m0", "soup"}


def test_a_tree_of_nothing_and_one_with_a_cycle(tmp_path: Path) -> None:
    with init_registry(tmp_path / "r") as registry:
        assert text(*family(registry)) == ""
        run("registry", "tree", "-r", tmp_path / "r", "--svg", tmp_path / "empty.svg")
        assert "nothing yet" in (tmp_path / "empty.svg").read_text()
        add(registry, write_model(tmp_path / "a", BASE))
        add(registry, write_model(tmp_path / "b", moved(BASE, 1)), parents=["a"])
        registry.index._db.execute(
            "INSERT INTO edges SELECT a.num, 0, b.num, '', 'b', 'base', NULL, 'recorded', NULL"
            " FROM models a, models b WHERE a.name = 'a' AND b.name = 'b'"
        )
        rows, edges = family(registry)
        assert {line.split()[-3] for line in text(rows, edges).splitlines()} == {"a", "b"}
        assert len(lineage(rows, edges, {})["edges"]) == 2
        assert len(registry.ancestors("a")) == 2


def test_no_registry_is_a_wrong_input(tmp_path: Path) -> None:
    run("registry", "log", "-r", tmp_path / "nothing", code=2)
    run("registry", "add", tmp_path / "none", "-r", tmp_path / "nothing", code=2)
