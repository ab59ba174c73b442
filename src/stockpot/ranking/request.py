"""What is asked of ``rank``: the task, how it is fine-tuned and measured, how much is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from stockpot.declared import Declared, VerbRecipe
from stockpot.errors import RecipeError, TaskError
from stockpot.execution import Arguments
from stockpot.execution.arguments import data_argument
from stockpot.ranking.columns import find_columns
from stockpot.tasks.specs import (
    TaskSpec,
)
from stockpot.yaml_lines import STDIN, Location, load_with_lines, put_over

# What a recipe for `recycle` and a request say in the same way.
_SHARED = ("title", "task", "seed", "threads")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


class Tuning(Declared):
    """How one model is fine-tuned when it is: from its linear probe, all weights."""

    steps: int = Field(150, ge=1, description="optimizer steps")
    batch_size: int = Field(16, ge=1, description="examples per training domain and step")
    learning_rate: float | None = Field(
        None, gt=0, description="default: 5e-5 for text encoders, 1e-4 for the rest"
    )
    weight_decay: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1, description="between featurizer and head")
    optimizer: Literal["adam", "adamw"] = "adam"
    augmentation: bool = Field(True, description="of images: crop, flip, colour, grey")


class Sample(Declared):
    """How many training examples the scores look at."""

    first: int = Field(256, ge=8, description="examples to begin with")
    most: int = Field(
        2048, ge=8, description="doubled until the ranking is stable, or this many are reached"
    )
    keep: Literal["features", "moments"] = Field(
        "features",
        description="on disk: features of every example, or only their second moments over 'most' "
        "examples (one matrix a model; no stop rule, fewer scores)",
    )


class Request(VerbRecipe):
    """One question: which of the models suits this task."""

    title: str | None = Field(None, description="the report's headline; default: the task's name")
    task: TaskSpec = Field(description="the data")
    held_out: list[str] = Field(
        [], description="domains never trained on: models are judged by them; default: by a split"
    )
    validation_fraction: float = Field(
        0.25, gt=0, lt=1, description="part of each training domain that models are judged by"
    )
    limit_per_domain: int | None = Field(None, ge=2, description="use at most so many examples")
    seed: int = Field(0, ge=0, description="of splits, samples and training")
    threads: int = Field(1, ge=1, description="CPU threads of a fine-tuning")
    scores: list[str] | None = Field(None, description="default: all cheap ones that are defined")
    sample: Sample = Field(Sample(), description="what the scores look at")
    training: Tuning = Field(Tuning(), description="one fine-tuning")
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """How the question was read, where that was not said: a sentence each."""
        return self._notes

    def rows_of(self, content: str, *, skip_corrupt: bool) -> Arguments:
        """Arguments of a job that opens the task, whose fingerprint is ``content``: ``data`` for
        ``open_task``, ``split`` for ``split_task``.
        """
        return {
            "data": data_argument(
                self.task,
                content,
                seed=self.seed,
                limit=self.limit_per_domain,
                skip_corrupt=skip_corrupt,
            ),
            "split": {
                "held_out": self.held_out,
                "seed": self.seed,
                "validation_fraction": self.validation_fraction,
            },
        }


def load_request(path: Path, changes: Sequence[str] = ()) -> tuple[Request, Path]:
    """Read what is asked from ``path``; returns it with the folder its paths start at.

    ``path`` is a YAML file (a request, a task alone, or a recipe for ``recycle``, of which the task
    is taken), a folder ``domain/class/image``, a table of texts, or an ``.npz`` file. ``changes``:
    ``"task.label=stars"`` and the like, put over what the file says. Columns of a table that nobody
    names are looked for (``columns.find_columns``).
    Raises ``RecipeError`` with all problems and their lines, ``TaskError`` for anything else.
    """
    lines: Mapping[Location, int] | None = None
    root, notes = path.resolve().parent, list[str]()
    if path.is_dir():
        value: Any = {"task": {"kind": "images", "path": path.name}}
    elif str(path) == STDIN:
        value, lines = load_with_lines(path, "task")
        root = Path.cwd()
    elif path.suffix in _TABLES:
        value = {"task": {"kind": "text", "path": path.name}}
        if path.exists():
            given = dict(change.split("=", 1) for change in changes if "=" in change)
            columns = find_columns(path, given.get("task.text"), given.get("task.label"))
            own = columns.spec(path.name).model_dump(exclude_defaults=True)
            value = {"task": {"kind": "text", **own}}
            notes = [columns.note] if columns.note else []
    elif path.suffix == ".npz":
        value = {"task": {"kind": "arrays", "path": path.name}}
    elif not path.exists():
        raise TaskError(
            f"there is no task {path}",
            hint="give a YAML file, a table of texts, or a folder of images",
        )
    elif path.suffix not in (".yaml", ".yml"):
        raise TaskError(
            f"{path}: a task is a .yaml file, a folder of images, an .npz file, or a table "
            f"({', '.join(_TABLES)})"
        )
    else:
        value, lines = load_with_lines(path, "task")
    for change in changes:
        put_over(value, change)
    request = parse_request(value, source=str(path), lines=lines)
    request._notes = (*request._notes, *notes)
    return request, root


def parse_request(
    value: Any, *, source: str = "task", lines: Mapping[Location, int] | None = None
) -> Request:
    """Check a request given as plain data; a bare task is one as well."""
    if not isinstance(value, Mapping):
        raise RecipeError([f"{source}: a task is a mapping with 'kind', or with 'task'"])
    if "kind" in value and "task" not in value:
        return Request.parse({"task": value}, source=source, lines=_inside(lines))
    kept = (
        {name: value[name] for name in _SHARED if name in value} if "backbone" in value else value
    )
    request = Request.parse(kept, source=source, lines=lines)
    if left := [name for name in value if name not in kept]:
        taken = ", ".join(name for name in kept)
        request._notes = (f"of the recipe {taken} count here, not: {', '.join(left)}",)
    return request


def _inside(lines: Mapping[Location, int] | None) -> dict[Location, int] | None:
    """Lines of a bare task, as if it stood under 'task'."""
    return None if lines is None else {("task", *place): line for place, line in lines.items()}
