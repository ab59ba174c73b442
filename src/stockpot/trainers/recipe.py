"""A recipe whose trainer is somebody's own: what is trained, from what, and how it is scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from stockpot.declared import Declared, VerbRecipe
from stockpot.evaluators.spec import duration
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import Draw
from stockpot.yaml_lines import suggestion

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _as_number(value: Any) -> Any:
    """YAML reads 2e-5, without a point, as text; nobody means that."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Value = Annotated[bool | int | float | str, BeforeValidator(_as_number)]
Values = Value | Annotated[list[Value], Field(min_length=1)] | Draw

REFERENCES = ("linear_probe", "erm", "soup_uniform")
"""What the kept model is compared with is always there: it costs no training of its own."""


def runs_anywhere(protocol: Protocol) -> bool:
    """Whether a protocol needs nothing but checkpoints that a trainer leaves at its end."""
    return (
        protocol.pool in ("probe", "plain", "seeds", "auxiliary", "fusing")
        and protocol.take == "best"
        and protocol.gives_weights
        and not protocol.over_trials
    )


class NamedTrainer(Declared):
    """What fine-tunes: exactly one of ``command`` and ``function``."""

    command: str | None = Field(
        None, description="a program; {init}, {output}, {data}, {seed} and hyper-parameters by name"
    )
    function: str | None = Field(
        None, description="package.module:function or file.py:function; or one of stockpot's own"
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="what in {output} holds the weights, where that is no model folder: a path "
        "from there on, or a pattern that one file has, such as run/last.pth.tar",
    )
    files: list[str] = Field([], description="what else the weights depend on, so that it counts")
    timeout: float | None = Field(
        None, gt=0, description="with command: of one training, such as 90, 10min or 2h"
    )

    @field_validator("timeout", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return duration(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> NamedTrainer:
        if (self.command is None) == (self.function is None):
            raise ValueError("give one of 'command' and 'function'")
        if self.weights is not None and (Path(self.weights).is_absolute() or ".." in self.weights):
            raise ValueError("'weights' is a path from {output} on")
        if self.function is not None and self.timeout is not None:
            raise ValueError("'timeout' has no meaning with 'function'")
        return self


class OtherStart(Declared):
    """Weights to start from besides the base: trained here on other ``data``, or ``weights``."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    data: str | None = Field(None, description="train the base on it")
    weights: str | None = Field(None, description="somebody's fine-tuning of the same base")
    hyperparameters: dict[str, Value] = Field({}, description="of its training, over run 0's")

    @model_validator(mode="after")
    def _one_source(self) -> OtherStart:
        if (self.data is None) == (self.weights is None):
            raise ValueError("give one of 'data' and 'weights'")
        if self.weights is not None and self.hyperparameters:
            raise ValueError("'hyperparameters' are of a training, and 'weights' are there already")
        return self


class TrainerRecipe(VerbRecipe):
    """The whole of it. Relative paths start at the recipe's own folder; commands run there."""

    title: str = Field("Recycling", description="the report's headline")
    base: str = Field(description="model folder, or hub id, that everything starts from")
    trainer: NamedTrainer = Field(description="what fine-tunes")
    data: str | None = Field(
        None, description="what is trained on: a path, or `name:` and what the trainer knows it by"
    )
    hyperparameters: dict[str, Values] = Field(
        {}, description="one value, values to draw from (run 0 takes the first), or a `draw`"
    )
    head: dict[str, Value] | None = Field(
        None,
        description="for models whose head the base lacks: hyper-parameters, over run 0's, of a "
        "first training that makes the head that all runs start from",
    )
    head_tensors: list[str] = Field(
        [], description="patterns of tensors that auxiliaries never bring along, as `classifier.*`"
    )
    auxiliaries: list[OtherStart] = Field([], description="weights to start from besides the base")
    evaluate: str | dict[str, Any] = Field(description="an evaluator's YAML file, or its content")
    runs: int = Field(4, ge=2, description="trainings from the base, and from all inits in turn")
    side_runs: int | None = Field(None, ge=1, description="trainings for fusing [default: runs]")
    protocols: list[str] | None = Field(None, description="default: all that the recipe allows")
    judge: int = Field(5, ge=1, le=9, description="of ten rows, how many judge and choose nothing")
    racing: bool = Field(True, description="score hopeless averages on some of the rows only")
    seed: int = Field(0, ge=0, description="of draws, trainings and the split of the rows")
    threads: int = Field(1, ge=1, description="CPU threads of a training; results depend on it")

    @field_validator("protocols")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        for name in names or []:
            if name not in PROTOCOLS:
                raise ValueError(f"unknown protocol '{name}'{suggestion(name, list(PROTOCOLS))}")
            if not runs_anywhere(PROTOCOLS[name]):
                raise ValueError(
                    f"protocol '{name}' needs stockpot's own training, which recipes without "
                    "'trainer' use"
                )
        return names

    @model_validator(mode="after")
    def _consistent(self) -> TrainerRecipe:
        runs = range(max(self.runs, self.side_runs or 0))
        own = ["base", "mixture", *(f"{one}-{run}" for one in ("base", "mixture") for run in runs)]
        names = ["head", *own, *(one.name for one in self.auxiliaries)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"auxiliary '{twice[0]}' stands twice, or has a name that is taken")
        if self.data is None and any(one.data for one in self.auxiliaries):
            raise ValueError("auxiliaries have 'data', and the recipe itself has none")
        pools = {one.pool for one in self.table}
        if pools & {"auxiliary", "fusing"} and not self.auxiliaries:
            raise ValueError("protocols from auxiliary weights need 'auxiliaries'")
        if "auxiliary" in pools and self.runs <= len(self.auxiliaries):
            raise ValueError(
                f"runs: {self.runs} runs cannot start from {len(self.auxiliaries) + 1} inits (the "
                f"base and {len(self.auxiliaries)} auxiliaries); give {len(self.auxiliaries) + 1}"
            )
        return self

    @property
    def table(self) -> tuple[Protocol, ...]:
        """The protocols to compare, best single fine-tuning first."""
        wanted = [
            one
            for one in PROTOCOLS.values()
            if runs_anywhere(one)
            and (
                one.name in (*(self.protocols or ()), *REFERENCES)
                or (self.protocols is None and (self.auxiliaries or one.pool != "auxiliary"))
            )
            and (self.protocols is not None or self.auxiliaries or one.pool != "fusing")
        ]
        return tuple(sorted(wanted, key=lambda one: one.name != "erm"))

    @property
    def is_drawn(self) -> bool:
        """Whether runs differ by what is drawn."""
        return any(isinstance(one, list | Draw) for one in self.hyperparameters.values())


def first_values(values: Mapping[str, Values]) -> dict[str, Value]:
    """What run 0 takes."""
    return {
        name: one.first if isinstance(one, Draw) else one[0] if isinstance(one, list) else one
        for name, one in values.items()
    }


def all_values(value: Values) -> Sequence[Value]:
    """What a hyper-parameter can be; of a range its ends."""
    if isinstance(value, Draw):
        ends = [one for one in (value.low, value.high) if one is not None]
        return [value.first, *(value.choices or ends)]
    return value if isinstance(value, list) else [value]


def choices(values: Mapping[str, Values]) -> dict[str, Sequence[Value] | Mapping[str, Any]]:
    """What the other runs draw from, see ``draw_values``."""
    return {
        name: one.space if isinstance(one, Draw) else one if isinstance(one, list) else [one]
        for name, one in values.items()
    }
