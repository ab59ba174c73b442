"""Options that say where jobs run: what they do, and what contradicts what."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError
from stockpot.execution import Ray, Serial, make_backend
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
    chosen = make_backend("ray", 3, address="head:6379", gpus_per_job=0.25)
    assert isinstance(chosen, Ray)
    assert chosen.workers == 3


@pytest.mark.parametrize("option", [{"address": "head:6379"}, {"gpus_per_job": 0.25}])
def test_no_other_backend_takes_a_cluster_s_options(option: dict[str, Any]) -> None:
    for backend in ("local", Serial()):
        with pytest.raises(InputError, match="are for the backend 'ray'"):
            make_backend(backend, 3, **option)


def test_cores_are_shared_among_the_threads_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockpot.execution.backends.usable_cores", lambda: 9)
    counts = [make_backend("local", threads=threads).workers for threads in (1, 2, 4, 20)]
    assert counts == [9, 4, 2, 1]
    assert make_backend("local", 3, threads=4).workers == 3


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
    assert "jobs and address need a backend" in found.stderr
