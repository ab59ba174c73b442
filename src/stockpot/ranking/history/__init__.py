"""What is known already: results of models on tasks, stored, imported, checked, ranked."""

from stockpot.ranking.history.cleaning import Misplaced, find_misplaced_rows
from stockpot.ranking.history.importers import (
    FORMATS,
    Imported,
    read_metadata,
    read_results,
    read_rows,
)
from stockpot.ranking.history.store import ImportReport, Store
from stockpot.ranking.history.table import Fact, Table, mean_scores, normal_scores

__all__ = [
    "FORMATS",
    "Fact",
    "ImportReport",
    "Imported",
    "Misplaced",
    "Store",
    "Table",
    "find_misplaced_rows",
    "mean_scores",
    "normal_scores",
    "read_metadata",
    "read_results",
    "read_rows",
]
