"""Merge methods, the engine that streams them, and ``merge``. Needs no torch."""

from stockpot.merging.merge import Merged, merge
from stockpot.merging.method import available_methods, get_method, merge_method
from stockpot.merging.report import MergeReport
from stockpot.merging.settings import Rule

__all__ = [
    "MergeReport",
    "Merged",
    "Rule",
    "available_methods",
    "get_method",
    "merge",
    "merge_method",
]
