"""What transferability scores are worth, measured by stockpot: the shipped set.

``benchmarks/first_contact.py`` really fine-tunes models that packages bring on tasks that packages
bring, and writes ``shipped.json`` from them: per score its gain, noise and usual spread, how scores
err together, which of them leads, by how much they improved a ranking, and what networks reach that
nobody trained before. It decides where a history cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from stockpot.ranking.posterior.evidence import ScorePanel, Sensor, Untrained
from stockpot.ranking.posterior.fallback import Trust, shrunk
from stockpot.results import ResultPart

FILE = Path(__file__).with_suffix(".json")
# What is assumed of a score that nobody ever tested.
_GAIN, _REPEATS, _NOISE = 0.4, 0.4, 0.8


class ShippedScore(ResultPart):
    """``gain``: of the score, in its usual ``spread``, per usual spread of the truth."""

    gain: float
    spread: float


class BesideHistory(ResultPart):
    """The gain in ranking by scores beside a history, its standard error, over so many tasks."""

    gain: float
    error: float
    tasks: int


class ShippedUntrained(ResultPart):
    """As :class:`.evidence.Untrained`."""

    gap: float
    spread: float
    best: int
    tasks: int


class ShippedSet(ResultPart):
    """What ``shipped.json`` holds. ``noise``: between scores, in their order; ``lead``: the score
    beside which the others count for nothing."""

    tasks: int
    scores: Mapping[str, ShippedScore]
    noise: tuple[tuple[float, ...], ...]
    lead: str
    beside_history: BesideHistory
    untrained: ShippedUntrained


@cache
def shipped() -> ScorePanel:
    """The panel of the shipped set."""
    return read(ShippedSet.model_validate_json(FILE.read_text(encoding="utf-8")))


def read(content: ShippedSet) -> ScorePanel:
    """The panel that :func:`written` has put down."""
    beside = content.beside_history
    sensors = tuple(
        Sensor(
            name,
            own.gain,
            _REPEATS,
            own.spread,
            own.gain > 0.0,
            f"never tested on this history; gain {own.gain:.2f} over {content.tasks} tasks of the "
            "shipped set"
            + (f", beside {content.lead} none" if name != content.lead and own.gain else ""),
        )
        for name, own in content.scores.items()
    )
    noise = np.array(content.noise, dtype=np.float64).reshape(len(sensors), len(sensors))
    belief = shrunk(beside.gain, beside.error, beside.tasks) if beside.tasks else Trust()
    untrained = Untrained(**vars(content.untrained))
    return ScorePanel(sensors, noise, belief, content.lead, untrained)


def written(panel: ScorePanel, tasks: int) -> ShippedSet:
    """A panel as plain data; its trust is the gain in ranking beside a history."""
    belief, untrained = panel.trust, panel.untrained
    return ShippedSet(
        tasks=tasks,
        scores={
            own.name: ShippedScore(gain=round(own.gain, 3), spread=float(f"{own.spread:.3g}"))
            for own in panel.sensors
        },
        noise=tuple(tuple(row) for row in np.round(np.nan_to_num(panel.noise), 3).tolist()),
        lead=panel.lead,
        beside_history=BesideHistory(
            gain=round(belief.gain, 3), error=round(belief.error, 3), tasks=belief.tasks
        ),
        untrained=ShippedUntrained(
            gap=round(untrained.gap, 2),
            spread=round(untrained.spread, 2),
            best=untrained.best,
            tasks=untrained.tasks,
        ),
    )


def assumed(name: str) -> ScorePanel:
    """The panel of one score without any record."""
    reason = f"never tested on this history: a gain of {_GAIN:g} is assumed"
    sensor = Sensor(name, _GAIN, _REPEATS, float("nan"), True, reason)
    return ScorePanel((sensor,), np.array([[_NOISE]]))
