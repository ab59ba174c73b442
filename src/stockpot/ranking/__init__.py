"""Which pretrained model to start from: scores, history, and the posterior that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.ranking.gram import Moments
    from stockpot.ranking.scores import Evidence, compute, defined
    from stockpot.ranking.verb import Ranked, plan_rank, rank

__all__ = ["Evidence", "Moments", "Ranked", "compute", "defined", "plan_rank", "rank"]

_HOMES = {
    "Evidence": "stockpot.ranking.scores",
    "Moments": "stockpot.ranking.gram",
    "Ranked": "stockpot.ranking.verb",
    "compute": "stockpot.ranking.scores",
    "defined": "stockpot.ranking.scores",
    "plan_rank": "stockpot.ranking.verb",
    "rank": "stockpot.ranking.verb",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(_HOMES, __name__, name)
