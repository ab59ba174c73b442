"""README's Python example as people run it: a script without a guard, a notebook cell, a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stockpot.execution import Job, Local, run_jobs
from tests.contact.pythons import ROOT, python
from tests.recycling.tiny import recipe

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S)[0]
ONCE = "print('this program runs')\n"
CELL = """
import sys
import types

# What a notebook has for a main module: no file, no spec, code from strings.
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
for cell in sys.stdin.read().split("\\n\\n"):
    exec(cell, main.__dict__)
"""


LONG = [pytest.param(form, marks=pytest.mark.slow) for form in ("stdin", "command", "notebook")]


@pytest.mark.parametrize("form", ["script", *LONG])
def test_readmes_example_needs_no_guard(tmp_path: Path, form: str) -> None:
    small = recipe(tmp_path, protocols=["erm"], auxiliaries=[], runs=2, final={"protocol": "erm"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small))
    program = ONCE + EXAMPLE
    (tmp_path / "script.py").write_text(program)
    words, stdin = {
        "script": (["script.py"], None),
        "stdin": (["-"], program),
        "command": (["-c", program], None),
        "notebook": (["-c", CELL], program),
    }[form]
    done = python(words, tmp_path, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this program runs") == 1
    assert (tmp_path / "recycled" / "report.html").exists()


def test_what_a_job_prints_does_not_meet_the_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    talkative = Job("tests.execution.helpers:talk", {"text": "hello"})
    folders = run_jobs([talkative], tmp_path, Local(1))
    assert (folders[talkative] / "heard").read_text() == ""
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello" in err
