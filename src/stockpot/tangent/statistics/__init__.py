"""Sums that add up: composing shards is joint training, removing one is never having had it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.tangent.statistics.composer import StatisticsComposer
    from stockpot.tangent.statistics.maps import FeatureMap
    from stockpot.tangent.statistics.sketch import TangentSketch
    from stockpot.tangent.statistics.sums import Sums

__all__ = ["FeatureMap", "StatisticsComposer", "Sums", "TangentSketch"]

_HOMES = {
    "FeatureMap": "stockpot.tangent.statistics.maps",
    "StatisticsComposer": "stockpot.tangent.statistics.composer",
    "Sums": "stockpot.tangent.statistics.sums",
    "TangentSketch": "stockpot.tangent.statistics.sketch",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(_HOMES, __name__, name)
