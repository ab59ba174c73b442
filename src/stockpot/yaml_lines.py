"""Read a YAML file together with the line on which each value stands, and check it against a model.

Recipes, tasks and zoos are read by this: all problems at once, each with file and line.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from stockpot.errors import RecipeError
from stockpot.extras import notice
from stockpot.programs import forbidden
from stockpot.reading import DEEPEST, read_text, visible

if TYPE_CHECKING:
    from pydantic import BaseModel

Location = tuple[str | int, ...]
Lines = dict[Location, int]
M = TypeVar("M", bound="BaseModel")

LARGEST = 4_000_000
"""Bytes of a YAML file."""
MOST = 200_000
"""Values in it, those behind aliases as often as they are named."""
DOCUMENTS = 64
"""Documents of a file."""
DIGITS = 100
"""Digits of a whole number."""

STDIN = "-"
"""The path that stands for what comes on stdin."""


def load_with_lines(path: Path, what: str = "recipe") -> tuple[Any, Lines]:
    """Parse ``path`` (safe YAML); return its value and the line (from 1) of every location.

    ``-`` is what comes on stdin, which is read once. ``what`` the file is, for messages.

    Raises ``RecipeError`` for a missing file, bad YAML, several documents, a key that stands twice,
    what ``parse_yaml`` does not read, and code that may not run (see ``stockpot.programs``).
    """
    documents = load_documents(path, what)
    if len(documents) > 1:
        raise RecipeError([f"{path}: a {what} is a single document, not {len(documents)}"])
    return documents[0]


def load_documents(path: Path, what: str = "recipe") -> list[tuple[Any, Lines]]:
    """Every document of a file as by ``load_with_lines``, one at least."""
    try:
        text = _stdin() if str(path) == STDIN else read_text(path, limit=LARGEST)
    except UnicodeDecodeError as error:
        raise RecipeError([f"{path}: the {what} is not UTF-8 text"]) from error
    except OSError as error:
        raise RecipeError(
            [f"{path}: cannot read the {what}: {error.strerror}"],
            hint="what comes through a pipe is read as '-'" if "pipe" in str(error) else None,
        ) from error
    problems: list[str] = []
    tables: list[Lines] = []

    def look(node: Any) -> None:
        tables.append({})
        _walk(node, (), tables[-1], problems, path)

    documents = list(zip(_composed(text, str(path), look), tables, strict=True))
    root = Path() if str(path) == STDIN else path.parent
    for value, lines in documents:
        for location, reason in forbidden(value, root):
            problems.append(f"{path}:{line_of(location, lines)}: {reason}")
    if problems:
        raise RecipeError(problems)
    return documents or [(None, {})]


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text (safe YAML). ``where`` it stands, for messages.

    Raises ``RecipeError`` for bad YAML, several documents, more than ``MOST`` values with those
    that aliases repeat, deeper nesting than ``DEEPEST`` levels, a value that holds itself, and
    numbers of more than ``DIGITS`` digits.
    """
    values = _composed(text, where, lambda node: None)
    if len(values) > 1:
        raise RecipeError([f"{where}: not valid YAML: {len(values)} documents, expected one"])
    return values[0] if values else None


