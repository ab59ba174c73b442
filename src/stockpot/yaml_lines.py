"""Read a YAML file together with the line on which each value stands, and check it against a model.

Recipes, tasks and zoos are read by this: all problems at once, each with file and line.
"""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stockpot.errors import RecipeError
from stockpot.extras import notice

if TYPE_CHECKING:
    from pydantic import BaseModel

Location = tuple[str | int, ...]
M = TypeVar("M", bound="BaseModel")

STDIN = "-"
"""The path that stands for what comes on stdin."""


def load_with_lines(path: Path, what: str = "recipe") -> tuple[Any, dict[Location, int]]:
    """Parse ``path`` (safe YAML); return its value and the line (from 1) of every location.

    ``-`` is what comes on stdin, which is read once. ``what`` the file is, for messages.

    Raises ``RecipeError`` for a missing file, bad YAML, or a key that stands twice.
    """
    import yaml

    try:
        text = _stdin() if str(path) == STDIN else path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"{path}: cannot read the {what}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: the {what} is not UTF-8 text"]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([f"{path}:{line}: not valid YAML: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError([f"{path}: not valid YAML: {error}"]) from error
    lines: dict[Location, int] = {}
    problems: list[str] = []
    if node is not None:
        _walk(node, (), lines, problems, path)
    if problems:
        raise RecipeError(problems)
    return value, lines


@functools.cache
def _stdin() -> str:
    return sys.stdin.buffer.read().decode("utf-8")


def line_of(location: Location, lines: Mapping[Location, int]) -> int:
    """Line of ``location``, or of the nearest enclosing value that has one."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _walk(
    node: Any,
    location: Location,
    lines: dict[Location, int],
    problems: list[str],
    path: Path,
) -> None:
    import yaml

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


def validated(
    model: type[M],
    value: Any,
    *,
    source: str,
    lines: Mapping[Location, int] | None = None,
    known: Sequence[str] = (),
    wants: bool = True,
) -> M:
    """``value`` as a ``model``; ``lines`` says where each part stands in ``source``.

    ``known``: the keys that a misspelt one is compared with. Raises ``RecipeError`` with all
    problems, in the order of the file. With ``wants``, what the value names wants its
    extras (see ``stockpot.extras``).
    """
    from pydantic import ValidationError

    if wants:
        notice(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found: dict[str, int] = {}
        for item in error.errors(include_url=False):
            loc = item["loc"] + (("kind",) if item["type"] == "union_tag_invalid" else ())
            location = _in_file(loc, value)
            number = line_of(location, lines) if lines else 0
            line = f":{number}" if lines else ""
            where = ".".join(str(part) for part in location)
            found[f"{source}{line}: {where + ': ' if where else ''}{_words(item, known)}"] = number
        raise RecipeError(sorted(found, key=lambda text: found[text])) from error


def read_recipe(
    model: type[M], path: Path, changes: Sequence[str] = (), *, known: Sequence[str] = ()
) -> M:
    """The recipe of a verb, read from a file.

    ``changes``: ``"training.steps=100"`` and the like, put over what the file says; values are
    YAML.
    Raises ``RecipeError`` with all problems at once, each with its line.
    """
    value, lines = load_with_lines(path)
    for change in changes:
        _put(value, change)
    return checked_recipe(model, value, source=str(path), lines=lines, known=known)


def checked_recipe(
    model: type[M],
    value: Any,
    *,
    source: str = "recipe",
    lines: Mapping[Location, int] | None = None,
    known: Sequence[str] = (),
) -> M:
    """The recipe of a verb, given as plain data; see ``validated``."""
    if not isinstance(value, Mapping):
        raise RecipeError([f"{source}: a recipe is a mapping with 'task' and 'backbone'"])
    return validated(model, value, source=source, lines=lines, known=known)


def _put(value: Any, change: str) -> None:
    """Set ``a.b=value`` in plain data, tables on the path to it made where they are missing."""
    import yaml

    name, equals, text = change.partition("=")
    *path, last = name.split(".")
    try:
        if not equals or not last:
            raise ValueError("expected name=value")
        new = yaml.safe_load(text)
        for part in path:
            value = value.setdefault(part, {})
        value[last] = new
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError([f"cannot put '{change}' over the recipe: {error}"]) from error


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'other'?`` where something known is spelt nearly the same, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def field_names(*models: type[BaseModel]) -> list[str]:
    """The names of all fields of some models, sorted."""
    return sorted({name for model in models for name in model.model_fields})


def _in_file(location: Location, value: Any) -> Location:
    """The part of pydantic's location that exists in the file: union tags are left out."""
    parts: list[str | int] = []
    for index, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            last = index + 1 == len(location)
            if last and isinstance(part, str) and isinstance(value, Mapping):
                parts.append(part)
            continue
        parts.append(part)
    return tuple(parts)


def _words(item: Any, known: Sequence[str]) -> str:
    kind, message = item["type"], str(item["msg"])
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        return f"unknown key '{name}'{suggestion(name, known)}"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return f"unknown kind '{context['tag']}'; choose one of {context['expected_tags']}"
    message = message.removeprefix("Value error, ")
    if isinstance(item["input"], Mapping | list) or "got" in message:
        return message
    return f"{message}, got {item['input']!r}"
