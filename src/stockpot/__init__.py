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

from typing import TYPE_CHECKING

from stockpot.extras import lazily
from stockpot.version import VERSION

if TYPE_CHECKING:
    from stockpot import continual, errors, history, tangent
    from stockpot.averaging import average
    from stockpot.checkpoints import open_checkpoint
    from stockpot.community import accept, contribute, revert
    from stockpot.community.review import review
    from stockpot.hub import pull, push
    from stockpot.inference import evaluate, export, predict
    from stockpot.inspection import compare, inspect
    from stockpot.inspection.guarded import merge
    from stockpot.merging import load_recipe
    from stockpot.ranking import rank
    from stockpot.recycling import recycle
    from stockpot.registry import Registry
    from stockpot.report import write_report
    from stockpot.soups import soup

__version__ = VERSION

__all__ = [
    "Registry",
    "__version__",
    "accept",
    "average",
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
    "soup",
    "tangent",
    "write_report",
]

__getattr__ = lazily(
    __name__,
    {
        "averaging": "average",
        "checkpoints": "open_checkpoint",
        "community": "accept contribute revert review",
        "continual": "",
        "errors": "",
        "history": "",
        "hub": "pull push",
        "inference": "evaluate export predict",
        "inspection": "compare inspect",
        "inspection.guarded": "merge",
        "merging": "load_recipe",
        "ranking": "rank",
        "recycling": "recycle",
        "registry": "Registry",
        "report": "write_report",
        "soups": "soup",
        "tangent": "",
    },
)


def __dir__() -> list[str]:
    return __all__
