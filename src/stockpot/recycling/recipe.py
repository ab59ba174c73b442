"""A recipe: what to train, from which weights, and which protocols to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from stockpot.backbones.spec import BackboneSpec
from stockpot.errors import RecipeError
from stockpot.evaluation.metrics import METRICS
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.tasks.specs import TaskSpec
from stockpot.yaml_lines import Location, field_names, load_with_lines, suggestion, validated

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


AUTO = "auto"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(_Strict):
    """How one fine-tuning goes. A list is a set of values from which each run draws one.

    The first value of a list is the default, which run 0 of every pool takes.
    """

    steps: int = Field(300, ge=1, description="optimizer steps of one run")
    batch_size: int = Field(16, ge=1, description="examples per training domain and step")
    learning_rate: list[Positive] | Positive = Field(
        [5e-5, 3e-5, 1e-5], description="one value, or values to draw from"
    )
    weight_decay: list[float] | float = Field([0.0, 1e-4, 1e-6], description="likewise")
    dropout: list[Fraction] | Fraction = Field(
        [0.0, 0.1, 0.5], description="between featurizer and head; likewise"
    )
    head_only_steps: int = Field(
        50, ge=0, description="first steps of a run that starts from auxiliary weights"
    )
    evaluate_every: int = Field(50, ge=1, description="steps between validations")
    average_from: Fraction = Field(0.2, description="part of the run after which averaging starts")
    optimizer: Literal["adam", "adamw"] = Field("adam", description="DomainBed uses adam")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision")
    augmentation: bool = Field(True, description="of images: crop, flip, colour, grey")
    views: int = Field(4, ge=1, description="augmented views kept per image when blocks are frozen")
    limit_per_domain: int | None = Field(
        None, ge=2, description="at most so many examples of each domain, held out or not"
    )
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of each training domain kept for validation"
    )

    @field_validator("learning_rate", "weight_decay", "dropout")
    @classmethod
    def _not_empty(cls, value: list[float] | float) -> list[float] | float:
        if value == []:
            raise ValueError("the list of values to draw from is empty")
        return value


class AuxiliaryTraining(_Strict):
    """How an auxiliary is made; what is not given is as in ``training``."""

    steps: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    learning_rate: Positive | None = None
    limit_per_domain: int | None = Field(None, ge=2)


class Auxiliary(_Strict):
    """Weights to start from besides the base: from the wild, or trained by the recipe.

    Exactly one of ``weights`` (a checkpoint of the same base), ``task`` (fine-tune the base on it),
    and ``rotation`` (predict the rotation of the target's own training images).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    weights: str | None = None
    task: TaskSpec | None = None
    rotation: bool = False
    accept_doubt: bool = Field(
        False, description="use ``weights`` although the lineage test leaves a doubt"
    )
    training: AuxiliaryTraining = AuxiliaryTraining()

    @model_validator(mode="after")
    def _one_source(self) -> Auxiliary:
        given = [self.weights is not None, self.task is not None, self.rotation]
        if sum(given) != 1:
            raise ValueError("give exactly one of 'weights', 'task' and 'rotation: true'")
        if self.accept_doubt and self.weights is None:
            raise ValueError("'accept_doubt' is about 'weights' from the wild; there are none")
        return self


class Final(_Strict):
    """Which model the output folder holds."""

    protocol: str = Field(
        AUTO, description="auto: the one that validation chooses; or a protocol by name"
    )
    at_least: Literal["probe", "best_run"] | None = Field(
        None, description="keep no model that validation says is worse than this"
    )
    train_on: Literal["first", "all"] = Field(
        "first", description="the first held-out domain's model, or one trained on all domains"
    )


class Periodic(_Strict):
    """Model Stock during training."""

    every: int = Field(50, ge=1, description="steps between two merges")
    models: int = Field(2, ge=2)
    optimizer_state: Literal["keep", "reset"] = "keep"


class Connectivity(_Strict):
    """How finely paths between weights are looked at for the diagnosis."""

    points: int = Field(7, ge=3, description="interpolation coefficients per path, ends included")
    examples: int = Field(300, ge=20, description="validation and held-out examples per point")


class Recipe(_Strict):
    """The whole of it. Relative paths start at the recipe's own folder."""

    title: str = Field("Recycling", description="the report's headline")
    task: TaskSpec = Field(description="the data, with domains")
    backbone: BackboneSpec = Field(description="the base")
    held_out: list[str] | Literal["all"] = Field(
        "all", description="domains never trained on, each in turn; results are judged on them"
    )
    trials: int = Field(1, ge=1, description="independent splits; results are averaged over them")
    seed: int = Field(0, ge=0, description="of splits, draws and training")
    runs: int = Field(4, ge=2, description="fine-tunings from the base, and from all inits in turn")
    side_runs: int | None = Field(
        None, ge=1, description="fine-tunings for fusing and trajectory inits [default: runs]"
    )
    training: Training = Field(Training(), description="one fine-tuning")
    auxiliaries: list[Auxiliary] = Field([], description="weights to start from besides the base")
    trajectory: list[Fraction] = Field(
        [1 / 3, 2 / 3], description="parts of run 0 after which its weights serve as inits"
    )
    periodic: Periodic = Field(Periodic(), description="Model Stock during training")
    connectivity: Connectivity = Field(Connectivity(), description="paths between weights")
    metric: str | None = Field(
        None,
        description="what steps, runs and members are chosen by, and the table shows "
        "[default: accuracy, or r2 for regression]",
    )
    also: list[str] | None = Field(
        None,
        description="metrics shown beside it [default: those below that are always defined]",
    )
    greedy_on: Literal["pooled", "mean"] = Field(
        "pooled", description="greedy accepts by the score over all rows, or the mean over domains"
    )
    protocols: list[str] | None = Field(None, description="default: all that the recipe allows")
    final: Final = Field(Final(), description="the model that is kept")
    threads: int = Field(1, ge=1, description="CPU threads of a job; results depend on it")
    resamples: int = Field(2000, ge=100, description="bootstrap resamples for the intervals")

    @field_validator("protocols")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        for name in names or []:
            if name not in PROTOCOLS:
                raise ValueError(f"unknown protocol '{name}'{suggestion(name, list(PROTOCOLS))}")
        return names

    @field_validator("metric", "also")
    @classmethod
    def _metric_known(cls, value: str | list[str] | None) -> str | list[str] | None:
        for name in [value] if isinstance(value, str) else value or []:
            if name not in METRICS:
                hint = suggestion(name, list(METRICS)) or f"; choose one of {', '.join(METRICS)}"
                raise ValueError(f"unknown metric '{name}'{hint}")
        return value

    @field_validator("final")
    @classmethod
    def _final_known(cls, final: Final) -> Final:
        known = [AUTO, *(name for name, protocol in PROTOCOLS.items() if protocol.gives_weights)]
        if final.protocol not in known:
            hint = suggestion(final.protocol, known) or f"; choose one of {', '.join(known)}"
            raise ValueError(f"'{final.protocol}' gives no single set of weights{hint}")
        return final

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [auxiliary.name for auxiliary in self.auxiliaries]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"auxiliary '{sorted(twice)[0]}' stands twice")
        for name in self.protocols or []:
            if PROTOCOLS[name].pool in ("auxiliary", "fusing") and not self.auxiliaries:
                raise ValueError(f"protocol '{name}' needs 'auxiliaries'")
        if self.final.protocol == AUTO:
            if not any(PROTOCOLS[name].can_be_final for name in self.protocol_names):
                raise ValueError(
                    "none of 'protocols' gives a set of weights that validation can choose; "
                    "add one, such as 'soup_uniform', or name one as final.protocol"
                )
        elif self.final.protocol not in self.protocol_names:
            raise ValueError(
                f"the final model's protocol '{self.final.protocol}' is not among 'protocols'"
            )
        return self

    @property
    def protocol_names(self) -> list[str]:
        """Protocols to run, in the table's order; by default all for which there are weights."""
        if self.protocols is not None:
            return [name for name in PROTOCOLS if name in self.protocols]
        return [
            name
            for name, protocol in PROTOCOLS.items()
            if (self.auxiliaries or protocol.pool not in ("auxiliary", "fusing"))
            and (self.trials > 1 or not protocol.over_trials)
        ]


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    ``changes``: ``"training.steps=100"`` and the like, put over what the file says; values are
    YAML.
    Raises ``RecipeError`` with all problems at once, each with its line.
    """
    value, lines = load_with_lines(path)
    for change in changes:
        _put(value, change)
    return parse_recipe(value, source=str(path), lines=lines)


def _put(value: Any, change: str) -> None:
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


def parse_recipe(
    value: Any, *, source: str = "recipe", lines: Mapping[Location, int] | None = None
) -> Recipe:
    """Check a recipe given as plain data; ``lines`` says where each value stands in ``source``."""
    if not isinstance(value, Mapping):
        raise RecipeError([f"{source}: a recipe is a mapping with 'task' and 'backbone'"])
    return validated(Recipe, value, source=source, lines=lines, known=_ALL_KEYS)


_ALL_KEYS = field_names(
    Recipe, Training, Auxiliary, AuxiliaryTraining, Periodic, Final, Connectivity, BackboneSpec
)
