"""A recipe whose problems are collected, each with its line, and told all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import RecipeError
from stockpot.yaml_lines import Lines, Location, line_of, load_documents


class YamlFile:
    """A parsed file; collects problems with their lines, and raises them all at once.

    ``value`` is its first document, ``documents`` are all of them. Where there are several, places
    begin with ``"document N"``, counted from 0.

    Raises ``RecipeError`` for a missing file, bad YAML, or a key that stands twice.
    """

    def __init__(self, path: Path) -> None:
        self._keep(load_documents(path), path)

    @classmethod
    def of(cls, value: Mapping[str, Any], path: Path) -> YamlFile:
        """A value that was parsed before, as a file."""
        file = cls.__new__(cls)
        file._keep([(value, {})], path)
        return file

    def _keep(self, documents: Sequence[tuple[Any, Lines]], path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lines: Lines = {}
        self.documents: list[Mapping[str, Any]] = []
        for number, (value, lines) in enumerate(documents):
            prefix: Location = (f"document {number}",) if len(documents) > 1 else ()
            self._lines |= {(*prefix, *place): line for place, line in lines.items()}
            if not isinstance(value, Mapping):
                self.problem(prefix, "a recipe is a table of keys and values")
            else:
                self.documents.append(value)
        self.check()
        self.value = self.documents[0]

    def problem(self, place: Location, text: str) -> None:
        """Note a problem at a place such as ``("models", 0, "weight")``."""
        self.problems.append(f"{self.path}:{line_of(place, self._lines)}: {text}")

    def check(self) -> None:
        """Raise all problems noted so far."""
        if self.problems:
            raise RecipeError(self.problems)


def resolve_source(text: str, folder: Path) -> str:
    """A path from the recipe's folder where there is one, else the text as it is (a hub id)."""
    local = folder / Path(text).expanduser()
    return str(local) if local.exists() or text.startswith((".", "/", "~")) else text
