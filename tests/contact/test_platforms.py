"""On a machine that behaves like macOS or Windows, each verb leaves the same bytes as on Linux."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stockpot.checkpoints import write_checkpoint
from tests.contact.pythons import python, stockpot
from tests.recycling.tiny import recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux plays the other systems")

LIGHT = [
    ["merge", "-m", "stock", "-b", "base", "a", "b", "-o", "merged"],
    ["merge", "-m", "ties", "-b", "base", "a", "b", "-o", "one.safetensors"],
    ["merge", "-b", "base", "a", "b", "-o", "one.safetensors", "--overwrite"],
    ["merge", "a", "b", "-o", "shared", "--backend", "local", "-j", "2"],
    ["inspect", "a", "b", "--base", "base"],
    ["registry", "init"],
    ["registry", "add", "base", "--line", "main"],
    ["registry", "add", "a", "--parent", "base"],
    ["registry", "checkout", "a", "-o", "again"],
    ["registry", "verify"],
    ["registry", "gc"],
]
RECYCLE = ["recycle", "recipe.yaml", "-o", "recycled", "-j", "2"]
COMPARED = (
    "merged/model.safetensors",
    "one.safetensors",
    "shared/model.safetensors",
    "again/model.safetensors",
    "recycled/model/model.safetensors",
)


def write_files(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    base = {f"layer.{i}": rng.normal(size=(64, 48)).astype(np.float32) for i in range(4)}
    write_checkpoint(folder / "base" / "model.safetensors", base)
    for name in "ab":
        moved = {k: v + rng.normal(size=v.shape).astype(np.float32) / 100 for k, v in base.items()}
        write_checkpoint(folder / name / "model.safetensors", moved)
    small = recipe(folder, protocols=["erm", "soup_uniform"], auxiliaries=[], runs=2)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small))
    return folder


def digests(folder: Path, system: str, commands: list[list[str]]) -> dict[str, str]:
    """What the commands leave in ``folder``, by file; the first that fails is told."""
    settings = {"PRETENDED": system, "PRETENDED_UNDER": str(folder)}
    for words in commands:
        done = stockpot(words, folder, site="foreign", settings=settings)
        assert done.returncode == 0, f"{system}: {words}\n{done.stderr}"
    files = [folder / name for name in COMPARED if (folder / name).exists()]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = write_files(tmp_path_factory.mktemp("linux") / "w")
    return digests(folder, "linux", [*LIGHT, RECYCLE])


@pytest.mark.slow
@pytest.mark.parametrize("system", ["macos", "windows"])
def test_the_same_bytes(linux: dict[str, str], tmp_path: Path, system: str) -> None:
    assert set(linux) == set(COMPARED)
    assert digests(write_files(tmp_path / "w"), system, [*LIGHT, RECYCLE]) == linux


LOCKS = """
import sys
from pathlib import Path
from stockpot.system import locked

def free(path, **options):
    try:
        with locked(path, wait=0, **options):
            return True
    except BlockingIOError:
        return False

path = Path("lock")
with locked(path, shared=True), locked(path, shared=True):
    assert free(path, shared=True)
    assert not free(path)
with locked(path):
    assert not free(path, shared=True)
    assert not free(path)
assert free(path)
"""


@pytest.mark.parametrize("system", ["linux", "macos", "windows"])
def test_many_hold_a_lock_shared_or_one_alone(tmp_path: Path, system: str) -> None:
    settings = {"PRETENDED": system, "PRETENDED_UNDER": str(tmp_path)}
    done = python(["-c", LOCKS], tmp_path, site="foreign", settings=settings)
    assert done.returncode == 0, done.stderr


PRETENCE = """
import os
from pathlib import Path
from stockpot.files import atomic_file, atomic_folder
from stockpot.system import sync

def refused(kind, action):
    try:
        action()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")

Path("f").write_text("x")
Path("g").write_text("y")
refused(OSError, lambda: Path("a:b").write_text("x"))
sync(Path("."))
refused(OSError, lambda: os.rename("f", "g"))
with open("f"):
    refused(OSError, lambda: os.unlink("f"))
    refused(OSError, lambda: os.replace("g", "f"))
refused(AttributeError, lambda: os.fork())
with atomic_file(Path("f")) as temporary:
    temporary.write_text("new")
with atomic_folder(Path("d")) as folder:
    (folder / "x").write_text("1")
with atomic_folder(Path("d"), replace=True) as folder:
    (folder / "x").write_text("2")
assert Path("f").read_text() == "new" and Path("d/x").read_text() == "2"
"""


def test_the_pretence_refuses_what_windows_refuses(tmp_path: Path) -> None:
    settings = {"PRETENDED": "windows", "PRETENDED_UNDER": str(tmp_path)}
    done = python(["-c", PRETENCE], tmp_path, site="foreign", settings=settings)
    assert done.returncode == 0, done.stderr
