"""Accept contributions: one new version of a line out of those that came together.

Rounds as in ColD Fusion (Don-Yehiya et al. 2023, arXiv 2212.01378): contributors fine-tune the
newest version, each on data of their own; their models are averaged into the next one, from which
all start again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.community.combining import TANGENT, Round, check_members, combine
from stockpot.community.contribution import Contribution, KnownContributions, find_contribution
from stockpot.community.history import history, measured
from stockpot.community.measuring import Meter
from stockpot.community.review import last_review
from stockpot.errors import InputError
from stockpot.registry import Manifest, Registry, checkout
from stockpot.registry.documents import Document
from stockpot.registry.withdrawn import check_model


@dataclass(frozen=True)
class Accepted:
    """A new version of a line and its scores on the maintainer's tasks, where there are any."""

    model: str
    version: int
    round: Round
    scores: Mapping[str, Mapping[str, float]]


def accept(
    registry: Registry,
    chosen: Sequence[Contribution | str],
    *,
    method: str = "linear",
    parameters: Mapping[str, Any] | None = None,
    meter: Meter | None = None,
    force: bool = False,
) -> Accepted:
    """Bring contributions to one line together into its next version.

    ``method``: "linear" (soup, ColD Fusion), "stock" (Model Stock), "task_arithmetic", any other
    merge method, or "tangent" for components. With a ``meter`` the new version is measured before
    the line moves, and must hold on every task.

    Raises ``InputError`` for a contribution that was not reviewed, or refused (``force`` accepts it
    all the same), that is in already or was withdrawn, or where the new version is worse on a task
    than the one before by more than the task's tolerance.
    """
    found = [find_contribution(registry, c) if isinstance(c, str) else c for c in chosen]
    if not found:
        raise InputError("no contribution was given")
    lines = {each.line for each in found}
    if len(lines) > 1:
        raise InputError(f"contributions to several lines: {', '.join(sorted(lines))}")
    line = lines.pop()
    past = history(registry, line)
    before = past.rounds[-1].model if past.rounds else past.start
    for each in found:
        if each.id in past.accepted:
            raise InputError(f"{each.name} is in the line '{line}' already")
        if not force:
            _check_reviewed(registry, each)
    check_members(registry, before, found, method)
    known = KnownContributions(registry)
    earlier = [
        known[ident]
        for turn in past.rounds
        if turn.method == TANGENT
        for ident in turn.contributions
    ]
    for each in (*earlier, *found):
        check_model(registry, each.model)
    number = len(past.rounds) + 1
    made = combine(registry, line, number, before, found, method, parameters or {}, earlier=earlier)
    if meter is not None and meter.tasks and not force:
        _check_holds(registry, made, before, meter)
    turn = Round(tuple(sorted(each.id for each in found)), method, dict(parameters or {}), made.id)
    names = ", ".join(sorted(each.name for each in found))
    event: Document = {"what": "accept", "round": number, **turn.to_json()}
    event["words"] = f"round {number}: {names} by {method}"
    event |= measured(registry, made.id, meter)
    if not force:
        for each in found:  # somebody may have refused it meanwhile
            _check_reviewed(registry, each)
    version = registry.advance(line, made.id, event, after=past.versions)
    return Accepted(made.id, version, turn, event.get("scores", {}))


def _check_reviewed(registry: Registry, contribution: Contribution) -> None:
    done = last_review(registry, contribution)
    if done is None:
        raise InputError(
            f"{contribution.name} has not been reviewed",
            hint=f"stockpot review {contribution.name}",
        )
    if not done["accepted"]:
        raise InputError(f"{contribution.name} was refused: {done['reason']}")


def _check_holds(registry: Registry, made: Manifest, before: str, meter: Meter) -> None:
    with tempfile.TemporaryDirectory(prefix="stockpot-accept-") as scratch:
        place = Path(scratch)
        old = checkout(registry, before, place / "old")
        checkout(registry, made, place / "new")
        meter.prepare([(made.digest, place / "new"), (old.digest, place / "old")])
        for task in meter.tasks:
            estimate = meter.against(
                task, (made.digest, place / "new"), (old.digest, place / "old")
            )
            gap = estimate.difference
            assert gap is not None
            if not task.holds(gap):
                raise InputError(
                    f"the new version loses {-gap.mean:.1%} on the task '{task.name}' "
                    f"({gap.low:+.1%} to {gap.high:+.1%}; {task.limit}): "
                    "the line stays where it is",
                    hint="accept fewer contributions, or combine them by another method",
                )
