"""A recipe: which protocol, which methods, on which data and base. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stockpot.backbones.spec import BackboneSpec
from stockpot.continual.methods import METHODS
from stockpot.declared import Declared, VerbRecipe
from stockpot.tangent.settings import TangentSettings
from stockpot.tasks.specs import TaskSpec
from stockpot.yaml_lines import suggestion

Mode = Literal["data", "class", "task"]
RANPAC = 10_000  # width of the random projection in McDonnell et al. 2023


class Setting(Declared):
    """One way of dealing the data to tasks that come one after another."""

    mode: Mode = Field(
        description="data: random parts of all classes; class: some classes each, told apart from "
        "all seen so far; task: likewise, but told apart within their task only"
    )
    parts: int | None = Field(None, ge=2, description="number of tasks")
    classes: int | None = Field(
        None, ge=1, description="modes class, task: classes of a task, instead of parts"
    )
    published: dict[str, float] = Field(
        {}, description="points below joint training in print, by method; reported beside ours"
    )

    @field_validator("published")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        _check_methods(value)
        return value

    @model_validator(mode="after")
    def _sizes(self) -> Setting:
        if self.mode == "data" and (self.parts is None or self.classes is not None):
            raise ValueError("'mode: data' needs 'parts' and has no use for 'classes'")
        if (self.parts is None) == (self.classes is None):
            raise ValueError(f"'mode: {self.mode}' needs one of 'parts' and 'classes'")
        return self

    @property
    def name(self) -> str:
        """Such as ``data-5`` (five parts), ``class-2`` (two classes a task), ``class-in-5``."""
        if self.mode == "data" or self.parts is None:
            return f"{self.mode}-{self.parts or self.classes}"
        return f"{self.mode}-in-{self.parts}"


class Data(Declared):
    """Which examples are for training and which for testing, drawn anew in every trial."""

    test_domains: list[str] = Field(
        [],
        description="these are tested on; default: the fixed test rows, else some of every class",
    )
    test_per_class: int | None = Field(None, ge=1, description="at most so many of each class")
    train_per_class: int | None = Field(None, ge=1, description="at most so many of each class")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="without test_domains and test_per_class: of each class"
    )


class Features(Declared):
    """The feature maps of the methods that sum statistics."""

    dimension: int = Field(2048, ge=1, description="of sketched gradients")
    directions: int = Field(4, ge=1, description="gradients per example")
    random_dimension: int = Field(
        RANPAC, ge=1, description="of the random projection, in RanPAC and in the statistics"
    )
    seed: int = Field(0, ge=0, description="draws sketch and projection, once for all trials")


class ContinualRecipe(VerbRecipe):
    """The whole of it. Relative paths start at the recipe's own folder."""

    title: str = Field("Continual learning", min_length=1, description="shown in the report")
    task: TaskSpec = Field(description="the data, training and test")
    data: Data = Field(Data(), description="which examples train and test")
    backbone: BackboneSpec = Field(
        description="the base; with freeze_below only what lies above is trained"
    )
    settings: list[Setting] = Field(min_length=1, description="how tasks are dealt")
    trials: int = Field(5, ge=1, description="repetitions with other splits, orders and heads")
    methods: list[str] | None = Field(None, min_length=1, description="default: all")
    baseline: str = Field("tmc", description="the method that others are compared with")
    tangent: TangentSettings = Field(TangentSettings(), description="training of components")
    nonlinear: TangentSettings = Field(
        TangentSettings(loss="cross_entropy"), description="training of non-linear models"
    )
    nonlinear_square: dict[str, bool | int | float | str | None] = Field(
        {}, description="changes to `nonlinear` where it trains with the square loss"
    )
    kappa: dict[Mode, float] = Field(
        {"data": 5.0, "class": 15.0, "task": 15.0},
        description="target of the true class under the square loss",
    )
    features: Features = Field(Features(), description="of the statistics composers")
    seed: int = Field(0, ge=0, description="of splits, orders, heads and training")
    threads: int = Field(1, ge=1, description="CPU threads of a job; results depend on it")

    @field_validator("nonlinear", mode="before")
    @classmethod
    def _by_gradients(cls, value: Any) -> Any:
        """A non-linear model has no least squares to solve."""
        return {"solver": "adamw", **value} if isinstance(value, Mapping) else value

    @field_validator("methods")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        _check_methods(value or ())
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ContinualRecipe:
        if self.baseline not in self.method_names:
            raise ValueError(f"the baseline '{self.baseline}' is not among the methods")
        names = [setting.name for setting in self.settings]
        if len(set(names)) < len(names):
            raise ValueError(f"a setting stands twice: {', '.join(names)}")
        self.square_settings()
        return self

    @property
    def method_names(self) -> list[str]:
        """Methods that run, in the order of the table."""
        return [name for name in METHODS if self.methods is None or name in self.methods]

    def square_settings(self) -> TangentSettings:
        """How non-linear models are trained with the square loss."""
        changes = {**self.nonlinear.model_dump(), "loss": "square", **self.nonlinear_square}
        return TangentSettings.model_validate(changes)


def _check_methods(names: Iterable[str]) -> None:
    """Raises ``ValueError`` where one is no method."""
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method '{name}'{suggestion(name, list(METHODS))}")


load_recipe, parse_recipe = ContinualRecipe.load, ContinualRecipe.parse
