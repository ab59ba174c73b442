"""What an outcome costs to make again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stockpot.execution import Job
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.protocols import Protocol


def training_cost(protocol: Protocol, job: Job, folders: Mapping[Job, Path]) -> tuple[int, float]:
    """Training steps and seconds that an outcome needs from scratch, auxiliaries included."""
    runs = [need for name, need in job.inputs.items() if name.startswith("run:")]
    if protocol.select == "first two":
        runs = runs[:2]
    needed: set[Job] = set()
    for run in runs:
        needed |= {run, *(need for name, need in run.inputs.items() if name.startswith("init"))}
    steps, seconds = 0, 0.0
    for one in needed:
        metrics = read_metrics(folders[one])
        steps += metrics.steps
        seconds += metrics.seconds
    return steps, round(seconds, 1)
