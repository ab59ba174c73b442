"""Contributions to a line: what is in, what waits and why; accept, refuse, revert.

The only module here that knows ``stockpot.community``.
"""

from __future__ import annotations

import shlex
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
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
    refuse,
    revert,
)
from stockpot.community.contribution import COMPONENT, find_contribution
from stockpot.community.measuring import Meter
from stockpot.community.review import last_review
from stockpot.errors import InputError
from stockpot.registry import Registry
from stockpot.registry.signing import signers
from stockpot.report.community import chart, legend
from stockpot.web.data import LineView

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
    ``passed``, ``words``. ``commands``: what can be done with it, and the command that does it.
    ``signed``: by whom, in words.
    """

    contribution: Contribution
    state: str
    reason: str
    checks: tuple[dict[str, Any], ...]
    back: bool
    commands: tuple[tuple[str, str], ...]
    signed: str

    @property
    def id(self) -> str:
        return self.contribution.id


def proposals(place: str, line: str) -> list[Proposal]:
    """All contributions to a line, those in its newest version first."""
    with Registry(place) as registry:
        inside = set(history(registry, line, whole=False).accepted)
        ever = {
            ident
            for version in registry.line(line)
            for ident in version["event"].get("contributions", ())
        }
        every = contributions(registry)
        names = Counter(each.name for each in every)
        found = [
            _proposal(registry, each, inside, ever, place, names[each.name] == 1)
            for each in every
            if each.line == line
        ]
    order = ("in", "passed", "new", "refused")
    return sorted(found, key=lambda each: order.index(each.state))


def scores(line: LineView) -> dict[str, Any]:
    """Pictures of the scores of a line's versions, and marks of the tasks in them."""
    events = [(version["number"], version["event"]) for version in line.versions]
    found = [(number, event["scores"]) for number, event in events if event.get("scores")]
    tasks = list(dict.fromkeys(name for _, each in found for name in each))
    return {
        "wide": Markup(chart(found, tasks, "scores-wide", 1108, 330)),
        "narrow": Markup(chart(found, tasks, "scores-narrow", 358, 300)),
        "tasks": [(name, Markup(legend(index))) for index, name in enumerate(tasks)],
    }


def _proposal(
    registry: Registry,
    found: Contribution,
    inside: set[str],
    ever: set[str],
    place: str,
    unique: bool,
) -> Proposal:
    done = last_review(registry, found) or {}
    state = "new" if not done else "passed" if done["accepted"] else "refused"
    state = "in" if found.id in inside else state
    return Proposal(
        found,
        state,
        done.get("reason", ""),
        tuple(done.get("checks", ())),
        back=found.id in ever - inside,
        commands=tuple(_commands(found, state, place, unique)),
        signed=", ".join(map(str, signers(registry, "contribution", found.digest))),
    )


def _commands(
    found: Contribution, state: str, place: str, unique: bool
) -> Iterator[tuple[str, str]]:
    """What a maintainer may type instead of pressing a button, to be copied as it is."""
    name, where = found.name if unique else found.id, f"-r {shlex.quote(place)}"
    name = shlex.quote(name)
    if state == "in":
        yield "Take it back", f"stockpot revert {name} {where} --why 'REASON'"
        return
    if state == "passed":
        method = " --method tangent" if found.kind == COMPONENT else ""
        yield "Accept", f"stockpot accept {name} {where}{method}"
    yield "Review", f"stockpot review {name} {where} --tasks tasks.yaml"
    if state != "refused":
        yield "Refuse", f"stockpot review {name} {where} --refuse 'REASON'"


class Maintainer:
    """Accepts, refuses and reverts, one thing at a time.

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

    def refuse(self, place: str, line: str, contribution: str, why: str) -> str:
        """Refuse a contribution for a reason; what happened in words. Raises ``StockpotError``."""
        with self._turn, Registry(place) as registry:
            found = _of_line(registry, line, contribution)
            refuse(registry, found, why)
            return f"{found.name} is refused. A new review can change that."

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
