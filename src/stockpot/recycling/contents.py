"""What an outcome's weights are by content: the linear probe's, one run's, or an average."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stockpot.execution import Job
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.plan import Cell
from stockpot.recycling.protocols import PROTOCOLS

NOTHING = "all that it holds ended as what they started from"


@dataclass(frozen=True)
class Content:
    """The weights of a protocol in one cell.

    ``shares``: how much of them each different run is; runs with the same weights are one, and the
    linear probe holds none. ``is_probe``: they are the linear probe's, to the bit. ``is_average``:
    two different weights or more were averaged, of runs, along a run, or with the base.
    ``instead``: why a protocol that trains is the linear probe all the same.
    """

    shares: Mapping[str, float]
    is_probe: bool
    is_average: bool
    instead: str | None


def content_of(name: str, cell: Cell, folders: Mapping[Job, Path]) -> Content:
    """Compare the files of a finished protocol with those of its members and of the probe."""
    protocol, job = PROTOCOLS[name], cell.models[name]
    weights = folders[job] / "model.safetensors"
    metrics = read_metrics(folders[job])
    files = {
        member: folders[job.inputs[f"run:{member}"]] / f"{protocol.take}.safetensors"
        for member in metrics.members
    }
    if is_same(weights, folders[cell.probe] / "model.safetensors"):
        instead = None if protocol.pool == "probe" else metrics.how.instead or NOTHING
        return Content({}, is_probe=True, is_average=False, instead=instead)
    shares: dict[str, float] = {}
    for file in files.values():
        first = next(member for member, other in files.items() if is_same(file, other))
        shares[first] = shares.get(first, 0.0) + 1 / len(files)
    is_run = any(is_same(weights, file) for file in files.values())
    return Content(shares, False, protocol.averages_along or not is_run, None)


def is_same(first: Path, second: Path) -> bool:
    """Whether two files of weights hold the same bytes."""
    return first == second or filecmp.cmp(first, second, shallow=False)
