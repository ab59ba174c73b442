"""Recycling: recipes that expand into fine-tunings and averages, compared in one run."""

from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe, load_recipe, parse_recipe
from stockpot.recycling.run import Recycled, plan_recipe, recycle

__all__ = [
    "PROTOCOLS",
    "Recipe",
    "Recycled",
    "load_recipe",
    "parse_recipe",
    "plan_recipe",
    "recycle",
]
