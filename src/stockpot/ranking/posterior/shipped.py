"""What transferability scores are worth, measured by stockpot: the shipped set.

``benchmarks/first_contact.py`` really fine-tunes models that packages bring on tasks that packages
bring, and writes ``shipped.json`` from them: per score its gain, noise and usual spread, how scores
err together, and by how much they improved a ranking. It decides where a history cannot.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.ranking.posterior.evidence import Panel, Sensor
from stockpot.ranking.posterior.fallback import Trust, shrunk

FILE = Path(__file__).with_suffix(".json")
# What is assumed of a score that nobody ever tested.
_GAIN, _REPEATS, _NOISE = 0.4, 0.4, 0.8


@cache
def shipped() -> Panel:
    """The panel of the shipped set."""
    return read(json.loads(FILE.read_text(encoding="utf-8")))


def read(content: dict[str, Any]) -> Panel:
    """The panel that :func:`written` has put down."""
    tasks, beside = int(content["tasks"]), content["beside_history"]
    sensors = tuple(
        Sensor(
            name,
            own["gain"],
            _REPEATS,
            own["spread"],
            own["gain"] > 0.0,
            f"never tested on this history; gain {own['gain']:.2f} over {tasks} tasks of the "
            "shipped set",
        )
        for name, own in content["scores"].items()
    )
    noise = np.array(content["noise"], dtype=np.float64).reshape(len(sensors), len(sensors))
    belief = shrunk(**beside) if beside["tasks"] else Trust()
    return Panel(sensors, noise, belief)


def written(panel: Panel, tasks: int) -> dict[str, Any]:
    """A panel as plain data; its trust is the gain in ranking beside a history."""
    return {
        "tasks": tasks,
        "scores": {
            each.name: {"gain": round(each.gain, 3), "spread": float(f"{each.spread:.3g}")}
            for each in panel.sensors
        },
        "noise": np.round(panel.noise, 3).tolist(),
        "beside_history": {
            "gain": round(panel.trust.gain, 3),
            "error": round(panel.trust.error, 3),
            "tasks": panel.trust.tasks,
        },
    }


def assumed(name: str) -> Panel:
    """The panel of one score without any record."""
    reason = f"never tested on this history: a gain of {_GAIN:g} is assumed"
    sensor = Sensor(name, _GAIN, _REPEATS, float("nan"), True, reason)
    return Panel((sensor,), np.array([[_NOISE]]))
