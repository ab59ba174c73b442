"""How good, how different, how connected: measurements on finished runs, numpy only.

``metrics`` (scores), ``diversity`` (do members err differently), ``connectivity`` (what lies
between two sets of weights), ``intervals`` (how sure are we), ``selection`` (which members),
``evidence`` and ``diagnosis`` (why an average worked or not), ``wording`` (numbers in words).
"""

from stockpot.evaluation.connectivity import Connectivity, barrier, curve, interpolate
from stockpot.evaluation.diagnosis import diagnose, worth_averaging
from stockpot.evaluation.diversity import Diversity, mean_diversity, ratio_error
from stockpot.evaluation.evidence import Diagnosis, Member, PairBarrier, SoupEvidence, Thresholds
from stockpot.evaluation.intervals import Difference, Estimate, Interval, paired_bootstrap
from stockpot.evaluation.metrics import METRICS, Metric, accuracy, correct, ensemble
from stockpot.evaluation.selection import Selection, best, greedy_soup, validation_score

__all__ = [
    "METRICS",
    "Connectivity",
    "Diagnosis",
    "Difference",
    "Diversity",
    "Estimate",
    "Interval",
    "Member",
    "Metric",
    "PairBarrier",
    "Selection",
    "SoupEvidence",
    "Thresholds",
    "accuracy",
    "barrier",
    "best",
    "correct",
    "curve",
    "diagnose",
    "ensemble",
    "greedy_soup",
    "interpolate",
    "mean_diversity",
    "paired_bootstrap",
    "ratio_error",
    "validation_score",
    "worth_averaging",
]
