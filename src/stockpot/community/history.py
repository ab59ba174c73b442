"""What the newest version of a line is made of, and how to make it without something.

A version follows from the start of the line and the rounds of contributions since; so a
contribution is taken back by making the rest again. Weights are never subtracted. What was
fine-tuned from a version that held the contribution has seen it, and goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stockpot.community.combining import TANGENT, Round, combine, parse_round
from stockpot.community.contribution import (
    COMPONENT,
    Contribution,
    KnownContributions,
    find_contribution,
)
from stockpot.community.measuring import Meter, words
from stockpot.errors import InputError, StockpotError
from stockpot.registry import Registry, checkout
from stockpot.registry.documents import Document

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.schema import Certificate


@dataclass(frozen=True)
class History:
    """A line: its first model, and the rounds that lead to its newest version."""

    line: str
    start: str
    rounds: tuple[Round, ...]
    versions: int

    @property
    def accepted(self) -> tuple[str, ...]:
        """Contributions in the newest version."""
        return tuple(each for turn in self.rounds for each in turn.contributions)


@dataclass(frozen=True)
class Reverted:
    """A version without ``contribution``; ``dropped`` went with it, having seen it.

    ``certificate``: for a tangent component, see ``forgetting``; it is kept with the version.
    """

    model: str
    version: int
    contribution: str
    dropped: tuple[str, ...]
    rounds: tuple[Round, ...]
    certificate: Certificate | None = None


def history(registry: Registry, line: str, *, whole: bool = True) -> History:
    """Read a line's events.

    Raises ``InputError`` where there is no such line, and with ``whole`` also where a version
    cannot be read, so that nobody knows what the newest one is made of. Without, that is passed
    over.
    """
    versions = registry.line(line)
    if not versions:
        raise InputError(
            f"there is no line '{line}'",
            hint="stockpot registry verify names entries that cannot be read",
        )
    last = registry.last_version(line)
    start: str = versions[0]["model"]
    rounds: list[Round] = []
    known = 0 if versions[0]["number"] != 1 else 1
    for version in versions[1:]:
        event, number = version["event"], version["number"]
        if event.get("what") == "accept":
            rounds.append(parse_round({**event, "model": version["model"]}))
            known = number if known == number - 1 else known
        elif event.get("what") == "revert":
            rounds = [parse_round(each) for each in event["rounds"]]
            known = number if known == number - 1 else known
        else:
            start, rounds, known = version["model"], [], number
    if whole and known != last:
        raise InputError(
            f"version {known + 1} of the line '{line}' cannot be used, so that nobody knows what "
            "the newest one is made of",
            hint="stockpot registry verify names it; stockpot registry add MODEL --line "
            f"{line} starts anew",
        )
    return History(line, start, tuple(rounds), last)


def remake(
    registry: Registry, line: str, start: str, rounds: Sequence[Round], without: Sequence[str]
) -> tuple[list[Round], list[str]]:
    """Make the rounds again without some contributions; also which others had to go with them.

    A round that nothing changes for keeps its version. Components stand on the start of the line
    alone, so that none of them has seen another.
    """
    known = KnownContributions(registry)
    gone, dropped = set(without), list[str]()
    made: list[Round] = []
    sound = {start}
    before, old = start, start
    for turn in rounds:
        kept: list[Contribution] = []
        for ident in turn.contributions:
            if ident in gone:
                continue
            if turn.method != TANGENT and known[ident].base not in sound:
                dropped.append(ident)
                continue
            kept.append(known[ident])
        if len(kept) == len(turn.contributions) and before == old:
            model = turn.model
        elif kept:
            model = combine(
                registry,
                line,
                len(made) + 1,
                before,
                kept,
                turn.method,
                turn.parameters,
                earlier=_components(made, known),
            ).id
        else:
            old = turn.model
            continue
        made.append(
            Round(tuple(sorted(each.id for each in kept)), turn.method, turn.parameters, model)
        )
        before, old = model, turn.model
        sound.add(model)
    return made, dropped


def revert(
    registry: Registry,
    contribution: Contribution | str,
    *,
    meter: Meter | None = None,
    why: str = "",
) -> Reverted:
    """Take a contribution back: the newest version becomes the one that never saw it.

    The version has the bytes that the same rounds give where the contribution never came: every
    tensor comes from the start of the line and the other contributions. Contributions that were
    fine-tuned from a version with it are taken back too and named.
    Raises ``InputError`` for one that is not in the newest version.
    """
    found = (
        find_contribution(registry, contribution) if isinstance(contribution, str) else contribution
    )
    past = history(registry, found.line)
    if found.id not in past.accepted:
        raise InputError(f"{found.name} is not in the newest version of the line '{found.line}'")
    rounds, dropped = remake(registry, found.line, past.start, past.rounds, [found.id])
    model = rounds[-1].model if rounds else past.start
    certificate = _certificate(registry, past, rounds, model) if found.kind == COMPONENT else None
    names = KnownContributions(registry)
    said = f"without {found.name}" + (f" ({why})" if why else "")
    if dropped:
        said += (
            f"; with it went {', '.join(names[each].name for each in dropped)}, which had seen it"
        )
    event: Document = {
        "what": "revert",
        "contribution": found.id,
        "dropped": dropped,
        "rounds": [each.to_json() for each in rounds],
        "words": said,
    }
    if certificate is not None:
        event["certificate"] = certificate.to_json()
    event |= measured(registry, model, meter)
    version = registry.advance(found.line, model, event, after=past.versions)
    return Reverted(model, version, found.id, tuple(dropped), tuple(rounds), certificate)


def _certificate(
    registry: Registry, past: History, rounds: Sequence[Round], model: str
) -> Certificate:
    from stockpot.community.forgetting import certify_revert

    known = KnownContributions(registry)
    # The last round's sum is the one in the version: its weights count.
    turns = [turn for turn in rounds if turn.method == TANGENT]
    parameters = turns[-1].parameters if turns else {}
    return certify_revert(
        registry,
        _components(past.rounds, known),
        _components(rounds, known),
        parameters,
        (past.rounds[-1].model, model),
    )


def replay(registry: Registry, line: str) -> str:
    """Make the newest version again from the start of the line, and compare: its id.

    Raises ``StockpotError`` where the bytes differ, naming the round.
    """
    past = history(registry, line)
    known = KnownContributions(registry)
    before = past.start
    for number, turn in enumerate(past.rounds, 1):
        members = [known[each] for each in turn.contributions]
        earlier = _components(past.rounds[: number - 1], known)
        made = combine(
            registry, line, number, before, members, turn.method, turn.parameters, earlier=earlier
        )
        if made.id != turn.model:
            raise StockpotError(
                f"round {number} of '{line}' gives {made.digest[:12]} when made again, "
                f"its version is {registry.manifest(turn.model).digest[:12]}"
            )
        before = made.id
    return before


def measured(registry: Registry, model: str, meter: Meter | None) -> Document:
    """Scores of a version for its event; nothing without tasks."""
    if meter is None or not meter.tasks:
        return {}
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="stockpot-measure-") as scratch:
        folder = Path(scratch) / "model"
        manifest = checkout(registry, model, folder)
        scores = meter.means(manifest.digest, folder)
    return {"scores": scores, "said": words(scores)}


def _components(rounds: Sequence[Round], known: Mapping[str, Contribution]) -> list[Contribution]:
    return [known[each] for turn in rounds if turn.method == TANGENT for each in turn.contributions]
