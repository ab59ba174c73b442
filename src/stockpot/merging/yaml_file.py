"""A recipe whose problems are collected, each with its line, and told all at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import RecipeError
from stockpot.yaml_lines import Location, line_of, load_with_lines


class YamlFile:
    """A parsed file; collects problems with their lines, and raises them all at once.

    Raises ``RecipeError`` for a missing file, bad YAML, or a key that stands twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        value, self._lines = load_with_lines(path)
        if not isinstance(value, Mapping):
            self.problem((), "a recipe is a table of keys and values")
        self.check()
        self.value: Mapping[str, Any] = value

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
