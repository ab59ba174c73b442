"""How good, how different, how connected: measurements on finished runs, numpy only.

``metrics`` (scores), ``diversity`` (do members err differently), ``connectivity`` (what lies
between two sets of weights), ``intervals`` (how sure are we), ``selection`` (which members),
``evidence`` and ``diagnosis`` (why an average worked or not), ``wording`` (numbers in words).
"""

from stockpot.evaluation.intervals import Estimate, Interval, paired_bootstrap
from stockpot.evaluation.metrics import correct, ensemble

__all__ = [
    "Estimate",
    "Interval",
    "correct",
    "ensemble",
    "paired_bootstrap",
]
