"""Read a YAML file together with the line on which each value stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stockpot.errors import RecipeError

Location = tuple[str | int, ...]


def load_with_lines(path: Path) -> tuple[Any, dict[Location, int]]:
    """Parse ``path`` (safe YAML); return its value and the line (from 1) of every location.

    Raises ``RecipeError`` for a missing file, bad YAML, or a key that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"{path}: cannot read the recipe: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: the recipe is not UTF-8 text"]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([f"{path}:{line}: not valid YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError([f"{path}: not valid YAML: {error}"]) from error
    lines: dict[Location, int] = {}
    problems: list[str] = []
    if node is not None:
        _walk(node, (), lines, problems, path)
    if problems:
        raise RecipeError(problems)
    return value, lines


def line_of(location: Location, lines: Mapping[Location, int]) -> int:
    """Line of ``location``, or of the nearest enclosing value that has one."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _walk(
    node: yaml.Node,
    location: Location,
    lines: dict[Location, int],
    problems: list[str],
    path: Path,
) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            inner = (*location, key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                problems.append(
                    f"{path}:{line}: '{key.value}' stands twice (first on {lines[inner]})"
                )
            lines[inner] = line
            _walk(child, inner, lines, problems, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*location, index), lines, problems, path)
