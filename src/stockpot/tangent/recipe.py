"""A recipe: which components to train, from which data, on which base. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from stockpot.backbones.spec import BackboneSpec
from stockpot.declared import Declared, VerbRecipe
from stockpot.tangent.settings import TangentSettings
from stockpot.tasks.specs import TaskSpec

KAPPA_FOR_CLASSES = 15.0


class Shards(Declared):
    """How training data is divided into components."""

    by: Literal["domains", "rows", "classes"] = Field(
        "domains", description="one component a domain, a random part of the rows, or some classes"
    )
    count: int | None = Field(None, ge=1, description="number of random parts (by: rows)")
    classes: int | None = Field(None, ge=1, description="classes of a component (by: classes)")
    order_seed: int | None = Field(
        None, ge=0, description="shuffles the classes before they are dealt; default: as they are"
    )

    @model_validator(mode="after")
    def _sizes(self) -> Shards:
        for by, name in (("rows", "count"), ("classes", "classes")):
            given = getattr(self, name) is not None
            if given != (self.by == by):
                word = "needs" if self.by == by else "has no use for"
                raise ValueError(f"'by: {self.by}' {word} '{name}'")
        return self


class Head(Declared):
    """The head that all components share."""

    seed: int = Field(0, ge=0, description="draws its weights")
    file: str | None = Field(None, description="a saved head, instead of a random one")
    classes: list[str] | None = Field(
        None,
        min_length=1,
        description="names of its columns, the same at all sites; default: "
        "the file's, or the task's",
    )


FEATURE_KEYS: dict[str, set[str]] = {
    "plain": set(),
    "random": {"random_dimension", "seed"},
    "tangent": {"dimension", "directions", "seed"},
    "joined": {"random_dimension", "dimension", "directions", "seed"},
}
"""What a feature map depends on, as ``FeatureMap.uses`` has it; known without torch."""


class Composition(Declared):
    """What a component is, and how components become a model."""

    kind: Literal["average", "statistics"] = Field(
        "average", description="deltas that are averaged, or sums that give joint training"
    )
    features: Literal["joined", "tangent", "random", "plain"] = Field(
        "joined",
        description="statistics: the base's features, random projections of them, sketched "
        "gradients, or all three beside each other",
    )
    dimension: int = Field(2048, ge=1, description="statistics: length of the sketch")
    random_dimension: int = Field(2048, ge=1, description="statistics: random projections")
    directions: int = Field(4, ge=1, description="statistics: directions of the sketch")
    seed: int = Field(0, ge=0, description="statistics: draws sketch or projection")
    blocks: int = Field(
        8,
        ge=1,
        le=256,
        description="statistics: partial sums of a component, which are kept, so "
        "that one example goes by summing its own block again",
    )
    solver: Literal["ridge", "means"] = Field("ridge", description="statistics: what is solved")
    penalty: float | None = Field(
        None, gt=0, description="statistics: of the ridge; default: by cross-validation"
    )

    @model_validator(mode="after")
    def _uses(self) -> Composition:
        """Raise for a key that nothing reads."""
        used = {"kind"}
        if self.kind == "statistics":
            used |= {"features", "solver", "blocks"} | FEATURE_KEYS[self.features]
            used |= {"penalty"} if self.solver == "ridge" else set()
        for name in sorted(self.model_fields_set - used):
            if getattr(self, name) == type(self).model_fields[name].default:
                continue
            wanted = {"kind": self.kind, "features": self.features, "solver": self.solver}
            beside = ", ".join(f"'{key}: {value}'" for key, value in wanted.items() if key in used)
            raise ValueError(f"'{name}' has no effect beside {beside}")
        return self


class TangentRecipe(VerbRecipe):
    """The whole of it. Relative paths start at the recipe's own folder."""

    title: str = Field("Components", min_length=1, description="shown in results")
    task: TaskSpec = Field(description="the data")
    backbone: BackboneSpec = Field(
        description="the base; with freeze_below only what lies above is linearised"
    )
    parameters: Literal["all"] | list[str] = Field(
        "all", description="what gets a tangent: all, or names with *"
    )
    precision: Literal["float64", "float32", "bfloat16"] = Field(
        "float32", description="type that the model computes in"
    )
    head: Head = Field(Head(), description="shared by all components")
    composer: Composition = Field(Composition(), description="of the components")
    components: Shards = Field(Shards(), description="one for each of these parts of the data")
    training: TangentSettings = Field(TangentSettings(), description="of one component")
    held_out: list[str] = Field([], description="domains that no component sees")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of every other domain that no component sees"
    )
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="part of a component's rows kept to validate and learn weights"
    )
    limit_per_domain: int | None = Field(None, ge=2, description="at most so many examples of each")
    seed: int = Field(0, ge=0, description="of splits and training")
    threads: int = Field(1, ge=1, description="CPU threads of a job; results depend on it")

    @model_validator(mode="before")
    @classmethod
    def _kappa_for_classes(cls, value: Any) -> Any:
        """The paper's code takes kappa 15 where components hold different classes."""
        if not isinstance(value, Mapping):
            return value
        components, training = value.get("components"), value.get("training", {})
        by_classes = isinstance(components, Mapping) and components.get("by") == "classes"
        if not by_classes or not isinstance(training, Mapping) or "kappa" in training:
            return value
        if TangentSettings.resolve(training)["solver"] == "adamw":
            return {**value, "training": {**training, "kappa": KAPPA_FOR_CLASSES}}
        return value


load_recipe, parse_recipe = TangentRecipe.load, TangentRecipe.parse
