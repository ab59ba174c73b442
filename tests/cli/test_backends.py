"""Options that say where jobs run: what they do, and what contradicts what."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.cli.options import choose_backend
from stockpot.execution import Ray
from tests.merging.models import numpy_states, write_states


def run(*arguments: object):
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.mark.parametrize("command", [("recycle",), ("tangent", "train"), ("tangent", "continual")])
def test_an_address_is_for_ray(tmp_path: Path, command: tuple[str, ...]) -> None:
    found = run(*command, tmp_path / "recipe.yaml", "--address", "ray://head:10001")
    assert found.exit_code == 2
    assert "--address is for --backend ray" in found.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_gets_what_the_options_say() -> None:
    chosen = choose_backend("ray", 3, "head:6379", 0.25)
    assert isinstance(chosen, Ray)
    assert chosen.workers == 3
    assert choose_backend("local", 3, None, None) == "local"


def test_a_merge_by_local_processes(tmp_path: Path) -> None:
    base, models = write_states(tmp_path, *numpy_states(2))
    words = ("merge", *models, "--base", base, "-m", "ties", "--json", "-o")
    alone = run(*words, tmp_path / "alone.safetensors")
    together = run(*words, tmp_path / "together.safetensors", "--backend", "local", "-j", 2)
    assert together.exit_code == 0, together.stderr
    reports = [json.loads(found.stdout) for found in (alone, together)]
    assert [report.pop("output") for report in reports][1].endswith("together.safetensors")
    assert reports[0] == reports[1]
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("alone", "together")]
    assert files[0] == files[1]


def test_merge_refuses_options_without_a_backend(tmp_path: Path) -> None:
    _, models = write_states(tmp_path, *numpy_states(2))
    found = run("merge", *models, "-o", tmp_path / "out.safetensors", "--jobs", 2)
    assert found.exit_code == 2
    assert "go with --backend" in found.stderr
