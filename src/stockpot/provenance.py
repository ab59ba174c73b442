"""What an output folder says about itself: one small record, ``stockpot.json``.

A record names the parents of some weights by content hash, the recipe, the data and the versions
that made them: enough to make them again and to draw the family tree. It holds no time, host or
absolute path of the moment, so that the same inputs give the same bytes. A run that makes more than
one model lists them all, and what they were made of, in ``models.json`` (:class:`RunModel`).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.files import write_json, write_text
from stockpot.reading import read_json
from stockpot.schema import fields

SCHEMA = 1
FILE_NAME = "stockpot.json"
MODELS_NAME = "models.json"
# In the header of a weights file: the record of what it holds.
HEADER_KEY = "stockpot"

# The Hub's word for how a model came from its `base_model` entries; other kinds have no such word.
RELATIONS = {"finetune": "finetune", "merge": "merge", "adapter": "adapter"}
# What the Hub accepts as a model id. A card with any other `base_model` is refused on upload.
HUB_ID = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?(?<![.-])")


@dataclass(frozen=True)
class Parent:
    """One ingredient.

    ``digest`` is ``Checkpoint.digest()`` of its weights, ``role`` how it was used ("base", "model",
    "init", "head", ...), ``weight`` its interpolation coefficient where the recipe has one.
    """

    name: str
    digest: str
    role: str = "model"
    weight: float | None = None


@dataclass(frozen=True)
class Record:
    """Where some weights came from.

    ``kind`` is one lower-case word: "base", "finetune", "merge", "adapter", "component", ...
    ``recipe`` is any JSON value that makes the weights again from the parents, ``data`` the task's
    fingerprint, ``metrics`` named finite numbers, ``digest`` the hash of the weights themselves.
    Raises ``InputError`` when a field has the wrong type or a number is not finite.
    """

    kind: str
    name: str
    parents: tuple[Parent, ...] = ()
    recipe: Any = None
    data: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None

    def __post_init__(self) -> None:
        try:
            fields.kind(self.kind)
            fields.name(self.name, "name")
            fields.items(self.parents, "parents")
            for parent in self.parents:
                check_parent(parent)
            fields.metrics(self.metrics)
            fields.versions(self.versions)
            fields.optional(fields.text, self.data, "data")
            fields.optional(fields.text, self.digest, "digest")
            fields.plain(self.recipe, "recipe")
        except ValueError as error:
            raise InputError(f"provenance record of {str(self.name)[:80]!r}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value: fields in fixed order, the keys inside them sorted."""
        value = {
            "schema": SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "digest": self.digest,
            **vars(self),
            "parents": [vars(parent) for parent in self.parents],
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
        }
        plain = json.loads(json.dumps(value, sort_keys=True, allow_nan=False))
        return {key: plain[key] for key in value}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, stockpot, numpy and of those of ``packages`` that are installed.

    Reads the packages' metadata and imports none of them.
    """
    found = {"python": platform.python_version()}
    for package in ("stockpot", "numpy", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def write_record(folder: str | Path, record: Record) -> Path:
    """Write ``record`` as ``folder/stockpot.json``, whole or not at all; returns its path."""
    path = Path(folder) / FILE_NAME
    write_json(path, record.to_json())
    return path


def read_record(source: str | Path) -> Record:
    """Read the record of a folder, or a record file.

    Raises ``InputError`` when there is none, it is no record, or it has a newer schema.
    """
    path = Path(source)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        value = read_json(path, "a provenance record")
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no provenance record ({FILE_NAME})") from None
    return parse_record(value, str(path))


def has_record(folder: str | Path) -> bool:
    """Whether ``folder`` holds a provenance record."""
    return (Path(folder) / FILE_NAME).is_file()


@dataclass(frozen=True)
class RunModel:
    """A model that a run made, or that it made others of.

    ``source``: model folder or weights file, from the folder of ``models.json`` on, or a hub id.
    ``name``: how a registry shall call it. ``record``: where it came from; None: what it says
    itself. ``digest``: its content hash, where there is no record that has it. ``base``: content
    hash of the model it was fine-tuned from, for one that does not say so itself.

    ``overlay``: a weights file with those tensors that differ from ``source``'s; ``parts`` maps a
    weights file of the source to the prefix that its tensors have in the overlay. Files of the
    source without such tensors are not part of the model.
    """

    source: str
    name: str | None = None
    record: Record | None = None
    digest: str | None = None
    base: str | None = None
    overlay: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)


def write_models(folder: str | Path, models: Iterable[RunModel]) -> Path:
    """Write ``folder/models.json``, parents before children; returns its path."""
    path = Path(folder) / MODELS_NAME
    write_json(path, models_json(models))
    return path


def models_json(models: Iterable[RunModel]) -> dict[str, Any]:
    """What ``write_models`` writes, as a JSON value."""
    listed = [
        {
            **vars(made),
            "record": None if made.record is None else made.record.to_json(),
            "parts": dict(made.parts),
        }
        for made in models
    ]
    return {"schema": SCHEMA, "models": listed}


def read_models(folder: str | Path) -> list[RunModel]:
    """Read ``folder/models.json``; an empty list where there is none. Raises ``InputError``."""
    path = Path(folder) / MODELS_NAME
    try:
        value = read_json(path, "a list of models")
        return [_run_model(entry, str(path)) for entry in value["models"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as a list of models: {error}") from error


def _run_model(entry: Any, where: str) -> RunModel:
    fields.name(entry["source"], "source")
    for key in ("name", "digest", "base", "overlay"):
        fields.optional(fields.name, entry.get(key), key)
    for file, prefix in fields.table(entry.get("parts", {}), "parts").items():
        fields.text(prefix, f"parts.{file}")
    record = entry["record"] and parse_record(entry["record"], where)
    return RunModel(**{**entry, "record": record})


def parse_record(value: Any, where: str) -> Record:
    """Read what ``Record.to_json`` wrote. Raises ``InputError`` naming ``where``."""
    if not isinstance(value, dict) or type(value.get("schema")) is not int:
        raise InputError(f"{where} is no provenance record: it has no 'schema' number")
    if value["schema"] > SCHEMA:
        raise InputError(
            f"{where} has schema {value['schema']}, this stockpot reads up to {SCHEMA}",
            hint="upgrade stockpot",
        )
    try:
        return Record(
            kind=_typed(value, "kind", str),
            name=_typed(value, "name", str),
            parents=tuple(
                Parent(
                    name=_typed(parent, "name", str),
                    digest=_typed(parent, "digest", str),
                    role=_typed(parent, "role", str),
                    weight=_typed(parent, "weight", int, float, type(None)),
                )
                for parent in _typed(value, "parents", list)
            ),
            recipe=value.get("recipe"),
            data=_typed(value, "data", str, type(None)),
            metrics=_typed(value, "metrics", dict),
            versions=_typed(value, "versions", dict),
            digest=_typed(value, "digest", str, type(None)),
        )
    except (InputError, TypeError) as error:
        raise InputError(f"{where} is no provenance record: {error}") from error


def check_parent(parent: Any) -> None:
    """Raise ``ValueError`` for what is no ``Parent``: a name, a hash, a role, a finite weight."""
    fields.name(parent.name, "parents: name")
    fields.text(parent.digest, "parents: digest")
    fields.name(parent.role, "parents: role")
    fields.optional(fields.number, parent.weight, "parents: weight")


def _typed(value: Any, key: str, *types: type) -> Any:
    item = value.get(key) if isinstance(value, dict) else None
    if not isinstance(item, types) or isinstance(item, bool):
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise InputError(f"'{key}' is {type(item).__name__}, expected {expected}")
    return item


def card(
    record: Record,
    *,
    library_name: str | None = None,
    pipeline_tag: str | None = None,
    license: str | None = None,
    tags: Iterable[str] = (),
    text: str = "",
    usage: str = "",
    measured_on: Mapping[str, str] | None = None,
) -> str:
    """A Hugging Face model card (README.md) that tells where the weights came from.

    ``base_model`` lists the parents that the Hub can know (ids such as ``owner/name``); the table
    in the text lists all of them. ``text`` is Markdown put below the title, ``usage`` how the
    weights are opened, ``measured_on`` the rows behind metrics, by the metric's name.
    Source of the fields: the Hub's model-card metadata specification.
    """
    import yaml

    known = [
        parent.name
        for parent in record.parents
        if parent.role != "run" and HUB_ID.fullmatch(parent.name)
    ]
    front: dict[str, Any] = {}
    if license:
        front["license"] = license
    if library_name:
        front["library_name"] = library_name
    if pipeline_tag:
        front["pipeline_tag"] = pipeline_tag
    if known:
        front["base_model"] = list(dict.fromkeys(known))
        if record.kind in RELATIONS:
            front["base_model_relation"] = RELATIONS[record.kind]
    front["tags"] = list(dict.fromkeys(["stockpot", *_kind_tags(record), *tags]))
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    sections = [f"---\n{header}---\n", f"# {record.name}\n"]
    sections.append(text.strip() + "\n" if text.strip() else _summary(record))
    if usage.strip():
        sections.append("## Use it\n\n" + usage.strip() + "\n")
    if record.parents:
        sections.append("## Where these weights come from\n\n" + _parents_table(record))
    if record.metrics:
        sections.append("## Measured\n\n" + _metrics_table(record, measured_on or {}))
    if record.recipe is not None:
        recipe = yaml.safe_dump(record.to_json()["recipe"], sort_keys=False, allow_unicode=True)
        sections.append(f"## Recipe\n\n```yaml\n{recipe}```\n")
    made = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    data = f" Data: `{record.data}`." if record.data else ""
    sections.append(
        f"The whole record is in `{FILE_NAME}`.{data}{f' Made with {made}.' if made else ''}\n"
    )
    return "\n".join(sections)


def write_card(folder: str | Path, record: Record, **fields: Any) -> Path:
    """Write ``card(record, **fields)`` as ``README.md`` into ``folder``; returns its path."""
    path = Path(folder) / "README.md"
    write_text(path, card(record, **fields))
    return path


def _kind_tags(record: Record) -> list[str]:
    return ["merge", "model-merging"] if record.kind == "merge" else []


def _summary(record: Record) -> str:
    if not record.parents:
        return f"Weights ({record.kind}) written by stockpot.\n"
    count = len(record.parents)
    return f"Weights ({record.kind}) made by stockpot from {count} parent{'s'[: count != 1]}.\n"


def _parents_table(record: Record) -> str:
    rows = ["| parent | role | weight | sha256 |", "|---|---|---|---|"]
    for parent in record.parents:
        weight = "" if parent.weight is None else f"{parent.weight:.6g}"
        rows.append(
            f"| {_cell(parent.name)} | {_cell(parent.role)} | {weight} | `{parent.digest[:12]}` |"
        )
    return "\n".join(rows) + "\n"


def _metrics_table(record: Record, measured_on: Mapping[str, str]) -> str:
    rows = ["| metric | value | on |", "|---|---|---|"]
    rows += [
        f"| {_cell(name)} | {value:.6g} | {_cell(measured_on.get(name, ''))} |"
        for name, value in sorted(record.metrics.items())
    ]
    if not measured_on:
        rows = [row.rsplit("|", 2)[0] + "|" for row in rows]
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
