"""Continual learning as a protocol: tasks in order, methods side by side, measures, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.continual.recipe import ContinualRecipe, load_recipe
    from stockpot.continual.run import Compared, compare, plan_recipe
    from stockpot.continual.schema import ContinualResults
    from stockpot.continual.splits import deal

__all__ = [
    "Compared",
    "ContinualRecipe",
    "ContinualResults",
    "compare",
    "deal",
    "load_recipe",
    "plan_recipe",
]

__getattr__ = lazily(
    __name__,
    {
        "recipe": "ContinualRecipe load_recipe",
        "run": "Compared compare plan_recipe",
        "schema": "ContinualResults",
        "splits": "deal",
    },
)
