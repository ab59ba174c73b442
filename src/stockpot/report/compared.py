"""The claims in a results file: those it holds, and for old files those that its numbers allow."""

from __future__ import annotations

from dataclasses import fields

from stockpot.evaluation.claims import HELD_OUT, Claim, Covers, Verdict, verdict_of
from stockpot.evaluation.intervals import Interval
from stockpot.recycling.schema import RecycleResults, RowGap, TableRow

MARKS: dict[Verdict, str] = {
    "better": " ",
    "worse": " ",
    "no difference": "=",
    "not testable": "~",
}
"""Before a difference in a terminal."""
CSS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no difference": "level",
    "not testable": "level",
}
# What a newcomer would have done instead, nearest first.
SIMPLE = ("single", "erm", "linear_probe")


def row_claim(results: RecycleResults, row: TableRow) -> Claim | None:
    """A row against the reference; None for the reference itself."""
    if row.difference is None:
        return None
    return _claim(results, row, row.difference, tuple(row.domains))


def domain_claims(results: RecycleResults, row: TableRow) -> dict[str, Claim]:
    """A row against the reference, one held-out domain at a time."""
    gaps, claims = row.domain_differences, {}
    for domain, gap in gaps.items():
        if gap.verdict is not None and row.difference is not None:
            own = {name: getattr(gap, name) for name in gap.model_fields_set}
            own |= {"domains": (domain,), "comparisons": len(gaps)}
            gap = row.difference.model_copy(update=own)
        claims[domain] = _claim(results, row, gap, (domain,))
    return claims


def final_claims(results: RecycleResults) -> tuple[Claim, ...]:
    """The kept model against what is simpler: stored, or what the table says of the two."""
    final = results.final
    if final.claims is not None:
        return final.claims
    row = results.row(final.protocol)
    if row is None:
        return ()
    own = row_claim(results, row)
    if own is not None:
        return (own,)
    # The kept model is the reference: what the others' differences say, turned round.
    rows = [found for name in SIMPLE if (found := results.row(name))]
    others = [claim for found in rows if (claim := row_claim(results, found))]
    return tuple(claim.reversed() for claim in others)


def average_claims(results: RecycleResults) -> dict[str, Claim]:
    """By protocol: an average of weights against the mean of its own members."""
    return {claim.subject: claim for claim in results.averages}


def _claim(results: RecycleResults, row: TableRow, gap: RowGap, domains: tuple[str, ...]) -> Claim:
    if gap.verdict is not None:
        return Claim.from_json({each.name: getattr(gap, each.name) for each in fields(Claim)})
    # Written before differences were claims: one trial says nothing about other trainings.
    covers: Covers = "examples only"
    if results.trials > 1 and "and other trainings" in (row.covers or ""):
        covers = "examples and trainings"
    against = results.row(gap.against)
    interval = Interval(gap.mean, gap.low, gap.high)
    return Claim(
        interval.mean,
        interval.low,
        interval.high,
        subject=row.protocol,
        against=gap.against,
        subject_label=row.label,
        against_label=gap.against if against is None else against.label,
        rows=HELD_OUT,
        metric=results.task.metric,
        level=0.95,
        covers=covers,
        trials=results.trials,
        domains=domains,
        comparisons=1,
        verdict=verdict_of(interval, covers),
    )
