"""Contributions to a line: what is in, what waits and why, accept and revert.

The only module here that knows ``stockpot.community``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stockpot.community import (
    Contribution,
    accept,
    contributions,
    history,
    load_tasks,
    revert,
)
from stockpot.community.contribution import find_contribution
from stockpot.community.measuring import Meter
from stockpot.community.review import last_review
from stockpot.errors import InputError
from stockpot.registry import Registry
from stockpot.report.community import chart, legend
from stockpot.web.data import Line

# What a form offers; a contribution that is a component goes by "tangent" alone.
METHODS = {
    "linear": "Average (soup)",
    "stock": "Model Stock",
    "task_arithmetic": "Task arithmetic",
    "tangent": "Tangent sum (components)",
}


@dataclass(frozen=True)
class Proposal:
    """A contribution and what became of it.

    ``state``: "in" the newest version, "passed" or "refused" by its last review, "new" before any.
    ``back``: it was in, and was taken back. ``checks`` are those of the review: ``name``,
    ``passed``, ``words``.
    """

    contribution: Contribution
    state: str
    reason: str
    checks: tuple[dict[str, Any], ...]
    back: bool

    @property
    def id(self) -> str:
        return self.contribution.id


def proposals(place: str, line: str) -> list[Proposal]:
    """All contributions to a line, those in its newest version first."""
    with Registry(place) as registry:
        inside = set(history(registry, line).accepted)
        ever = {
            ident
            for version in registry.line(line)
            for ident in version["event"].get("contributions", ())
        }
        found = [_proposal(registry, each, inside, ever) for each in contributions(registry, line)]
    order = ("in", "passed", "new", "refused")
    return sorted(found, key=lambda each: order.index(each.state))


def scores(line: Line) -> dict[str, Any]:
    """Pictures of the scores of a line's versions, and marks of the tasks in them."""
    events = [version["event"] for version in line.versions]
    found = [(n, event["scores"]) for n, event in enumerate(events, 1) if event.get("scores")]
    tasks = list(dict.fromkeys(name for _, each in found for name in each))
    return {
        "wide": Markup(chart(found, tasks, "scores-wide", 1108, 330)),
        "narrow": Markup(chart(found, tasks, "scores-narrow", 358, 300)),
        "tasks": [(name, Markup(legend(index))) for index, name in enumerate(tasks)],
    }


def _proposal(
    registry: Registry, found: Contribution, inside: set[str], ever: set[str]
) -> Proposal:
    done = last_review(registry, found) or {}
    state = "new" if not done else "passed" if done["accepted"] else "refused"
    return Proposal(
        found,
        "in" if found.id in inside else state,
        done.get("reason", ""),
        tuple(done.get("checks", ())),
        back=found.id in ever - inside,
    )


class Maintainer:
    """Accepts and reverts, one thing at a time.

    ``tasks``: a file of tasks on which every new version must hold; scores are remembered.
    Raises ``InputError`` for a file that is none.
    """

    def __init__(self, tasks: Path | None = None) -> None:
        self._meter = None if tasks is None else Meter(load_tasks(tasks))
        self._turn = threading.Lock()

    def accept(self, place: str, line: str, chosen: Sequence[str], method: str) -> str:
        """Make the next version of a line; what happened in words. Raises ``StockpotError``."""
        if method not in METHODS:
            raise InputError(f"there is no method '{method}' here")
        with self._turn, Registry(place) as registry:
            found = [_of_line(registry, line, each) for each in chosen]
            done = accept(registry, found, method=method, meter=self._meter)
            return f"Version {done.version} of {line}: {_names(found)} by {METHODS[method]}."

    def revert(self, place: str, line: str, contribution: str, why: str) -> str:
        """Take a contribution back; what happened in words. Raises ``StockpotError``."""
        with self._turn, Registry(place) as registry:
            found = _of_line(registry, line, contribution)
            done = revert(registry, found, meter=self._meter, why=why)
            words = f"Version {done.version} of {line} has the bytes of one without {found.name}."
            if done.dropped:
                gone = [find_contribution(registry, each) for each in done.dropped]
                words += f" {_names(gone)} had seen it and went with it."
            return words


def _of_line(registry: Registry, line: str, ident: str) -> Contribution:
    found = find_contribution(registry, ident)
    if found.line != line:
        raise InputError(f"{found.name} is no contribution to the line '{line}'")
    return found


def _names(found: Sequence[Contribution]) -> str:
    return ", ".join(each.name for each in found)
