"""A protocol that runs in a second: six classes of points on a small base."""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.tasks import Task, build_task, named_generator

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def points(rows: int = 40) -> Task:
    """Six clusters in six dimensions, ``rows`` examples each."""
    centres = named_generator(5, "centres").standard_normal((6, 6)) * 1.6
    labels = np.repeat(np.arange(6), rows)
    noise = named_generator(6, "noise").standard_normal((len(labels), 6))
    return build_task(
        name="points",
        kind="classification",
        modality="array",
        domains=["all"],
        classes=CLASSES,
        inputs=(centres[labels] + noise).astype(np.float32),
        labels=labels,
        domain_ids=np.zeros(len(labels), dtype=np.int64),
        fingerprint=f"points-{rows}",
        where="tiny.py",
    )


def recipe(**more: Any) -> dict[str, Any]:
    """The recipe as plain data."""
    return {
        "title": "Points",
        "task": {"kind": "function", "function": "tests.continual.tiny:points"},
        "data": {"test_per_class": 10},
        "backbone": {"kind": "function", "name": "tests.recycling.tiny:net"},
        "settings": [{"mode": "class", "classes": 2}],
        "trials": 2,
        "tangent": {"epochs": 20, "learning_rate": 2e-2, "schedule": "cosine"},
        "nonlinear": {"epochs": 20, "learning_rate": 2e-2, "loss": "cross_entropy"},
        "features": {"dimension": 64, "directions": 2, "random_dimension": 64},
        **more,
    }
