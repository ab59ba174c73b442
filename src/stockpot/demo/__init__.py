"""The demo: real weights and data from packages, and the recipe that uses them."""

from stockpot.demo.assets import ASSETS, DEMO, fetch
from stockpot.demo.recipe import write_recipe

__all__ = ["ASSETS", "DEMO", "fetch", "write_recipe"]
