"""Sums that add up: composing shards is joint training, removing one is never having had it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.tangent.statistics.composer import StatisticsComposer
    from stockpot.tangent.statistics.maps import FeatureMap
    from stockpot.tangent.statistics.sketch import TangentSketch
    from stockpot.tangent.statistics.solve import ridge
    from stockpot.tangent.statistics.sums import Sums, collect

__all__ = [
    "FeatureMap",
    "StatisticsComposer",
    "Sums",
    "TangentSketch",
    "collect",
    "ridge",
]

__getattr__ = lazily(
    __name__,
    {
        "composer": "StatisticsComposer",
        "maps": "FeatureMap",
        "sketch": "TangentSketch",
        "solve": "ridge",
        "sums": "Sums collect",
    },
)
