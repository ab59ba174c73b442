"""Updatable models: contribute, review, accept in rounds, revert exactly. Above the verbs.

``contribution`` (what was proposed), ``tasks`` (what a maintainer measures), ``review`` (may it
come in, and why not), ``rounds`` (accept), ``history`` (what a line is made of, revert, replay).
"""

from stockpot.community.contribution import Contribution, contribute, contributions
from stockpot.community.history import history, measured, replay, revert
from stockpot.community.measuring import Meter
from stockpot.community.review import Review, refuse, review
from stockpot.community.rounds import accept
from stockpot.community.suites import MaintainerSuite
from stockpot.community.tasks import MaintainerTask, load_tasks

__all__ = [
    "Contribution",
    "MaintainerSuite",
    "MaintainerTask",
    "Meter",
    "Review",
    "accept",
    "contribute",
    "contributions",
    "history",
    "load_tasks",
    "measured",
    "refuse",
    "replay",
    "revert",
    "review",
]
