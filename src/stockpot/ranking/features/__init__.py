"""Features of every model on a sample of a task: extracted once, kept, and enough of them."""

from stockpot.ranking.features.cache import FeatureCache
from stockpot.ranking.features.extract import Extracted, Extractor, Failed, flat
from stockpot.ranking.features.sample import sample_order
from stockpot.ranking.features.stability import Stability, stability

__all__ = [
    "Extracted",
    "Extractor",
    "Failed",
    "FeatureCache",
    "Stability",
    "flat",
    "sample_order",
    "stability",
]
