"""Recycle fine-tuned models: rank, recycle, merge, inspect.

    >>> import stockpot
    >>> done = stockpot.recycle("recipe.yaml", output="recycled")
    >>> print(stockpot.predict("recycled/model", ["A joy from start to finish."]).labels)
    >>> stockpot.merge(["a", "b"], method="stock", base="base", output="merged")
    >>> print(stockpot.inspect(["a", "b"], base="base").verdict)

Every command is a function of the same words: ``stockpot history add`` is ``stockpot.history.add``.
Importing the package loads nothing; each function imports what it needs when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute, wanting
from stockpot.version import VERSION

if TYPE_CHECKING:
    from stockpot import continual, errors, history, tangent
    from stockpot.checkpoints import open_checkpoint
    from stockpot.community import accept, contribute, revert, review
    from stockpot.hub import pull, push
    from stockpot.inference import evaluate, export, predict
    from stockpot.inspection import compare, inspect
    from stockpot.merging import load_recipe, merge
    from stockpot.ranking import rank
    from stockpot.recycling import recycle
    from stockpot.registry import Registry
    from stockpot.report import write_report

__version__ = VERSION

_MODULES = frozenset({"continual", "errors", "history", "tangent"})

_HOMES = {
    "Registry": "stockpot.registry",
    "accept": "stockpot.community",
    "compare": "stockpot.inspection",
    "contribute": "stockpot.community",
    "evaluate": "stockpot.inference",
    "export": "stockpot.inference",
    "inspect": "stockpot.inspection",
    "load_recipe": "stockpot.merging",
    "merge": "stockpot.merging",
    "open_checkpoint": "stockpot.checkpoints",
    "predict": "stockpot.inference",
    "pull": "stockpot.hub",
    "push": "stockpot.hub",
    "rank": "stockpot.ranking",
    "recycle": "stockpot.recycling",
    "revert": "stockpot.community",
    "review": "stockpot.community",
    "write_report": "stockpot.report",
}

__all__ = [
    "Registry",
    "__version__",
    "accept",
    "compare",
    "continual",
    "contribute",
    "errors",
    "evaluate",
    "export",
    "history",
    "inspect",
    "load_recipe",
    "merge",
    "open_checkpoint",
    "predict",
    "pull",
    "push",
    "rank",
    "recycle",
    "revert",
    "review",
    "tangent",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        with wanting():
            return import_module(f"{__name__}.{name}")
    return attribute(_HOMES, __name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
