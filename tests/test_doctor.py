"""``stockpot doctor`` tells what is there and what is wrong."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.cli import doctor
from stockpot.cli.main import app

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine made of paper: installed versions, what a line of Python answers, free bytes."""
    paper: dict[str, Any] = {
        "versions": {"torch": "2.13.0+cpu", "accelerate": "1.0"},
        "answers": {},
        "free": 10**11,
        "programs": set(),
    }

    def answer(code: str) -> tuple[bool, str]:
        return next((reply for key, reply in paper["answers"].items() if key in code), (True, ""))

    monkeypatch.setattr(doctor, "_version", lambda package: paper["versions"].get(package))
    monkeypatch.setattr(doctor, "_try", answer)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(0, 0, paper["free"]))
    monkeypatch.setattr(
        doctor.shutil, "which", lambda name: name if name in paper["programs"] else None
    )
    return paper


def finding(name: str) -> doctor.DoctorCheck:
    return next(each for each in doctor.examine() if each.name == name)


@pytest.mark.parametrize(
    ("torch", "vision", "match"),
    [
        ("2.13.0+cpu", "0.28.0+cpu", True),
        ("2.13.0", "0.28.0", True),
        ("2.13.0+cpu", "0.28.0", False),
        ("2.13.0+cu130", "0.28.0+cpu", False),
    ],
)
def test_builds(torch: str, vision: str, match: bool) -> None:
    assert doctor.builds_match(torch, vision) is match


def test_a_torchvision_of_another_build_is_worked_around_and_told(machine: dict[str, Any]) -> None:
    machine["versions"]["torchvision"] = "0.28.0"
    machine["answers"]["torchvision"] = (False, "RuntimeError: operator torchvision::nms ...")
    found = finding("torchvision")
    assert found.state == "warning"
    assert "'cpu' and 'default'" in found.words
    machine["versions"]["torchvision"] = "0.27.0+cpu"
    assert "operator torchvision::nms" in finding("torchvision").words
    machine["answers"]["torchvision"] = (True, "")
    assert finding("torchvision").state == "ok"


def test_a_missing_extra_is_no_fault_and_comes_with_its_command(machine: dict[str, Any]) -> None:
    found = finding("text")
    assert found.state == "missing"
    assert found.fix == "pip install 'stockpot[text]'"
    assert finding("torch").state == "ok"
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0


def test_a_full_disk_is_a_problem_with_exit_code_1(machine: dict[str, Any]) -> None:
    machine["free"] = 10**8
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    value = json.loads(result.stdout)
    assert not value["healthy"]
    assert [f["name"] for f in value["findings"] if f["state"] == "problem"] == ["disk"]


def test_gpu(machine: dict[str, Any]) -> None:
    assert finding("gpu").state == "missing"
    machine["answers"]["cuda"] = (True, "Some GPU")
    assert finding("gpu").words == "Some GPU"
    machine["answers"]["cuda"] = (True, "")
    machine["programs"].add("nvidia-smi")
    assert finding("gpu").state == "problem"
    machine["answers"]["cuda"] = (False, "ImportError: libsomething")
    assert "libsomething" in finding("gpu").words
    machine["versions"].clear()
    assert finding("gpu").state == "missing"


def test_a_line_of_python_is_run_elsewhere() -> None:
    assert doctor._try("print('a'); print('b')") == (True, "b")
    works, words = doctor._try("raise ValueError('no')")
    assert not works
    assert words == "ValueError: no"
    assert doctor._version("numpy")
    assert doctor._version("no-such-package") is None
