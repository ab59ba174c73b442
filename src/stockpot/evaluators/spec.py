"""``eval.yaml``: which evaluator scores a model. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stockpot.errors import InputError, MissingDependencyError, RecipeError
from stockpot.evaluators.command import TIMEOUT, CommandEvaluator
from stockpot.evaluators.contract import Evaluator, named_metric
from stockpot.evaluators.function import FunctionEvaluator
from stockpot.evaluators.identity import file_identity
from stockpot.evaluators.neighbours import Neighbours
from stockpot.files import file_digest
from stockpot.programs import forbidden, load_function
from stockpot.yaml_lines import load_with_lines, validated

KINDS = ("command", "function", "task", "perplexity", "choices", "lm_eval")
_OF_KINDS = {
    "model": ("function",),
    "rows": ("command", "function"),
    "include_path": ("lm_eval",),
    "score": ("lm_eval",),
    "per": ("perplexity",),
}
YEAR = 366 * 86400.0
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class EvaluatorSpec(BaseModel):
    """One evaluator: exactly one of its kinds. Relative paths start at the file's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str | None = Field(None, description="a program; {model} stands for a model folder")
    function: str | None = Field(None, description="package.module:function or file.py:function")
    task: str | None = Field(None, description="a task's YAML file; models are stockpot's folders")
    perplexity: str | None = Field(None, description="JSON Lines with 'text'; causal models")
    choices: str | None = Field(
        None, description="JSON Lines with 'prompt', 'options' and 'answer'; causal models"
    )
    per: Literal["token", "byte"] | None = Field(
        None, description="with perplexity: what the likelihood is counted by [default: token]"
    )
    lm_eval: str | None = Field(None, description="a task of lm-evaluation-harness; causal models")
    include_path: str | None = Field(
        None, description="with lm_eval: a folder with task files of your own"
    )
    score: str | None = Field(
        None, description="with lm_eval: which of the task's metrics [default: its first]"
    )
    model: str | None = Field(
        None, description="with function: a function that gives the module to put weights into"
    )
    rows: str | int | None = Field(
        None, description="with command: a file, a row a line, for {rows}; with function: how many"
    )
    files: list[str] = Field([], description="what else the scores depend on, so that it counts")
    lower_is_better: bool = Field(False, description="whether a lower score is better")
    metric: str | None = Field(None, description="how scores are shown, such as accuracy")
    timeout: float = Field(
        TIMEOUT, gt=0, le=YEAR, description="with command: such as 90, 10min or 2h"
    )

    @field_validator("timeout", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return duration(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> EvaluatorSpec:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"not {' and '.join(given)}" if given else "none is there"
            raise ValueError(f"expected one of {', '.join(KINDS)}; {problem}")
        for key, kinds in _OF_KINDS.items():
            if getattr(self, key) is not None and given[0] not in kinds:
                raise ValueError(f"'{key}' has no meaning with '{given[0]}'")
        try:
            named_metric(self.metric, lower_is_better=self.lower_is_better)
        except InputError as error:
            raise ValueError(f"{error.message}; {error.hint or ''}".rstrip("; ")) from None
        return self


class ConstraintSpec(EvaluatorSpec):
    """What the chosen model may lose by another evaluator."""

    lose_at_most: float = Field(
        ge=0,
        allow_inf_nan=False,
        description="in units of its score, with 95 % confidence on the rows that judge",
    )
    against: Literal["best", "base", "uniform"] = Field(
        "best", description="the model that nothing may be lost against: the best single one, ..."
    )


class WatchedSpec(EvaluatorSpec):
    """What every candidate is scored by besides, such as what was forgotten; it decides nothing."""

    against: Literal["best", "base", "uniform"] = Field(
        "base", description="the model that changes are counted from"
    )


class EvaluationSpec(EvaluatorSpec):
    """What is maximised, under which constraints, and what else is shown."""

    constraints: list[ConstraintSpec] = Field([], description="evaluators that may not lose much")
    watch: list[WatchedSpec] = Field([], description="evaluators that decide nothing: columns")


@dataclass(frozen=True)
class Constraint:
    """``evaluator``'s score may fall by ``lose_at_most`` below that of ``against``; None: it may
    do as it likes, and is shown for every candidate."""

    evaluator: Evaluator
    lose_at_most: float | None
    against: Literal["best", "base", "uniform"]


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10min`` or ``2h``. Raises ``ValueError``."""
    read = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if read is None or read[2] not in _UNITS:
        raise ValueError(f"'{text}' is no duration, such as 90, 10min or 2h")
    return float(read[1]) * _UNITS[read[2]]


def load_evaluator(
    source: str | Path | Mapping[str, Any], *, root: Path | None = None
) -> tuple[Evaluator, tuple[Constraint, ...]]:
    """The evaluator that a file (or its content) describes; its constraints and what it watches.

    Raises ``RecipeError`` with all problems, each with its line; ``InputError`` for files and
    functions that are not there, and code that may not run.
    """
    lines = None
    value: Any = source
    where, folder = "evaluate", Path(root or ".")
    if isinstance(source, str | Path):
        value, lines = load_with_lines(Path(source), "description of an evaluator")
        where, folder = str(source), Path(source).parent
    if not isinstance(value, Mapping):
        raise RecipeError([f"{where}: an evaluator is a mapping with one of {', '.join(KINDS)}"])
    spec = validated(EvaluationSpec, value, source=where, lines=lines)
    problems = [
        f"{where}: {reason}"
        for one in (spec, *spec.constraints, *spec.watch)
        for reason in _code(one, folder)
    ]
    if problems:
        raise RecipeError(problems)
    try:
        return build(spec, folder), (
            *(
                Constraint(build(one, folder), one.lose_at_most, one.against)
                for one in spec.constraints
            ),
            *(Constraint(build(one, folder), None, one.against) for one in spec.watch),
        )
    except MissingDependencyError:
        raise
    except InputError as error:
        if where in error.message:
            raise
        raise InputError(f"{where}: {error.message}", hint=error.hint) from error


def build(spec: EvaluatorSpec, folder: Path) -> Evaluator:
    """The evaluator of a description; relative paths start at ``folder``."""
    files = [_file(folder / name) for name in spec.files]
    options: dict[str, Any] = {"lower_is_better": spec.lower_is_better, "metric": spec.metric}
    if spec.command is not None:
        rows = None if spec.rows is None else folder / str(spec.rows)
        return CommandEvaluator(
            spec.command, root=folder, rows=rows, files=files, timeout=spec.timeout, **options
        )
    if spec.function is not None:
        size = spec.rows
        if isinstance(size, str):
            raise InputError(f"rows: with a function their number, not '{size}'")
        beside = Neighbours((folder / spec.function.rpartition(":")[0]).parent)
        with beside:
            function = load_function(spec.function, folder)
            module = None if spec.model is None else load_function(spec.model, folder)()
        code = [_source(name, folder) for name in (spec.function, spec.model) if name]
        options["identity"] = "".join([*code, *map(file_digest, files)])
        return FunctionEvaluator(function, module=module, size=size, beside=beside, **options)
    if spec.task is not None:
        from stockpot.evaluators.task import TaskEvaluator

        return TaskEvaluator(_file(folder / spec.task), metric=spec.metric)
    if spec.lm_eval is not None:
        from stockpot.evaluators.harness import HarnessEvaluator

        return HarnessEvaluator(
            spec.lm_eval,
            root=folder,
            include=None if spec.include_path is None else folder / spec.include_path,
            score=spec.score,
            metric=spec.metric,
        )
    from stockpot.evaluators.language import LanguageEvaluator

    kind: Literal["perplexity", "choices"] = "choices" if spec.choices else "perplexity"
    path = _file(folder / str(spec.choices or spec.perplexity))
    return LanguageEvaluator(path, kind, by_byte=spec.per == "byte")


def _code(spec: EvaluatorSpec, folder: Path) -> Sequence[str]:
    """Why functions that a description names, and task files may name, may not run."""
    names = [spec.function, spec.model]
    if spec.include_path is not None:
        beside = folder / spec.include_path
        programs = [one.relative_to(beside) for one in sorted(beside.rglob("*.py"))]
        names += [f"{Path(spec.include_path) / one}:task" for one in programs[:1]]
    named = [{"kind": "function", "name": name} for name in names if name]
    return [reason for one in named for _, reason in forbidden(one, folder)]


def _source(name: str, folder: Path) -> str:
    """A function's name, and the content of the file that it stands in and of what that imports."""
    path = folder / name.rpartition(":")[0]
    return name + (file_identity(path) if path.is_file() else "")


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} is no file")
    return path
