"""Small things that people try first: -h, the tab key, a pipe, a full disk, a log file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stockpot import progress as module
from stockpot import yaml_lines
from stockpot.cli.main import COMMANDS, app
from stockpot.errors import OutputError
from stockpot.outputs import RECIPE_DIGEST, check_output, recipe_digest
from stockpot.progress import progress
from tests.contact.pythons import stockpot
from tests.recycling.tiny import recipe


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_knows_the_short_word_for_help(name: str) -> None:
    short, long = (CliRunner().invoke(app, [name, word]) for word in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout
    assert "-h, --help" in short.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("stockpot re", {"recycle", "registry", "review", "revert"}),
        ("stockpot tangent ch", {"check"}),
    ],
)
def test_the_tab_key_completes_commands(tmp_path: Path, typed: str, offered: set[str]) -> None:
    settings = {"_STOCKPOT_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    settings["COMP_CWORD"] = str(len(typed.split()) - 1)
    code = "import sys; sys.argv[0] = 'stockpot'; from stockpot.cli.main import main; main()"
    from tests.contact.pythons import python

    done = python(["-c", code], tmp_path, settings=settings)
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["--help"], ["merge", "--list-methods"], ["merge", "-h"]])
def test_a_full_disk_under_the_output_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "stockpot", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    line = f"{sys.executable} -m stockpot merge --list-methods | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_recipe_may_come_from_stdin(tmp_path: Path) -> None:
    text = yaml.safe_dump(recipe(tmp_path, protocols=["erm"], auxiliaries=[], runs=2))
    done = stockpot(["recycle", "-", "--dry-run"], tmp_path, stdin=text)
    assert done.returncode == 0, done.stderr
    assert "run 0" in done.stdout or done.stdout.strip()
    done = stockpot(["recycle", "-", "--dry-run"], tmp_path, stdin="task: 3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: -:1: task")


def test_stdin_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    yaml_lines._stdin.cache_clear()
    stdin = io.TextIOWrapper(io.BytesIO("a: ü\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    try:
        for _ in range(2):
            assert yaml_lines.load_with_lines(Path("-"))[0] == {"a": "ü"}
    finally:
        yaml_lines._stdin.cache_clear()


def test_an_output_belongs_to_its_recipe(tmp_path: Path) -> None:
    one, other = recipe_digest({"title": "a", "x": 1}), recipe_digest({"title": "b", "x": 2})
    assert one == recipe_digest({"x": 1, "title": "another title"})
    check_output(tmp_path / "new", "results.json", one, overwrite=False)
    check_output(tmp_path, "results.json", one, overwrite=False)
    (tmp_path / "results.json").write_text(f'{{"{RECIPE_DIGEST}": "{one}"}}')
    check_output(tmp_path, "results.json", one, overwrite=False)
    check_output(tmp_path, "results.json", other, overwrite=True)
    (tmp_path / "work" / "cache").mkdir(parents=True)
    for text in (f'{{"{RECIPE_DIGEST}": "{other}"}}', "{}", "[]", "not JSON"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(OutputError, match=r"another recipe.*--overwrite"):
            check_output(tmp_path, "results.json", one, overwrite=False)
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "results.json", "results.json", one, overwrite=True)


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    with progress("recycling", 10) as advance:
        advance(4, "soup")
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("recycling: 40 % after 0 s") for line in lines)
    assert all(line.endswith("(last: soup)") for line in lines)
    with progress("recycling", 10, quiet=True):
        time.sleep(0.1)
    monkeypatch.setenv("NO_PROGRESS", "1")
    with progress("recycling", 10):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_time_left_is_said_once_enough_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins is slower than what follows: data is read, features are computed."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    log = module._Log("recycling", 100)
    clock[0] = 30.0
    log.advance(4, "features")
    assert log.line() == "recycling: 4 % after 30 s (last: features)"
    clock[0] = 60.0
    log.advance(1, "probe")
    assert log.line() == "recycling: 5 % after 60 s, about 19 min left (last: probe)"


def test_what_an_earlier_run_did_does_not_count_for_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    log = module._Log("recycling", 100)
    log.advance(50)
    now[0] = 60.0
    assert log.line() == "recycling: 50 % after 60 s"
    log.advance(10, "run 3")
    assert log.line() == "recycling: 60 % after 60 s, about 4 min left (last: run 3)"
