"""Diagnoses gathered per protocol: where an average was ahead of its members, and why if not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.evidence import Finding, Position
from stockpot.recycling.schema import RecycleResults
from stockpot.report.compared import average_claims
from stockpot.report.numbers import typographic

SIGNS: dict[Position, str] = {
    "not measured": "○",
    "ahead": "▲",
    "no difference": "●",
    "behind": "▼",
}
# Files written before a diagnosis spoke of one cell's rows only.
_OLD: dict[str, Position] = {"helped": "ahead", "hurt": "behind"}


@dataclass(frozen=True)
class Reason:
    """One diagnosis: where, what it says, and how often the same was said."""

    protocol: str
    domain: str
    trial: int
    verdict: Position
    code: str
    words: str
    findings: tuple[Finding, ...] = ()
    times: int = 1

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class ProtocolReasons:
    """All diagnoses of a protocol.

    ``claim``: over all domains and trials, the average against its members' mean (None for old
    files); whether averaging helped is said by it alone.
    """

    protocol: str
    label: str
    claim: Claim | None
    all: tuple[Reason, ...]

    @property
    def counts(self) -> str:
        """How often each verdict was given."""
        total = len(self.all)
        if total == 1:
            return self.all[0].verdict
        parts = [
            f"{verdict} in {number} of {total}"
            for verdict in SIGNS
            if (number := sum(one.verdict == verdict for one in self.all))
        ]
        return ", ".join(parts)

    @property
    def cells(self) -> dict[str, list[Reason]]:
        """By domain."""
        cells: dict[str, list[Reason]] = {}
        for one in self.all:
            cells.setdefault(one.domain, []).append(one)
        return cells

    @property
    def reasons(self) -> list[Reason]:
        """One example of each verdict and reason, the gravest first."""
        order = list(reversed(SIGNS))
        groups: dict[tuple[Position, str], list[Reason]] = {}
        for one in self.all:
            groups.setdefault((one.verdict, one.code), []).append(one)
        keys = sorted(groups, key=lambda key: (order.index(key[0]), -len(groups[key])))
        return [replace(groups[key][0], times=len(groups[key])) for key in keys]


def reasons(results: RecycleResults) -> list[ProtocolReasons]:
    """One entry for each protocol that was diagnosed."""
    claims = average_claims(results)
    known: dict[str, list[Reason]] = {}
    for cell in results.cells:
        for one in cell.diagnosis:
            verdict = _OLD.get(one.verdict) or cast("Position", one.verdict)
            words, domain = typographic(one.words), str(cell.held_out)
            where = (one.protocol, domain, cell.trial)
            reason = Reason(*where, verdict, one.code, words, one.findings)
            known.setdefault(one.protocol, []).append(reason)
    labels = {row.protocol: row.label for row in results.table}
    return [
        ProtocolReasons(
            protocol, labels.get(protocol, protocol), claims.get(protocol), tuple(entries)
        )
        for protocol, entries in known.items()
    ]
