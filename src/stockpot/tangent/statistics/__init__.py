"""Sums that add up: composing shards is joint training, removing one is never having had it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.tangent.statistics.composer import StatisticsComposer
    from stockpot.tangent.statistics.maps import FeatureMap
    from stockpot.tangent.statistics.sketch import TangentSketch
    from stockpot.tangent.statistics.sums import Sums

__all__ = ["FeatureMap", "StatisticsComposer", "Sums", "TangentSketch"]

_HOMES = {
    "FeatureMap": "maps",
    "StatisticsComposer": "composer",
    "Sums": "sums",
    "TangentSketch": "sketch",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stockpot.tangent.statistics' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"stockpot.tangent.statistics.{_HOMES[name]}"), name)
