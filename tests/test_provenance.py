"""Provenance records: same bytes from the same facts, and nothing read that is no record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from stockpot.errors import InputError
from stockpot.provenance import (
    FILE_NAME,
    Parent,
    Record,
    card,
    has_record,
    read_record,
    versions,
    write_card,
    write_record,
)

MERGE = Record(
    kind="merge",
    name="broth",
    parents=(
        Parent("org/base-model", "a" * 64, "base"),
        Parent("org/tuned", "b" * 64, "model", 0.25),
        Parent("./local/folder", "c" * 64, "model", 0.75),
    ),
    recipe={"method": "linear", "parameters": {"weights": [0.25, 0.75]}},
    data="d" * 64,
    metrics={"accuracy": 0.875, "a | b": 1.0},
    versions={"stockpot": "0.1.0"},
    digest="e" * 64,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert not has_record(tmp_path)
    path = write_record(tmp_path, MERGE)
    assert has_record(tmp_path)
    assert read_record(tmp_path) == read_record(path) == MERGE


def test_same_facts_give_the_same_bytes_in_any_order_of_keys(tmp_path: Path) -> None:
    a = Record("merge", "m", recipe={"x": 1, "y": (1, 2)}, metrics={"p": 1.0, "q": 2.0})
    b = Record("merge", "m", recipe={"y": [1, 2], "x": 1}, metrics={"q": 2.0, "p": 1.0})
    write_record(tmp_path / "a", a)
    write_record(tmp_path / "b", b)
    assert (tmp_path / "a" / FILE_NAME).read_bytes() == (tmp_path / "b" / FILE_NAME).read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": ""},
        {"kind": "Two words"},
        {"name": ""},
        {"metrics": {"accuracy": float("nan")}},
        {"recipe": {"path": Path("x")}},
    ],
)
def test_a_record_that_cannot_be_written_is_refused_when_made(fields: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Record(**({"kind": "base", "name": "m"} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema": 99}, "upgrade"),
        ({"schema": None}, "schema"),
        ({"kind": 3}, "kind"),
        ({"parents": {}}, "parents"),
        ({"parents": [3]}, "name"),
        ({"parents": [{"name": "a", "digest": "b", "role": "c", "weight": "heavy"}]}, "weight"),
        ({"parents": [{"name": "a", "digest": "b", "role": "c", "weight": True}]}, "weight"),
        ({"metrics": []}, "metrics"),
        ({"data": 1}, "data"),
    ],
)
def test_a_file_that_is_no_record_is_refused_with_its_path(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(MERGE.to_json() | change))
    with pytest.raises(InputError, match=word) as error:
        read_record(tmp_path)
    assert FILE_NAME in str(error.value)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no provenance record"):
        read_record(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path)
    (tmp_path / FILE_NAME).write_text("[]")
    with pytest.raises(InputError, match="schema"):
        read_record(tmp_path)


def test_versions_come_from_metadata_and_skip_what_is_not_there() -> None:
    found = versions("no-such-package-anywhere")
    assert {"python", "stockpot", "numpy"} == set(found)


def front_matter(text: str) -> dict[str, object]:
    assert text.startswith("---\n")
    value = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(value, dict)
    return value


def test_the_card_names_hub_parents_and_lists_all() -> None:
    text = card(MERGE, library_name="transformers", license="apache-2.0", tags=["sentiment"])
    front = front_matter(text)
    assert front["base_model"] == ["org/base-model", "org/tuned"]
    assert front["base_model_relation"] == "merge"
    assert front["library_name"] == "transformers"
    assert front["license"] == "apache-2.0"
    assert front["tags"] == ["stockpot", "merge", "model-merging", "sentiment"]
    assert "| ./local/folder | model | 0.75 |" in text
    assert "| a \\| b | 1 |" in text
    assert "method: linear" in text
    assert "d" * 64 in text


def test_the_card_is_accepted_by_the_hub_library() -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card(MERGE, library_name="timm", pipeline_tag="image-classification")).data
    assert data.base_model == ["org/base-model", "org/tuned"]
    assert data.library_name == "timm"


def test_a_card_without_parents_makes_no_claims(tmp_path: Path) -> None:
    path = write_card(tmp_path, Record("base", "stock"), text="Plain words.")
    front = front_matter(path.read_text())
    assert front == {"tags": ["stockpot"]}
    assert "Plain words." in path.read_text()
    assert "from 1 parent." in card(Record("finetune", "x", parents=(Parent("p", "f"),)))
    assert "written by stockpot" in card(Record("base", "x"))
