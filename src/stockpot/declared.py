"""What a file may declare: recipes, zoos and tasks, as models that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict

from stockpot.errors import RecipeError
from stockpot.yaml_lines import Location, field_names, load_with_lines, put_over, validated


class Declared(BaseModel):
    """A part of what a file declares: unknown keys are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VerbRecipe(Declared):
    """The recipe of a verb: the whole of its file."""

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
        return validated(cls, value, source=source, lines=lines, known=keys(cls))

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


def keys(*models: type[BaseModel]) -> list[str]:
    """All keys that a file of these models may have, those of their parts included, sorted: what
    misspelt ones are compared with.
    """
    return field_names(*(part for model in models for part in _parts(model)))


def _parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        pending = [field.annotation]
        while pending:
            one = pending.pop()
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield from _parts(one)
            pending += get_args(one)
