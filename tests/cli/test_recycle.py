"""The command line of ``recycle``: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from tests.recycling.tiny import recipe

ROOT = Path(__file__).parents[2]
FEW = {"protocols": ["linear_probe", "erm", "soup_uniform"], "auxiliaries": [], "runs": 2}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(folder, **{**FEW, **changes})))
    return file


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_run_prints_the_table_and_says_where_things_are(tmp_path: Path) -> None:
    output = tmp_path / "out"
    found = run("recycle", write(tmp_path), "-o", output, "--backend", "serial")
    assert found.exit_code == 0, found.stderr
    assert "Soup (DiWA), uniform" in found.stdout
    assert str(output / "model") in found.stderr
    page = (output / "report.html").read_text()
    assert "Tiny" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_json_is_the_only_thing_on_stdout(tmp_path: Path) -> None:
    arguments = ("recycle", write(tmp_path), "-o", tmp_path / "out", "--backend", "serial")
    found = run(*arguments, "--json", "--set", "training.steps=4", "--seed", "3")
    value = json.loads(found.stdout)
    assert value["schema"] == 2
    assert {row["steps"] for row in value["table"]} == {0, 8}
    assert "seed: 3" in value["recipe"]


def test_a_dry_run_lists_jobs(tmp_path: Path) -> None:
    found = run("recycle", write(tmp_path), "-o", tmp_path / "out", "--dry-run")
    assert found.exit_code == 0
    assert "linear probe · south · trial 0" in found.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": ["west"]}, "unknown domain 'west'"),
        ({"runs": 0}, "runs"),
        ({"task": {"kind": "arrays", "path": "none.npz"}}, "none.npz"),
        ({"backbone": {"kind": "function", "name": "no.such:thing"}}, "no.such"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    found = run("recycle", write(tmp_path, **changes), "-o", tmp_path / "out")
    assert found.exit_code == 2
    assert words in found.stderr
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert len([line for line in found.stderr.splitlines() if line.startswith("error")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = run("recycle", write(tmp_path), "-o", tmp_path / "file" / "out", "--backend", "serial")
    assert found.exit_code == 2
    assert "cannot write" in found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from stockpot.execution import run as execution

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execution, "sync", full)
    found = run("recycle", write(tmp_path), "-o", tmp_path / "out", "--backend", "serial")
    assert found.exit_code == 2
    assert "no space left" in found.stderr
    assert not (tmp_path / "out" / "model").exists()


def test_ctrl_c_leaves_a_resumable_state_and_exit_code_130(tmp_path: Path) -> None:
    file = write(tmp_path, training={**recipe(tmp_path)["training"], "steps": 4000})
    command = [sys.executable, "-m", "stockpot", "recycle", str(file), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background inherits a shell's "ignore Ctrl-C".
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if list((tmp_path / "out").glob("work/partial/*/resume/*")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again" in words
    assert list((tmp_path / "out").glob("work/jobs/*"))
    assert not (tmp_path / "out" / "model").exists()


def test_help_is_fast_and_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from stockpot.cli.main import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_version() -> None:
    import stockpot

    assert run("--version").stdout.strip() == f"stockpot {stockpot.__version__}"
