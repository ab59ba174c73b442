"""What is known already: results of models on tasks, stored, imported, checked, ranked."""

from stockpot.ranking.history.importers import read_results
from stockpot.ranking.history.sheet import Reading
from stockpot.ranking.history.store import ImportReport, Store
from stockpot.ranking.history.table import Fact, Table, mean_scores

__all__ = [
    "Fact",
    "ImportReport",
    "Reading",
    "Store",
    "Table",
    "mean_scores",
    "read_results",
]
