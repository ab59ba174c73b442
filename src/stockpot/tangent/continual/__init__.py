"""Continual learning as a protocol: tasks in order, methods side by side, measures, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.tangent.continual.run import Compared, compare, plan_recipe

__all__ = ["Compared", "compare", "plan_recipe"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'stockpot.tangent.continual' has no attribute '{name}'")
    from stockpot.tangent.continual import run

    return getattr(run, name)
