"""``import stockpot`` offers what the commands do, by the same names, and loads nothing heavy."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import stockpot
import stockpot.community
import stockpot.registry
from stockpot.cli.main import COMMANDS, app
from stockpot.errors import MissingDependencyError

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "timm", "pydantic", "typer", "yaml", "safetensors")


def test_the_public_names_are_exactly_these() -> None:
    assert stockpot.__all__ == sorted(stockpot.__all__)
    assert set(stockpot.__all__) == {
        *("__version__", "errors", "open_checkpoint", "load_recipe", "write_report"),
        *("merge", "inspect", "compare", "recycle", "rank", "predict", "evaluate", "export"),
        *("history", "tangent", "continual", "push", "pull", "soup", "average"),
        *("Registry", "contribute", "review", "accept", "revert"),
    }
    assert dir(stockpot) == stockpot.__all__
    assert stockpot.compare is stockpot.inspect
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stockpot.nothing  # noqa: B018


def test_importing_loads_nothing() -> None:
    code = f"import sys, stockpot; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(f"{HEAVY!r}", f"set({HEAVY!r})")
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        == []
    )


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class, those of the public modules included."""
    for name in stockpot.__all__:
        value = getattr(stockpot, name)
        if not isinstance(value, ModuleType):
            yield f"stockpot.{name}", value
        else:
            assert value.__doc__, name
            for inner in getattr(value, "__all__", ()):
                yield f"stockpot.{name}.{inner}", getattr(value, inner)


@pytest.mark.parametrize(("name", "value"), [pytest.param(*one, id=one[0]) for one in public()])
def test_what_is_public_is_documented_and_typed(name: str, value: Any) -> None:
    if name == "stockpot.__version__":
        return
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not signature.empty, name
        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        assert not bare, f"{name}: {bare} have no type"


