"""Hostile records under every command that reads records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.registry import Registry, add, init_registry
from tests.attacks.judge import refused

SOUND: dict[str, Any] = {
    "schema": 1,
    "kind": "finetune",
    "name": "mine",
    "digest": None,
    "parents": [],
    "recipe": None,
    "data": None,
    "metrics": {},
    "versions": {},
}
PARENT = {"name": "p", "digest": "", "role": "model", "weight": None}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def parent(**changes: Any) -> dict[str, Any]:
    return {"parents": [{**PARENT, **changes}]}


# What each record says otherwise than a sound one.
CHANGES: dict[str, dict[str, Any]] = {
    "a metric that is a text": {"metrics": {"acc": "high"}},
    "a metric that is true": {"metrics": {"acc": True}},
    "a metric that is a list": {"metrics": {"acc": [1]}},
    "a metric that is null": {"metrics": {"acc": None}},
    "a metric beyond all numbers": {"metrics": {"acc": 10**400}},
    "a metric without a name": {"metrics": {"": 1.0}},
    "a metric with an escape in its name": {"metrics": {"\x1b[31m": 1.0}},
    "metrics that are a list": {"metrics": [1]},
    "too many metrics": {"metrics": {str(i): 1.0 for i in range(20_000)}},
    "a version that is a number": {"versions": {"numpy": 2}},
    "a name that is a number": {"name": 3},
    "no name": {"name": ""},
    "a name of a megabyte": {"name": "x" * 1_000_000},
    "a name of two lines": {"name": "a\nb"},
    "a name that turns around": {"name": "a\u202eb"},
    "a name with an escape": {"name": "a\x1b]0;b\x07"},
    "a name of half a character": {"name": "\ud800"},
    "a kind that is no word": {"kind": "Fine Tune"},
    "an endless kind": {"kind": "a" * 5000},
    "parents that are a text": {"parents": "x"},
    "a parent that is a text": {"parents": ["x"]},
    "a parent without a digest": {"parents": [{"name": "p", "role": "model", "weight": None}]},
    "a parent with a weight of text": parent(weight="1"),
    "a parent with an endless weight": parent(weight=10**400),
    "a parent with an escape in its name": parent(name="a\x1b[2J"),
    "a parent with a digest of a megabyte": parent(digest="a" * 1_000_000),
    "too many parents": {"parents": [PARENT] * 20_000},
    "a recipe nested deeply": {"recipe": deep(300)},
    "a recipe of 5 megabytes": {"recipe": "x" * 5_000_000},
    "data that are a number": {"data": 3},
    "a digest that is a number": {"digest": 3},
    "a newer schema": {"schema": 99},
    "a schema that is a text": {"schema": "1"},
    "a schema that is true": {"schema": True},
}
# Files that are no record at all.
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "not UTF-8": b'{"schema": 1, "name": "\xe9"}',
    "nested very deeply": b"[" * 200_000,
    "NaN": json.dumps({**SOUND, "metrics": {"acc": float("nan")}}).encode(),
    "infinity": json.dumps({**SOUND, "metrics": {"acc": float("inf")}}).encode(),
    "a number of 5000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "nothing of a record": b'{"schema": 1}',
}
RECORDS = {**{name: json.dumps({**SOUND, **change}).encode() for name, change in CHANGES.items()}}
RECORDS |= TEXTS
COMMANDS = {
    "registry add": ["registry", "add"],
    "registry land": ["registry", "land"],
    "contribute": ["contribute"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    for name in ("base", "bad"):
        (root / name).mkdir()
        write_checkpoint(root / name / "model.safetensors", {"a": np.ones(2, "f4")})
    with init_registry(root / "registry") as registry:
        add(registry, root / "base")
        registry.advance("main", "base", {"what": "add"})
    return root


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", RECORDS)
def test_a_folder_with_a_bad_record(world: Path, command: str, case: str) -> None:
    (world / "bad" / "stockpot.json").write_bytes(RECORDS[case])
    arguments = [*COMMANDS[command], world / "bad", "-r", world / "registry"]
    refused(world, *arguments, names="stockpot.json")


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_record_is_not_pushed(world: Path, case: str) -> None:
    (world / "bad" / "stockpot.json").write_bytes(RECORDS[case])
    refused(world, "push", world / "bad", "me/mine", "--dry-run", names="stockpot.json")


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_record_in_the_header_of_a_file(tmp_path: Path, world: Path, case: str) -> None:
    text = RECORDS[case].decode("utf-8", "replace")
    path = tmp_path / "bad.safetensors"
    write_checkpoint(path, {"a": np.ones(2, "f4")}, {"stockpot": text})
    refused(tmp_path, "registry", "add", path, "-r", world / "registry", names="bad.safetensors")


MODELS = {
    **{name: text for name, text in TEXTS.items() if name not in ("NaN", "infinity")},
    "models that are a number": b'{"schema": 1, "models": 3}',
    "a model that is a text": b'{"schema": 1, "models": ["x"]}',
    "a model without a source": b'{"schema": 1, "models": [{"record": null}]}',
    "a model with another field": b'{"models": [{"source": "x", "record": null, "code": "x"}]}',
    "a source that is a number": b'{"models": [{"source": 3, "record": null}]}',
    "parts that are a list": b'{"models": [{"source": "x", "record": null, "parts": [1]}]}',
}


@pytest.mark.parametrize("case", MODELS)
def test_a_bad_list_of_models_does_not_land(tmp_path: Path, world: Path, case: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "models.json").write_bytes(MODELS[case])
    refused(
        tmp_path,
        "registry",
        "land",
        tmp_path / "run",
        "-r",
        world / "registry",
        names="models.json",
    )


TEXT = "x\x1b[2J"


@pytest.mark.parametrize("option", ["--name", "--author", "--note"])
@pytest.mark.parametrize("value", [TEXT, "x" * 50_000, "a\u202eb"])
def test_what_is_said_of_a_contribution_is_checked(world: Path, option: str, value: str) -> None:
    (world / "bad" / "stockpot.json").unlink(missing_ok=True)
    arguments = ["contribute", world / "bad", "-r", world / "registry", option, value]
    refused(world, *arguments, names=option.strip("-"))


def test_nothing_came_into_the_registry(world: Path) -> None:
    with Registry(world / "registry") as registry, open_checkpoint(world / "base") as base:
        assert [row.digest for row in registry.index.newest(5)] == [base.digest()]
        assert not registry.quarantine()
