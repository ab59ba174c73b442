"""Hostile model folders under every command that combines models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.registry import Registry, add, init_registry
from tests.attacks.folders import (
    ADAPTERS,
    COMPONENTS,
    CONFIGS,
    DAMAGES,
    GGUFS,
    LINKS,
    Make,
    base,
    encoded,
    stored_names,
)
from tests.attacks.judge import refused, works

Run = Callable[[Path, Path], list[object]]
READING: dict[str, Run] = {
    "merge": lambda root, bad: ["merge", bad, root / "good", "-o", root / "out"],
    "inspect": lambda root, bad: ["inspect", root / "good", bad],
    "soup": lambda root, bad: [
        *("soup", root / "good", bad, "-e", root / "eval.yaml", "-o", root / "out"),
    ],
    "average": lambda root, bad: ["average", root / "good", bad, "-o", root / "out"],
}
STORING: dict[str, Run] = {
    "registry add": lambda root, bad: ["registry", "add", bad, "-r", root / "registry"],
    "registry land": lambda root, bad: ["registry", "land", bad, "-r", root / "registry"],
    "contribute": lambda root, bad: ["contribute", bad, "-r", root / "registry"],
}


def commands(runs: dict[str, Run]) -> Any:
    """Each command; those after the first in the slow tests."""
    return [
        pytest.param(name, marks=pytest.mark.slow if place else ())
        for place, name in enumerate(runs)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    base(root / "good")
    (root / "eval.yaml").write_text('command: "echo {model}"\n')
    with init_registry(root / "registry") as registry:
        add(registry, root / "good")
        registry.advance("main", "good", {"what": "add"})
    return root


@pytest.fixture
def bad(root: Path) -> Any:
    yield root / "bad"
    shutil.rmtree(root / "bad", ignore_errors=True)
    shutil.rmtree(root / "out", ignore_errors=True)


@pytest.mark.parametrize("command", commands(READING))
@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(root: Path, bad: Path, command: str, case: str) -> None:
    ADAPTERS[case](bad)
    refused(root, *READING[command](root, bad), names="bad")


@pytest.mark.parametrize("command", commands({**READING, **STORING}))
@pytest.mark.parametrize("case", COMPONENTS)
def test_components_and_shards(root: Path, bad: Path, command: str, case: str) -> None:
    COMPONENTS[case](bad)
    run = {**READING, **STORING}[command]
    refused(root, *run(root, bad), names="bad")


@pytest.mark.parametrize("command", ["merge", "average", "registry add", "contribute"])
@pytest.mark.parametrize("case", LINKS)
def test_what_lies_beside_is_no_link(root: Path, bad: Path, command: str, case: str) -> None:
    LINKS[case](bad)
    run = {**READING, **STORING}[command]
    refused(root, *run(root, bad), names="bad")


@pytest.mark.parametrize("command", commands(READING))
@pytest.mark.parametrize("case", GGUFS)
def test_gguf(root: Path, tmp_path: Path, command: str, case: str) -> None:
    pytest.importorskip("gguf")
    path = tmp_path / "bad.gguf"
    GGUFS[case](path)
    words = [
        word if word != root / "out" else root / "out.safetensors"
        for word in READING[command](root, path)
    ]
    refused(root, *words, names="bad.gguf")


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_a_quantisation_that_lies(root: Path, bad: Path, case: str) -> None:
    make: Make = CONFIGS[case]
    make(bad)
    refused(root, *READING["merge"](root, bad), names="bad")


@pytest.mark.parametrize(
    ("kind", "name", "damage"),
    [
        pytest.param(kind, name, damage, marks=pytest.mark.slow if number % 7 else ())
        for number, (kind, name, damage) in enumerate(
            (kind, name, damage) for kind, name in stored_names() for damage in DAMAGES
        )
    ],
)
def test_damaged_tables_of_an_encoding(
    root: Path, bad: Path, kind: str, name: str, damage: str
) -> None:
    """Refused by name, or decoded to finite numbers where the other values can be meant."""
    from typer.testing import CliRunner

    from stockpot.cli.main import app

    encoded(kind, change=lambda tensors: DAMAGES[damage](tensors, name))(bad)
    output = bad.parent / "out.safetensors"
    done = CliRunner().invoke(app, ["merge", str(bad), str(bad), "-o", str(output)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 2)
    assert output.is_file() == (done.exit_code == 0)
    if output.is_file():
        from stockpot.checkpoints import open_checkpoint

        with open_checkpoint(output) as merged:
            assert all(np.isfinite(merged.read(each)).all() for each in merged.names)
        output.unlink()
        output.with_suffix(".merge.json").unlink()


def test_nothing_came_into_the_registry(root: Path) -> None:
    """After all of the above, and what is sound still works."""
    with Registry(root / "registry") as registry:
        assert registry.index.count() == 1
        assert not registry.quarantine()
    works("merge", root / "good", root / "good", "-o", root / "out")
