"""Outputs that cannot be: devices, files, links, what is read, names that no disk takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from stockpot.checkpoints import write_checkpoint
from stockpot.registry import add, init_registry
from tests.attacks.folders import SIZES, base
from tests.attacks.judge import refused
from tests.inference.test_commands import kept
from tests.tangent.core.world import write_world

Run = Callable[[Path, object], list[object]]
COMMANDS: dict[str, Run] = {
    "merge": lambda root, out: ["merge", root / "good", root / "good", "-o", out],
    "average": lambda root, out: ["average", root / "good", root / "good", "-o", out],
    "soup": lambda root, out: [
        *("soup", root / "good", root / "other", "-e", root / "eval.yaml", "-o", out),
    ],
    "recycle": lambda root, out: ["recycle", root / "recipe.yaml", "-o", out],
    "rank": lambda root, out: [
        *("rank", root / "task.yaml", "--zoo", root / "zoo.yaml", "-o", out),
    ],
    "tangent train": lambda root, out: [
        *("tangent", "train", root / "recipe.yaml", "-o", out, "--backend", "serial"),
    ],
    "predict": lambda root, out: ["predict", root / "model", root / "texts.csv", "-o", out],
    "export": lambda root, out: ["export", root / "model", "-o", out],
    "registry checkout": lambda root, out: [
        *("registry", "checkout", "good", "-r", root / "registry", "-o", out),
    ],
    "registry init": lambda root, out: ["registry", "init", out],
    "history add": lambda root, out: ["history", "add", out, "m", "a", "0.5"],
}
OUTPUTS: dict[str, Callable[[Path], object]] = {
    "a device": lambda root: "/dev/null",
    "below a device": lambda root: "/dev/null/out",
    "a full device": lambda root: "/dev/full",
    "below a file": lambda root: root / "eval.yaml" / "out",
    "below a pipe": lambda root: special(root / "out", os.mkfifo) / "out",
    "a pipe": lambda root: special(root / "out", os.mkfifo),
    "a link to itself": lambda root: special(root / "out", lambda path: path.symlink_to("out")),
    "a link to a device": lambda root: special(
        root / "out", lambda path: path.symlink_to("/dev/full")
    ),
    "a name of 300 characters": lambda root: root / ("x" * 300),
    "a path of 5000 characters": lambda root: root / "/".join(["x" * 99] * 50),
    "where nobody may write": lambda root: "/proc/out",
    "below where nobody may write": lambda root: "/proc/sys/a/out",
}


def special(path: Path, make: Callable[[Path], object]) -> Path:
    make(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    base(root / "good")
    write_checkpoint(
        base(root / "other") / "model.safetensors",
        {"a.weight": np.ones(SIZES, "f4"), "a.bias": np.zeros(8, "f4")},
    )
    (root / "eval.yaml").write_text('command: "echo {model}"\n')
    with init_registry(root / "registry") as registry:
        add(registry, root / "good")
    kept(root, "bert")
    (root / "texts.csv").write_text("text\ngood film\nbad food\n")
    write_world(root, training={"epochs": 1, "learning_rate": 0.01})
    (root / "task.yaml").write_text("kind: arrays\npath: data.npz\n")
    (root / "zoo.yaml").write_text("models:\n  - {kind: function, name: 'net.py:net'}\n")
    return root


@pytest.fixture
def root(world: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(world)
    yield world
    out = world / "out"
    shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink(missing_ok=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(root: Path, case: str, command: str) -> None:
    out = OUTPUTS[case](root)
    if (command, case) == ("export", "a link to itself"):
        pytest.skip("a link that leads nowhere is replaced by the file")
    refused(root, *COMMANDS[command](root, out), names=str(out)[:40])
