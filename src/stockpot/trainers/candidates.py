"""The protocols as candidates of a soup: each averages the trainings of its own pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stockpot.recycling.protocols import Pool, Protocol
from stockpot.soups.candidates import CandidateMaker

NAMES = {"erm": "best", "linear_probe": "base", "soup_uniform": "uniform"}
"""Protocols that a soup knows under another name."""


@dataclass
class ProtocolMaker(CandidateMaker):
    """Makes the candidates of ``protocols``, the best single training first.

    ``pools``: the ingredients that each pool has. Every ingredient is scored as it is.
    """

    judges_all = True
    protocols: Sequence[Protocol] = ()
    pools: Mapping[Pool, Sequence[int]] = field(default_factory=dict)

    @property
    def ordinary(self) -> Sequence[int]:
        """The plain trainings."""
        return self.pools.get("plain", ()) or range(self.blends.count)

    def cheap(self) -> None:
        """One candidate for each protocol that has trainings enough."""
        self.score_singles()
        for protocol in self.protocols:
            self._candidate(protocol)
            self.need_best()

    def _candidate(self, protocol: Protocol) -> None:
        name, label = NAMES.get(protocol.name, protocol.name), protocol.label
        members = self.pools.get(protocol.pool, ())
        if protocol.pool == "probe":
            self.add_base("the base, not fine-tuned")
            return
        if protocol.select == "first two":
            members = members[:2]
        if protocol.combine in ("mean", "stock") and len(members) < 2:
            self.notes.append(f"{label} is left out: it has {len(members)} trainings")
        elif protocol.combine == "interpolate":
            self.add_curve(name, label, self.rows[0])
        elif protocol.combine == "half":
            self.add_curve(name, label, self.rows[0], [0.5])
        elif protocol.combine == "stock":
            self.add_stock(name, label, members)
        elif protocol.select == "greedy":
            self.add_greedy(name, label, members)
        elif protocol.combine == "mean":
            self.add_mean(name, label, members)
        else:
            self.add_best(name, label, members)
