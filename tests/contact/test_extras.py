"""A missing optional package is one line, and the installation that it names is enough."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stockpot.cli.main import COMMANDS
from stockpot.extras import DISTRIBUTIONS, EXTRAS, PURPOSES, installed
from tests.contact import commands
from tests.contact.pythons import ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = sorted({name for names in EXTRAS.values() for name in names})
OTHERS = ["torchvision", "peft", "s3fs", "pandas", "moto", "boto3", "tokenizers"]
IMPORTED_AS = {name: package for package, name in DISTRIBUTIONS.items()} | {"pyyaml": "yaml"}


def imported_names(requirement: str) -> list[str]:
    """Names to import of one line of requirements, those of stockpot's own extras resolved."""
    name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?.*", requirement).groups()
    if name == "stockpot":
        lines = [r for e in extras.split(",") for r in PROJECT["optional-dependencies"][e]]
        return [name for line in lines for name in imported_names(line)]
    return [IMPORTED_AS.get(name, name.replace("-", "_"))]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_extras_are_those_of_the_project(extra: str) -> None:
    lines = PROJECT["optional-dependencies"][extra]
    assert {name for line in lines for name in imported_names(line)} == set(EXTRAS[extra])


def test_every_extra_for_users_is_known() -> None:
    assert set(PROJECT["optional-dependencies"]) - {"dev", "docs"} == set(EXTRAS) == set(PURPOSES)


def test_every_import_is_declared() -> None:
    core = {name for line in PROJECT["dependencies"] for name in imported_names(line)}
    core |= {"markupsafe", "torchvision"}  # part of jinja2; timm does not start without it
    known = {*core, *OPTIONAL, *sys.stdlib_module_names, "stockpot", "msvcrt"}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            unknown = {name.partition(".")[0] for name in names} - known
            assert not unknown, f"{path}: {unknown} are no dependency"


def run_all(folder: Path, hidden: list[str]) -> list[dict[str, Any]]:
    """Every command without some packages."""
    done = python(
        ["-m", "tests.contact.commands", str(folder)],
        folder,
        site="hidden",
        settings={"HIDDEN_PACKAGES": ",".join(hidden)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"words"')]


def hint(one: dict[str, Any]) -> list[str]:
    """The extras that a command asks for; none where it did not."""
    found = re.search(r"pip install 'stockpot\[([\w,]+)\]'", one["said"])
    return found[1].split(",") if found else []


def test_every_command_is_tried() -> None:
    tried = [line.split() for line in commands.COMMANDS.strip().splitlines()]
    assert {words[0] for words in tried} == set(COMMANDS)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All commands where no optional package is installed."""
    return run_all(tmp_path_factory.mktemp("light"), OPTIONAL + OTHERS)


def test_a_light_install_answers_everything_in_lines(light: list[dict[str, Any]]) -> None:
    for one in light:
        assert not one["broken"], one
        assert "Traceback" not in one["said"]
        assert "Usage:" not in one["said"], one
        if hint(one):
            assert one["code"] == 2, one
            assert len(one["said"].strip().splitlines()) == 2, one
            assert {IMPORTED_AS.get(n, n.replace("-", "_")) for n in _named(one)} <= {
                name for extra in hint(one) for name in EXTRAS[extra]
            }


def _named(one: dict[str, Any]) -> list[str]:
    return re.findall(
        r"'([\w-]+)'(?=,? | and |$)", one["said"].splitlines()[0].partition("needs")[2]
    )


@pytest.mark.parametrize(
    ("line", "extras"),
    [
        ("recycle recipe.yaml", "torch"),
        ("recycle text.yaml", "text"),
        ("recycle images.yaml", "vision"),
        ("recycle digits.yaml", "vision"),
        ("recycle table.yaml", "data,text"),
        ("merge -m", ""),
        ("merge a b -o clustered", "ray"),
        ("merge a b -o on-device", "torch"),
        ("merge old.pt", "torch"),
        ("soup a b -e scores.yaml --search none", ""),
        ("soup a b -e scores.yaml -o", "soup"),
        ("average a b", ""),
        ("rank task.yaml --zoo zoo", "rank"),
        ("rank task.yaml --zoo pictures", "rank,vision"),
        ("rank table.csv", "rank,text"),
        ("inspect", ""),
        ("history show", "rank"),
        ("tangent continual", "torch"),
        ("tangent train tangent", "torch"),
        ("tangent train text", "text"),
        ("demo", "text"),
        ("registry init", ""),
        ("registry add base", "registry"),
        ("serve", "web"),
        ("doctor", ""),
    ],
)
def test_the_installation_fits_the_command(
    light: list[dict[str, Any]], line: str, extras: str
) -> None:
    one = next(one for one in light if " ".join(one["words"]).startswith(line))
    assert ",".join(hint(one)) == extras, one


@pytest.mark.slow
def test_what_is_named_is_enough(tmp_path: Path, light: list[dict[str, Any]]) -> None:
    wanted = {tuple(hint(one)) for one in light if hint(one)}
    for number, extras in enumerate(sorted(wanted)):
        visible = {name for extra in extras for name in EXTRAS[extra]}
        if not all(map(installed, visible)):
            continue  # not in this environment
        folder = tmp_path / str(number)
        folder.mkdir()
        # Ranking the pictures wants what ranking wants, and so on: only those commands are judged.
        hidden = [name for name in OPTIONAL if name not in visible]
        hidden += [] if "timm" in visible else ["torchvision"]  # which timm brings
        after = run_all(folder, hidden)
        for before, one in zip(light, after, strict=True):
            if tuple(hint(before)) == extras:
                assert not one["broken"], (extras, one)
                assert not hint(one), (extras, one)


@pytest.mark.slow
@pytest.mark.parametrize("package", OPTIONAL)
def test_each_package_may_be_missing_alone(tmp_path: Path, package: str) -> None:
    for one in run_all(tmp_path, [package]):
        assert not one["broken"], one
        assert "Traceback" not in one["said"], one
        if hint(one) and all(map(installed, _named(one))):  # this one was hidden, not absent
            assert one["code"] == 2
            assert package in {name for extra in hint(one) for name in EXTRAS[extra]}, one


PUBLIC = """
import stockpot
try:
    stockpot.recycle("text.yaml", output="out")
except stockpot.errors.MissingDependencyError as error:
    print(error.hint)
"""


def test_python_functions_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "text.yaml").write_text(
        "task: {kind: text, path: t.csv}\nbackbone: {kind: transformers, name: ./x}\n"
    )
    hidden = {"HIDDEN_PACKAGES": ",".join(OPTIONAL)}
    done = python(["-c", PUBLIC], tmp_path, site="hidden", settings=hidden)
    assert done.stdout.strip() == "pip install 'stockpot[text]'", done.stderr