def _composed(text: str, where: str, look: Callable[[Any], None]) -> list[Any]:
    """The values of a text's documents. ``look`` is shown each tree of nodes first, as written."""
    import yaml

    if len(text) > LARGEST:
        raise RecipeError([f"{where}: not valid YAML: longer than {LARGEST:,} characters"])
    loader = None
    try:
        loader = _loader()(text)
        values: list[Any] = []
        while loader.check_node():
            if len(values) == DOCUMENTS:
                raise yaml.YAMLError(f"more than {DOCUMENTS} documents, the limit")
            node = loader.get_node()
            look(node)
            values.append(loader.construct_document(node))
        return values
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError([f"{where}{line}: not valid YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError([f"{where}: not valid YAML: {visible(reason, 200)}"]) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = visible(str(error), 200)
        raise RecipeError([f"{where}: not valid YAML: a value is none: {reason}"]) from error
    except RecursionError as error:
        raise RecipeError([f"{where}: not valid YAML: nested too deeply"]) from error
    finally:
        if loader is not None:
            loader.dispose()


@functools.cache
def _loader() -> Any:
    import yaml

    class Bounded(yaml.SafeLoader):
        """Counts what it composes, aliases as what they stand for."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:
                raise yaml.composer.ComposerError(
                    None, None, f"nested deeper than {DEEPEST} levels, the limit", self.get_mark()
                )
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def get_node(self) -> Any:
            node = super().get_node()
            _count(node, {})
            return node

        def construct_yaml_int(self, node: Any) -> int:
            if len(node.value) > DIGITS:
                raise yaml.constructor.ConstructorError(
                    None, None, f"a number of more than {DIGITS} digits, the limit", node.start_mark
                )
            return int(super().construct_yaml_int(node))

    Bounded.add_constructor("tag:yaml.org,2002:int", Bounded.construct_yaml_int)
    return Bounded


def _count(node: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node has, and in how many levels, with those behind aliases as often as
    they are named.
    """
    import yaml

    def refuse(what: str) -> Exception:
        return yaml.composer.ComposerError(None, None, what, node.start_mark)

    if id(node) in known:
        if not known[id(node)][0]:
            raise refuse("a value holds itself")
        return known[id(node)]
    known[id(node)] = 0, 0
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise refuse("a key that is no plain text")
        children = [child for _, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    counts = [_count(child, known) for child in children]
    total = 1 + sum(size for size, _ in counts)
    levels = 1 + max((depth for _, depth in counts), default=0)
    if total > MOST:
        raise refuse(f"more than {MOST:,} values with its aliases, the limit")
    if levels > DEEPEST:
        raise refuse(f"nested deeper than {DEEPEST} levels, the limit")
    known[id(node)] = total, levels
    return total, levels


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
    wants: bool = True,
) -> M:
    """``value`` as a ``model``; ``lines`` says where each part stands in ``source``.

    Raises ``RecipeError`` with all problems, in the order of the file. With ``wants``, what the
    value names wants its extras (see ``stockpot.extras``).
    """
    from pydantic import ValidationError

    if wants:
        notice(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found: dict[str, int] = {}
        for items in _mistakes(error.errors(include_url=False), value):
            item = items[0]
            location = _in_file(item, value)
            words = _words(items, _section(model, item["loc"]))
            number = _line(location, words, lines) if lines else 0
            line = f":{number}" if lines else ""
            where = ".".join(str(part) for part in location)
            found[f"{source}{line}: {where + ': ' if where else ''}{words}"] = number
        raise RecipeError(sorted(found, key=lambda text: found[text])) from error


def _line(location: Location, words: str, lines: Mapping[Location, int]) -> int:
    """Where a mistake stands: at the first key of the location that the words name, or there."""
    named = [lines.get((*location, name)) for name in re.findall(r"'(\w+)'", words)]
    return min((line for line in named if line), default=line_of(location, lines))


def _mistakes(items: Sequence[Any], value: Any) -> list[list[Any]]:
    """One group for each mistake, of what pydantic says of it.

    A value that may be of several kinds is checked as each of them: what is said by the kind that
    it is of counts, and where it is of none all of it is one mistake.
    """
    groups: dict[Location, list[Any]] = {}
    for item in items:
        inside, depth = value, 0
        with suppress(KeyError, IndexError, TypeError):
            for part in item["loc"]:
                inside, depth = inside[part], depth + 1
        groups.setdefault(item["loc"][:depth], []).append(item)
    mistakes = []
    for group in groups.values():
        kinds = [item for item in group if _is_of_another_kind(item)]
        rest = [[item] for item in group if not _is_of_another_kind(item)]
        mistakes += rest or [kinds]
    return mistakes


def _is_of_another_kind(item: Any) -> bool:
    whole = isinstance(item["input"], Mapping | list)
    return item["type"] in _KINDS or (whole and item["type"] == "literal_error")


def _section(model: type[BaseModel], location: Location) -> list[str]:
    """The keys of the part of ``model`` that a location of pydantic's lies in."""
    options = [model]
    for part in location[:-1]:
        chosen = [one for one in options if _is_tag(one, part)]
        fields = [one.model_fields[part] for one in options if part in one.model_fields]
        options = chosen or [m for field in fields for m in models_of(field.annotation)] or options
    return field_names(*options)


def _is_tag(model: type[BaseModel], part: str | int) -> bool:
    kind = model.model_fields.get("kind")
    return (kind is not None and kind.default == part) or str(part).endswith(f"{model.__name__}]")


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation, such as those of a union or a list."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in get_args(annotation) for model in models_of(one)]


def put_over(value: Any, change: str) -> None:
    """Set ``a.b=value`` in plain data, tables on the path to it made where they are missing."""
    name, equals, text = change.partition("=")
    *path, last = name.split(".")
    try:
        if not equals or not last:
            raise ValueError("expected name=value")
        new = parse_yaml(text, name)
        for part in path:
            value = value.setdefault(part, {})
        value[last] = new
    except (ValueError, TypeError, AttributeError, RecipeError) as error:
        raise RecipeError([f"cannot put '{change}' over the recipe: {error}"]) from error


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'other'?`` where something known is spelt nearly the same, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def field_names(*models: type[BaseModel]) -> list[str]:
    """The names of all fields of some models, sorted."""
    return sorted({name for model in models for name in model.model_fields})


def _in_file(item: Any, value: Any) -> Location:
    """The part of pydantic's location that exists in the file: union tags are left out."""
    location = item["loc"] + (("kind",) if item["type"] == "union_tag_invalid" else ())
    parts: list[str | int] = []
    for index, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            last = index + 1 == len(location)
            if last and isinstance(part, str) and item["type"] in ("missing", "union_tag_invalid"):
                parts.append(part)
            continue
        parts.append(part)
    return tuple(parts)


_KINDS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
}
"""What pydantic calls a value of another kind, and the kind that it wanted."""


def _words(items: Sequence[Any], known: Sequence[str]) -> str:
    item = items[0]
    kind, message = item["type"], str(item["msg"])
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        return f"unknown key '{name}'{suggestion(name, known)}"
    if kind == "missing" and isinstance(item["loc"][-1], int):
        return f"too few values, got {item['input']!r}"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return f"unknown kind '{context['tag']}'; choose one of {context['expected_tags']}"
    if kind in _KINDS:
        wanted = dict.fromkeys(_KINDS[one["type"]] for one in items if one["type"] in _KINDS)
        message = f"expected {' or '.join(wanted)}"
    message = message.removeprefix("Value error, ")
    if isinstance(item["input"], Mapping | list) or "got" in message:
        return message
    return f"{message}, got {item['input']!r}"
