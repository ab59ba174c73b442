"""Hostile recipes: bounded work for any YAML, and no code that its author did not write."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from stockpot.yaml_lines import load_with_lines
from tests.attacks.judge import refused


def aliases(levels: int = 20, width: int = 10) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


def merges(levels: int = 30) -> str:
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}")
    return "\n".join(lines)


def chain(levels: int = 5000) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, levels)]
    return "\n".join(lines)


TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a number": b"3",
    "a text": b"hello",
    "a list": b"- a\n- b\n",
    "not YAML": b"a: [",
    "tabs": b"a:\n\t- b",
    "not UTF-8": b"a: \xff",
    "a null byte": b"a: \0",
    "aliases of aliases": aliases().encode(),
    "merges of merges": merges().encode(),
    "a chain of aliases": chain().encode(),
    "a value that holds itself": b"a: &a [*a]",
    "a table that holds itself": b"a: &a {b: *a}",
    "nested lists": b"[" * 50_000,
    "nested tables": b"{a: " * 50_000,
    "nested by lines": "\n".join(" " * i + "a:" for i in range(2000)).encode(),
    "a number of 100000 digits": b"a: " + b"9" * 100_000,
    "a number in base 16": b"a: 0x" + b"f" * 100_000,
    "a number in base 60": b"a: 1" + b":59" * 50_000,
    "a date that is none": b"a: 2001-99-99",
    "binary that is none": b"a: !!binary x",
    "a key that is a list": b"? [a, b]\n: c",
    "a key that is a table": b"? {a: b}\n: c",
    "a key twice": b"a: 1\na: 2",
    "a tag for Python": b"a: !!python/object/apply:os.mkdir [ran]",
    "an unknown alias": b"a: *nothing",
    "5 megabytes": b"a: " + b"x" * 5_000_000,
}
COMMANDS = {
    "recycle": ["recycle", "BAD", "-o", "OUT"],
    "rank, a task": ["rank", "BAD", "--zoo", "GOOD", "-o", "OUT"],
    "tangent train": ["tangent", "train", "BAD", "-o", "OUT"],
    "tangent continual": ["tangent", "continual", "BAD", "-o", "OUT"],
    "merge": ["merge", "BAD", "-o", "OUT"],
    "review": ["review", "-r", "REGISTRY", "--tasks", "BAD"],
    "serve": ["serve", "REGISTRY", "--tasks", "BAD", "--port", "0"],
}


def arguments(command: str, root: Path, bad: Path) -> list[object]:
    places = {"BAD": bad, "OUT": root / "out", "GOOD": root / "zoo.yaml", "REGISTRY": root / "r"}
    return [places.get(word, word) for word in COMMANDS[command]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from stockpot.registry import init_registry

    monkeypatch.delenv("STOCKPOT_ALLOW_CODE", raising=False)
    monkeypatch.chdir(tmp_path)
    init_registry(tmp_path / "r").close()
    (tmp_path / "zoo.yaml").write_text(
        "models:\n  - {kind: timm, name: resnet18}\n  - {kind: timm, name: resnet34}\n"
    )
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", TEXTS)
def test_hostile_yaml(root: Path, command: str, case: str) -> None:
    (root / "bad.yaml").write_bytes(TEXTS[case])
    refused(root, *arguments(command, root, root / "bad.yaml"), names="bad.yaml")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
def test_a_recipe_that_is_no_file(root: Path, command: str, kind: str) -> None:
    import os

    bad = root / "bad.yaml"
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "folder":
        bad.mkdir()
    else:
        bad.symlink_to("/dev/zero")
    said = arguments(command, root, Path("/dev/zero") if kind == "device" else bad)
    refused(root, *said, names="/dev/zero" if kind == "device" else "bad.yaml")


CODE = {
    "os.system": "kind: function\n    NAME: os:system",
    "a function of ours": "kind: function\n    NAME: stockpot.files:write_text",
    "a file of the standard library": "kind: function\n    NAME: OS.PY:system",
    "a file elsewhere": "kind: function\n    NAME: /tmp/evil.py:run",
}
BACKBONE = "backbone:\n    kind: timm\n    name: resnet18\n"
REMOTE = (
    "task: {kind: arrays, path: data.npz}\n"
    "backbone: {kind: transformers, name: me/mine, options: {trust_remote_code: true}}\n"
)


def code_recipe(case: str, where: str) -> str:
    import os

    function = CODE[case].replace("OS.PY", os.__file__)
    if where == "task":
        return f"task:\n    {function.replace('NAME', 'function')}\n{BACKBONE}"
    task = "task:\n    kind: arrays\n    path: data.npz\n"
    return f"{task}backbone:\n    {function.replace('NAME', 'name')}\n"


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("command", ["recycle", "tangent train"])
@pytest.mark.parametrize("where", ["task", "backbone"])
@pytest.mark.parametrize("case", CODE)
def test_code_that_nobody_offers_does_not_run(
    root: Path, case: str, where: str, command: str, dry: bool
) -> None:
    (root / "bad.yaml").write_text(code_recipe(case, where))
    more = ["--dry-run"] if dry else []
    said = refused(root, *arguments(command, root, root / "bad.yaml"), *more, names="bad.yaml")
    assert "--allow-code" in said
    assert ":3:" in said or ":6:" in said  # with the line


@pytest.mark.parametrize("command", ["recycle", "tangent train"])
def test_remote_code_does_not_run(root: Path, command: str) -> None:
    (root / "bad.yaml").write_text(REMOTE)
    said = refused(root, *arguments(command, root, root / "bad.yaml"), names="bad.yaml:2")
    assert "trust_remote_code" in said


OWN = "import os\nos.mkdir('ran')\n\n\ndef load():\n    raise SystemExit\n"


@pytest.mark.parametrize("command", ["recycle", "tangent train"])
def test_a_dry_run_runs_nothing(root: Path, command: str) -> None:
    (root / "own.py").write_text(OWN)
    text = f"task: {{kind: function, function: 'own.py:load'}}\n{BACKBONE}"
    (root / "bad.yaml").write_text(text)
    said = arguments(command, root, root / "bad.yaml")
    assert "dry run" in refused(root, *said, "--dry-run", names="bad.yaml:1")


def test_a_file_beside_the_recipe_is_its_authors_own(root: Path) -> None:
    text = f"task: {{kind: function, function: 'own.py:load'}}\n{BACKBONE}"
    (root / "recipe.yaml").write_text(text)
    value, lines = load_with_lines(root / "recipe.yaml")
    assert value["task"]["function"] == "own.py:load"
    assert lines[("backbone",)] == 2


def test_honest_yaml_is_read_as_ever(root: Path) -> None:
    text = "base: &b {x: 1, y: [1, 2]}\nmore: {<<: *b, x: 2}\nhex: 0xff\nday: 2024-01-02\n"
    (root / "recipe.yaml").write_text(text)
    value, lines = load_with_lines(root / "recipe.yaml")
    assert value["more"] == {"x": 2, "y": [1, 2]}
    assert (value["hex"], str(value["day"])) == (255, "2024-01-02")
    assert lines[("more", "x")] == 2


def test_a_long_recipe_is_read_in_time(root: Path) -> None:
    (root / "recipe.yaml").write_text("\n".join(f"key{i}: [{i}, text]" for i in range(5000)))
    started = time.monotonic()
    assert len(load_with_lines(root / "recipe.yaml")[0]) == 5000
    assert time.monotonic() - started < 20
