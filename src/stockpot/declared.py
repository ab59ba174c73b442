"""What a file may declare: recipes, zoos and tasks, as models that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from stockpot.errors import InputError, RecipeError
from stockpot.yaml_lines import (
    Location,
    line_of,
    load_with_lines,
    put_over,
    validated,
)


class Declared(BaseModel):
    """A part of what a file declares: unknown keys are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_problem(error: Exception) -> str:
    """What is wrong in a line: of a validation its first problem, with the place."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


@dataclass(frozen=True)
class Origin:
    """The file that a recipe was read from, and the line of each value; all origins are equal."""

    source: str = field(default="recipe", compare=False)
    lines: Mapping[Location, int] = field(default_factory=dict, compare=False)


class VerbRecipe(Declared):
    """The recipe of a verb: the whole of its file."""

    _origin: Origin = PrivateAttr(default_factory=Origin)

    def at(self, *location: str) -> str:
        """``file:line: a.b``, or as much of it as is known."""
        line = f":{line_of(location, self._origin.lines)}" if self._origin.lines else ""
        return f"{self._origin.source}{line}: {'.'.join(location)}"

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Errors of the block that begin with a key of this file get its line."""
        try:
            yield
        except InputError as error:
            key, colon, rest = error.message.partition(":")
            path = tuple(key.split("."))
            for location in self._origin.lines if colon else ():
                if location[-len(path) :] == path and all(isinstance(k, str) for k in location):
                    problem = f"{self.at(*map(str, location))}:{rest}"
                    raise RecipeError([problem], hint=error.hint) from error
            raise

    @classmethod
    def load(cls, path: Path, changes: Sequence[str] = ()) -> Self:
        """Read and check a recipe file.

        ``changes``: ``"training.steps=100"`` and the like, put over what the file says; values are
        YAML. Raises ``RecipeError`` with all problems at once, each with its line.
        """
        value, lines = load_with_lines(path)
        for change in changes:
            put_over(value, change)
        return cls.parse(value, source=str(path), lines=lines)

    @classmethod
    def parse(
        cls, value: Any, *, source: str = "recipe", lines: Mapping[Location, int] | None = None
    ) -> Self:
        """Check plain data; ``lines`` says where each value stands in ``source``."""
        if not isinstance(value, Mapping):
            raise RecipeError([f"{source}: a recipe is a mapping with 'task' and 'backbone'"])
        checked = validated(cls, value, source=source, lines=lines)
        checked._origin = Origin(source, dict(lines or {}))
        return checked

    @classmethod
    def open(
        cls,
        recipe: str | Path | Mapping[str, Any] | Self,
        root: str | Path | None = None,
        changes: Sequence[str] = (),
    ) -> tuple[Self, Path]:
        """A file, plain data or a recipe, checked; and where relative paths start: at ``root``, by
        default at the file's folder, or here.
        """
        folder = Path.cwd()
        if isinstance(recipe, str | Path):
            folder, checked = Path(recipe).parent, cls.load(Path(recipe), changes)
        else:
            checked = recipe if isinstance(recipe, cls) else cls.parse(recipe)
        return checked, Path(folder if root is None else root).resolve()


Case = TypeVar("Case")
Effects = Mapping[str, tuple[Callable[[Case], bool], str]]
"""By key of a recipe: whether it has an effect in a case, and with what it has one."""


def check_effects(recipe: VerbRecipe, effects: Effects[Case], case: Case) -> None:
    """Raise ``RecipeError`` naming every value, other than its default, that changes nothing."""
    problems = [
        f"{recipe.at(*key.split('.'))}: has no effect here; it has one with {needed}"
        for key, (holds, needed) in effects.items()
        if is_given(recipe, key) and not holds(case)
    ]
    if problems:
        raise RecipeError(problems, hint="leave it out")


def is_given(recipe: BaseModel, key: str) -> bool:
    """Whether ``a.b`` was given a value other than its default."""
    *path, last = key.split(".")
    part: Any = reduce(getattr, path, recipe)
    if last not in part.model_fields_set:
        return False
    default = type(part).model_fields[last].get_default(call_default_factory=True)
    return bool(getattr(part, last) != default)
