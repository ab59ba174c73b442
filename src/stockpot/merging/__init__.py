"""Merge methods, the engine that streams them, and ``merge``. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily
from stockpot.merging.job import Spec
from stockpot.merging.merge import Merged, merge
from stockpot.merging.method import available_methods, get_method, merge_method
from stockpot.merging.recipe import load_recipe
from stockpot.merging.report import MergeReport
from stockpot.merging.settings import Rule

if TYPE_CHECKING:
    from stockpot.merging.extraction import AdapterReport, write_adapter
    from stockpot.merging.lora import merge_adapters

__all__ = [
    "AdapterReport",
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
    "write_adapter",
]

__getattr__ = lazily(
    __name__, {"extraction": "AdapterReport write_adapter", "lora": "merge_adapters"}
)
