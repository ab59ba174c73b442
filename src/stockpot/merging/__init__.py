"""Merge methods, the engine that streams them, and ``merge``. Needs no torch."""

from stockpot.merging.job import Spec
from stockpot.merging.lora import merge_adapters
from stockpot.merging.merge import Merged, merge
from stockpot.merging.method import available_methods, get_method, merge_method
from stockpot.merging.recipe import load_recipe
from stockpot.merging.report import MergeReport
from stockpot.merging.settings import Rule

__all__ = [
    "MergeReport",
    "Merged",
    "Rule",
    "Spec",
    "available_methods",
    "get_method",
    "load_recipe",
    "merge",
    "merge_adapters",
    "merge_method",
]
