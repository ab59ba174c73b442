"""The starter kit: what ships of public models, for whoever has neither zoo nor history yet.

``kit/models.csv`` holds facts of models, ``kit/text.csv`` and ``kit/image.csv`` what they reached
on public tasks, in per cent; ``tools/make_kit.py`` makes them from named sources.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.features import Extracted, Failed
from stockpot.ranking.history import Fact, Reading, Table, read_results
from stockpot.yaml_lines import suggestion

_FOLDER = "kit"
_NUMBERS = ("parameters", "width", "context", "gmacs")
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "": 1.0}
MODALITIES = ("image", "text")


@dataclass(frozen=True)
class Kit:
    """Public models of one modality. ``kinds``: how one is loaded; ``table``: results, per cent."""

    modality: str
    kinds: Mapping[str, str]
    facts: Mapping[str, Mapping[str, Fact]]
    table: Table

    def results(self, name: str) -> int:
        """On how many tasks the model has a result."""
        row = self.table.row.get(name)
        return 0 if row is None else int(np.isfinite(self.table.values[row]).sum())

    @property
    def licences(self) -> list[str]:
        """Every licence that some model has."""
        return sorted({str(own["licence"]) for own in self.facts.values() if "licence" in own})


@dataclass(frozen=True)
class Limits:
    """What a proposed model may be. ``max_ms``: milliseconds an example on this machine."""

    max_parameters: float | None = None
    licences: tuple[str, ...] = ()
    max_ms: float | None = None

    def check(self, kit: Kit) -> None:
        """Raise ``InputError`` for a licence that no model of the kit has."""
        for name in self.licences:
            if name.lower() not in kit.licences:
                near = suggestion(name.lower(), kit.licences)
                raise InputError(
                    f"no model of the starter kit has the licence '{name}'{near}",
                    hint=f"there are: {', '.join(n for n in kit.licences if '://' not in n)}",
                )

    def refusal(self, facts: Mapping[str, Fact]) -> str | None:
        """Why a model with these facts is not wanted; None if it is."""
        parameters, licence = facts.get("parameters"), facts.get("licence")
        if self.max_parameters is not None:
            if not isinstance(parameters, float):
                return "its number of parameters is not known"
            if parameters > self.max_parameters:
                return f"{parameters / 1e6:.0f} million parameters"
        if self.licences and str(licence).lower() not in [each.lower() for each in self.licences]:
            return f"licence {licence}" if licence else "its licence is not known"
        return None

    def too_slow(self, run: Mapping[str, Extracted]) -> tuple[Failed, ...]:
        """Of the models that were run, those that took longer than is wanted."""
        if self.max_ms is None:
            return ()
        taken = {
            name: 1000 * made.facts.get("seconds_per_example", 0.0) for name, made in run.items()
        }
        return tuple(
            Failed(name, f"{ms:.1f} ms an example on this machine")
            for name, ms in taken.items()
            if ms > self.max_ms
        )


@cache
def starter_kit(modality: str) -> Kit:
    """The kit's models of ``"image"`` or ``"text"``.

    Raises ``InputError`` for tasks of another modality: no public model takes arrays.
    """
    if modality not in MODALITIES:
        raise InputError(
            f"no public model is known that takes inputs of kind '{modality}'",
            hint="name models that do: --zoo zoo.yaml",
        )
    kinds: dict[str, str] = {}
    facts: dict[str, dict[str, Fact]] = {}
    with as_file(files("stockpot.ranking") / _FOLDER) as folder:
        with Path(folder / "models.csv").open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                if row["modality"] == modality:
                    kinds[row["name"]] = row["kind"]
                    facts[row["name"]] = _facts(row)
        table = read_results(
            folder / f"{modality}.csv", "matrix", Reading(metric="accuracy", unit="percent")
        ).table
    known = {name: facts[name] for name in table.models if name in facts}
    return Kit(modality, kinds, facts, replace(table, metadata=known))


def _facts(row: Mapping[str, str]) -> dict[str, Fact]:
    own: dict[str, Fact] = {name: float(row[name]) for name in _NUMBERS if row[name]}
    for name in ("pretraining", "licence", "published", "source"):
        if row[name]:
            own[name] = row[name]
    if row["kind"] == "timm":
        own["family"] = re.split(r"[_\d.]", row["name"], maxsplit=1)[0]
    return own


def count(text: float | str | None) -> float | None:
    """``110M``, ``1.5B``, ``2e7`` as a number; ``InputError`` for any other text."""
    if not isinstance(text, str):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbg]?)", text.strip().lower())
    if not found:
        raise InputError(f"'{text}' is no number of parameters", hint="write 110M, 1.5B or 2e7")
    return float(found[1]) * _SCALES[found[2]]


def names_for_loading(kit: Kit, names: Sequence[str]) -> list[dict[str, object]]:
    """Entries of a zoo for models of the kit."""
    options = {"timm": {"options": {"pretrained": True}}}
    return [
        {"id": name, "kind": kit.kinds[name], "name": name, **options.get(kit.kinds[name], {})}
        for name in names
    ]
