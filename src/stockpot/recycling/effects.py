"""Which keys of a recipe have an effect where: one that has none is refused, not passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stockpot.backbones import Backbone
from stockpot.backbones.batchnorm import batchnorm_layers
from stockpot.declared import Effects, check_effects
from stockpot.recycling.cells import held_out_sets
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.settings import steps_of
from stockpot.tasks import PARTS, Task


@dataclass(frozen=True)
class _Case:
    """A recipe with its data and its base."""

    recipe: Recipe
    task: Task
    backbone: Backbone

    @property
    def steps(self) -> int:
        return steps_of(self.recipe.training, self.task.counts())

    @property
    def draws_test(self) -> bool:
        own = self.task.splits is not None and PARTS.index("test") in self.task.splits
        return () in held_out_sets(self.recipe, self.task.domains) and not own

    def any(self, **wanted: str) -> bool:
        """Whether a protocol of the recipe is so."""
        rows = (PROTOCOLS[name] for name in self.recipe.protocol_names)
        return any(all(getattr(row, k) == v for k, v in wanted.items()) for row in rows)


_Condition = Callable[[_Case], bool]


def _images(case: _Case) -> bool:
    return case.task.modality == "image"


_PERIODIC: tuple[_Condition, str] = (
    lambda case: case.any(pool="periodic"),
    "the protocol stock_periodic",
)

EFFECTS: Effects[_Case] = {
    "backbone.image_size": (_images, "images"),
    "backbone.mean": (_images, "images"),
    "backbone.std": (_images, "images"),
    "backbone.pooling": (
        lambda case: case.recipe.backbone.kind == "transformers",
        "kind: transformers",
    ),
    "backbone.max_length": (
        lambda case: (
            case.backbone.spec.max_length == case.recipe.backbone.max_length
            and case.task.modality == "text"
        ),
        "texts, and up to the number of positions of the network",
    ),
    "backbone.batchnorm": (
        lambda case: bool(batchnorm_layers(case.backbone.network)),
        "a network with BatchNorm",
    ),
    "training.views": (
        lambda case: (
            _images(case)
            and case.recipe.training.augmentation
            and case.recipe.backbone.freeze_below is not None
        ),
        "augmented images and backbone.freeze_below",
    ),
    "training.early_stopping": (
        lambda case: case.steps > case.recipe.training.evaluate_every,
        "more than one evaluation in a run",
    ),
    "training.head_only_steps": (
        lambda case: case.steps > (case.recipe.training.head_only_steps or 0),
        "longer runs than that",
    ),
    "training.swad": (lambda case: case.any(take="swad"), "the protocol swad"),
    "test_fraction": (
        lambda case: case.draws_test or case.recipe.unseen_groups,
        "test rows that are drawn: no held-out domain, or unseen_groups",
    ),
    "trajectory": (lambda case: case.any(pool="trajectory"), "protocols with trajectory inits"),
    "periodic.every": (
        lambda case: _PERIODIC[0](case) and case.steps >= case.recipe.periodic.every,
        "the protocol stock_periodic, and runs as long as that",
    ),
    "periodic.models": _PERIODIC,
    "periodic.optimizer_state": _PERIODIC,
    "greedy_on": (lambda case: case.any(select="greedy"), "greedy protocols"),
}
"""By key: whether it has an effect, and with what it has one."""


def check(recipe: Recipe, task: Task, backbone: Backbone) -> None:
    """Raise ``RecipeError`` naming every value, other than its default, that changes nothing."""
    check_effects(recipe, EFFECTS, _Case(recipe, task, backbone))
