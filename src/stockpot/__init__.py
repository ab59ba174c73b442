"""Recycle fine-tuned models: rank, recycle, merge, inspect.

    >>> import stockpot
    >>> done = stockpot.recycle("recipe.yaml", output="recycled")
    >>> print(stockpot.predict("recycled/model", ["A joy from start to finish."]).labels)
    >>> stockpot.merge(["a", "b"], method="stock", base="base", output="merged")
    >>> print(stockpot.compare(["a", "b"], base="base").verdict)

Importing the package loads nothing; each function imports what it needs when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute
from stockpot.version import VERSION

if TYPE_CHECKING:
    from stockpot.checkpoints import open_checkpoint
    from stockpot.inference import evaluate, predict
    from stockpot.inspection import compare
    from stockpot.merging.merge import merge
    from stockpot.recycling import recycle
    from stockpot.report import write_report

__version__ = VERSION

_HOMES = {
    "compare": "stockpot.inspection",
    "evaluate": "stockpot.inference",
    "merge": "stockpot.merging",
    "open_checkpoint": "stockpot.checkpoints",
    "predict": "stockpot.inference",
    "recycle": "stockpot.recycling",
    "write_report": "stockpot.report",
}

__all__ = [
    "__version__",
    "compare",
    "evaluate",
    "merge",
    "open_checkpoint",
    "predict",
    "recycle",
    "write_report",
]


def __getattr__(name: str) -> Any:
    return attribute(_HOMES, __name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