PACKAGES = sorted(
    str(path.parent.relative_to(ROOT / "src")).replace("/", ".")
    for path in (ROOT / "src").rglob("__init__.py")
    if "lazily(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_type_checker_sees_what_is_there(package: str) -> None:
    """Names that are imported when they are used are those of the imports for type checkers."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name, home in seen.items():
        try:
            value = module.__getattr__(name)
        except MissingDependencyError:
            assert find_spec("lightning") is None, name
            continue
        if home == package:
            assert value is importlib.import_module(f"{package}.{name}")
        else:
            assert value is getattr(importlib.import_module(str(home)), name)
    eager = {name for name in module.__all__ if name in vars(module)} - set(seen)
    assert {*seen, *eager} == set(module.__all__)
    assert module.__all__ == sorted(module.__all__)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
def test_mypy_knows_the_type_of_every_name(tmp_path: Path) -> None:
    names = [name for name in stockpot.__all__ if name != "__version__"]
    program = tmp_path / "program.py"
    program.write_text("import stockpot\n" + "".join(f"reveal_type(stockpot.{n})\n" for n in names))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(program)]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    types = re.findall(r'note: Revealed type is "(.*)"', found.stdout)
    assert len(types) == len(names), found.stdout
    assert not [name for name, kind in zip(names, types, strict=True) if kind == "Any"]


# Commands and functions.

ALONE = {
    "submit": "sends another command to a cluster",
    "demo": "a recipe and data that are fetched for `recycle`",
    "serve": "a server that ends with Ctrl-C; `stockpot.web.serve` for programs",
    "doctor": "looks at this installation",
    "registry log": "prints `Registry.line` and `Registry.index`",
    "registry tree": "prints `stockpot.registry.tree`",
    "registry show": "prints `Registry.manifest`, `ancestors` and `descendants`",
    "registry sign": "`stockpot.registry.signing.sign_entry`",
    "registry trust": "writes a line of `stockpot.signatures.trusted_line` to the user's own file",
}
"""Commands that are no function of models and data."""

NAMES = {
    "history import": "stockpot.history.import_results",  # `import` is a word of Python
    "tangent eval": "stockpot.tangent.evaluate",  # `eval` is a word of Python
    "tangent continual": "stockpot.continual.compare",  # a package of its own
    "registry init": "stockpot.registry.init_registry",
    "registry remove": "stockpot.registry.Registry.remove",
    "registry reindex": "stockpot.registry.Registry.reindex",
}
"""Functions that are not called as their command is."""

TERMINAL = {
    "as_json": "how results are printed",
    "json": "how results are printed",
    "quiet": "what is printed beside them",
    "dry_run": "functions beside it plan: plan_recipe, plan_rank",
    "allow_code": "asked of files; what a program says itself is its own (STOCKPOT_ALLOW_CODE=1)",
    "registry": "`stockpot.registry.land` adds what a function left",
    "html": "`write_report` and its kin draw what a function returned",
    "page": "as html",
    "markdown": "as html",
    "svg": "as html",
    "layers": "how much is printed",
    "top": "how much is printed",
    "limit_memory": "`stockpot.bounded` runs a function in a child",
    "limit_seconds": "as limit_memory",
    "limit_time": "as limit_memory",
    "sign": "`stockpot.signatures.sign`",
    "signed": "`stockpot.signatures.verify`",
}
ONLY_COMMAND = {
    ("recycle", "history"): "`stockpot.history.append_recycled` appends what came out",
    ("recycle", "history_name"): "as history",
    ("rank", "method"): "`stockpot.ranking.fennec.rank_fennec`",
    ("rank", "known"): "as method",
    ("rank", "proxy"): "as method",
    ("predict", "output"): "the shell has no other way to keep what is returned",
    ("predict", "overwrite"): "as output",
    ("export", "overwrite"): "a function writes what its caller names",
    ("merge", "rank"): "`stockpot.merging.write_adapter` and `merge_adapters`",
    ("merge", "error"): "as rank",
    ("merge", "space"): "`merge_adapters(method=...)` or `write_adapter`",
    ("merge", "recalibrate"): "`stockpot.merging.recalibrate.recalibrate_output`",
    ("merge", "list_methods"): "`stockpot.merging.available_methods`",
    ("review", "line"): "which contributions are meant",
    ("review", "refusal"): "`stockpot.community.refuse`",
    ("review", "tasks"): "a `Meter` or tasks that are loaded",
    ("accept", "tasks"): "a `Meter`",
    ("revert", "tasks"): "a `Meter`",
    ("revert", "certificate"): "returned",
    ("registry add", "line"): "`Registry.advance`",
    ("registry land", "line"): "`Registry.advance`",
    ("registry remove", "yes"): "a question to a person",
}
"""Options that a function does not have, and what a program does instead."""

ONLY_PYTHON = {
    "memory": "`--limit-memory` of the command",
    "seconds": "`--limit-seconds` of the command",
    "threads": "the command takes all cores",
    "index": "the command looks at everything",
    "render": "the command compares the page with the report that it writes",
    "withdrawn": "for an audit of what was withdrawn; the command refuses it",
    "record": "a file's own",
    "root": "where the paths of plain data start; a file's start beside it",
    "resamples": "draws of an interval",
    "rules": "said by a recipe",
    "block_elements": "for tests and measurements",
    "processes": "the command forks where that is faster",
    "parameters": "said by --set",
    "meter": "remembers scores between calls",
    "links": "parents that are known by more than their name",
}
"""Parameters that no command has."""

FLAGS = {
    "changes": "--set",
    "parameters": "--set",
    "as_json": "--json",
    "hash_parents": "--hash",
    "certificate": "--output",
    "refusal": "--refuse",
}
"""Options that are spelt otherwise than their parameter: `set` and `json` are words of Python."""

RENAMED = {
    ("accept", "contribution"): "chosen",
    ("registry init", "registry"): "place",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    for name in COMMANDS:
        command: Any = typer.main.get_command(app).commands.get(name)
        inner = getattr(command, "commands", {"": command})
        yield from ((f"{name} {word}".strip(), one) for word, one in inner.items())


def function_of(name: str) -> Any:
    value: Any = stockpot
    for part in NAMES.get(name, f"stockpot.{name.replace(' ', '.')}").split(".")[1:]:
        value = getattr(value, part)
    return value


VERBS = {name: command for name, command in commands() if name not in ALONE}


def test_the_tables_name_what_is_there() -> None:
    every = {name for name, _ in commands()}
    assert every >= {*ALONE, *NAMES, *(name for name, _ in (*ONLY_COMMAND, *RENAMED))}


@pytest.mark.parametrize("name", VERBS)
def test_a_command_is_a_function_of_the_same_words(name: str) -> None:
    command = VERBS[name]
    parameters = dict(inspect.signature(function_of(name)).parameters)
    parameters.pop("self", None)
    if parameters.pop("reading", None):  # options that go together are one value in Python
        parameters |= inspect.signature(stockpot.history.Reading).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    used = set()
    for option in command.params:
        word = option.name or ""
        word = "registry" if word == "place" else word
        own = RENAMED.get((name, word), word)
        matches = [each for each in (own, f"{own}s") if each in parameters]
        if matches:
            used.add(matches[0])
        elif not (word == "parameters" and takes_more):
            assert word in TERMINAL or (name, word) in ONLY_COMMAND, f"{name}: no '{word}'"
        if option.param_type_name == "option":
            spelt = f"--{word.replace('_', '-')}"
            allowed = {spelt, spelt.removesuffix("s"), FLAGS.get(word)}
            assert allowed & set(option.opts), f"{name}: {option.opts} is '{word}'"
    for word, parameter in parameters.items():
        if word not in used and parameter.kind is not parameter.VAR_KEYWORD:
            assert word in ONLY_PYTHON or word in TERMINAL, f"{name}: no option for '{word}'"


# One depth of imports.

INTERNAL = re.compile(
    r"^\s*(?:from (stockpot\.\w+\.[\w.]+) import|import (stockpot\.\w+\.[\w.]+))", re.M
)


def public_pages() -> list[Path]:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return [page for page in pages if "decisions" not in page.parts] + sorted(
        ROOT.glob("examples/**/*.py")
    )


@pytest.mark.parametrize("page", public_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_docs_and_examples_import_from_no_deeper_than_a_package(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [one or two for one, two in INTERNAL.findall(text)] == []


def imported() -> list[tuple[str, str]]:
    found = set()
    for page in public_pages():
        text = page.read_text(encoding="utf-8")
        for package, names in re.findall(
            r"^\s*from (stockpot\.\w+) import (\([^)]*\)|.*)$", text, re.M
        ):
            for name in names.strip("()").replace("\n", " ").split(","):
                word = name.strip().partition(" as ")[0]
                if word:
                    found.add((package, word))
    return sorted(found)


@pytest.mark.parametrize(
    "script", sorted(ROOT.glob("benchmarks/**/*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_benchmarks_import_what_is_there(script: Path) -> None:
    """Types and tests do not see them: a name that is gone would be noticed on the day of a run."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "stockpot":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or find_spec(submodule) is not None, submodule


@pytest.mark.parametrize(("package", "name"), imported())
def test_what_docs_import_is_public(package: str, name: str) -> None:
    module = importlib.import_module(package)
    public = getattr(module, "__all__", [word for word in vars(module) if word[0] != "_"])
    assert name in public
    with suppress(MissingDependencyError):
        assert getattr(module, name) is not None
