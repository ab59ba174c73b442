"""Continual learning as a protocol: tasks in order, methods side by side, measures, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.continual.run import Compared, compare, plan_recipe

__all__ = ["Compared", "compare", "plan_recipe"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(dict.fromkeys(__all__, f"{__name__}.run"), __name__, name)
