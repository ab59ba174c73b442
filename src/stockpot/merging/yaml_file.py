"""YAML with line numbers, so that a wrong recipe is told where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import RecipeError

Place = tuple[str | int, ...]


class YamlFile:
    """A parsed file; collects problems with their lines, and raises them all at once.

    Raises ``RecipeError`` for a missing file, bad YAML, or a key that stands twice.
    """

    def __init__(self, path: Path) -> None:
        import yaml

        self.path = path
        self.lines: dict[Place, int] = {}
        self.problems: list[str] = []
        try:
            self.text = path.read_text(encoding="utf-8")
            node = yaml.compose(self.text, Loader=yaml.SafeLoader)
            self.value: Any = yaml.safe_load(self.text)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError([f"{path}: cannot read the recipe: {error}"]) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError([f"{path}:{line}: no valid YAML: {error.problem}"]) from error
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError([f"{path}: no valid YAML: {error}"]) from error
        self._walk(node, ())
        if not isinstance(self.value, Mapping):
            self.problem((), "a recipe is a table of keys and values")
        self.check()

    def problem(self, place: Place, text: str) -> None:
        """Note a problem at a place such as ``("models", 0, "weight")``."""
        while place and place not in self.lines:
            place = place[:-1]
        self.problems.append(f"{self.path}:{self.lines.get(place, 1)}: {text}")

    def check(self) -> None:
        """Raise all problems noted so far."""
        if self.problems:
            raise RecipeError(self.problems)

    def _walk(self, node: Any, place: Place) -> None:
        import yaml

        if node is None:
            return
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                inner = (*place, key.value)
                line = key.start_mark.line + 1
                if inner in self.lines:
                    self.problems.append(f"{self.path}:{line}: '{key.value}' stands twice")
                self.lines[inner] = line
                self._walk(child, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                self._walk(child, (*place, index))
