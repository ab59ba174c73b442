"""What the numbers of a comparison are about: domains never seen, or rows never seen."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.recycling.schema import RecycleResults


@dataclass(frozen=True)
class Judged:
    """Phrases: ``on`` follows a number, ``title`` and ``tile`` are headings, ``rows`` are what is
    judged on, ``part`` is a column of the table, ``axis`` stands beside a value, ``cell`` and
    ``column`` head columns of the runs.
    """

    on: str
    title: str
    tile: str
    rows: str
    part: str
    axis: str
    cell: str
    column: str


_DOMAINS = Judged(
    on="on domains it has never seen",
    title="on domains never trained on",
    tile="held-out domains",
    rows="held-out domain",
    part="held-out domain",
    axis="held out",
    cell="Held out",
    column="Held-out",
)
_ROWS = Judged(
    on="on test rows of the same source",
    title="on test rows of the same source",
    tile="test rows",
    rows="test rows",
    part="domain",
    axis="test rows",
    cell="Judged",
    column="Test",
)


def judged(results: RecycleResults) -> Judged:
    """The phrases for ``results``, which judges on held-out domains unless it says otherwise."""
    return _ROWS if results.task.judged_on == "test rows" else _DOMAINS
