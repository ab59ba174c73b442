"""The claims in a results file: those it holds, and for old files those that its numbers allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.evaluation.claims import HELD_OUT, Claim, Covers, Verdict, verdict_of
from stockpot.evaluation.intervals import Interval

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


def row_claim(results: Mapping[str, Any], row: Mapping[str, Any]) -> Claim | None:
    """A row against the reference; None for the reference itself."""
    return _claim(results, row, row.get("difference"), tuple(row["domains"]))


def domain_claims(results: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Claim]:
    """A row against the reference, one held-out domain at a time."""
    gaps = row.get("domain_differences") or {}
    claims = {}
    for domain, gap in gaps.items():
        own = {"domains": [domain], "comparisons": len(gaps)}
        whole = {**row["difference"], **gap, **own} if "verdict" in gap else gap
        claims[domain] = _claim(results, row, whole, (domain,))
    return {domain: claim for domain, claim in claims.items() if claim is not None}


def final_claims(results: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The kept model against what is simpler: stored, or what the table says of the two."""
    final = results["final"]
    if final.get("claims") is not None:
        return tuple(Claim.from_json(value) for value in final["claims"])
    rows = {row["protocol"]: row for row in results["table"]}
    row = rows.get(final["protocol"])
    if row is None:
        return ()
    own = row_claim(results, row)
    if own is not None:
        return (own,)
    # The kept model is the reference: what the others' differences say, turned round.
    others = [
        claim for name in SIMPLE if name in rows and (claim := row_claim(results, rows[name]))
    ]
    return tuple(claim.reversed() for claim in others)


def average_claims(results: Mapping[str, Any]) -> dict[str, Claim]:
    """By protocol: an average of weights against the mean of its own members."""
    claims = [Claim.from_json(value) for value in results.get("averages", ())]
    return {claim.subject: claim for claim in claims}


def _claim(
    results: Mapping[str, Any],
    row: Mapping[str, Any],
    gap: Mapping[str, Any] | None,
    domains: tuple[str, ...],
) -> Claim | None:
    if gap is None:
        return None
    if "verdict" in gap:
        return Claim.from_json({key: value for key, value in gap.items() if key != "words"})
    # Written before differences were claims: one trial says nothing about other trainings.
    trials = len({cell["trial"] for cell in results["cells"]})
    covers: Covers = "examples only"
    if trials > 1 and "and other trainings" in (row.get("covers") or ""):
        covers = "examples and trainings"
    labels = {each["protocol"]: each["label"] for each in results["table"]}
    interval = Interval(gap["mean"], gap["low"], gap["high"])
    return Claim(
        interval.mean,
        interval.low,
        interval.high,
        subject=row["protocol"],
        against=gap["against"],
        subject_label=row["label"],
        against_label=labels.get(gap["against"], gap["against"]),
        rows=HELD_OUT,
        metric=results["task"]["metric"],
        level=0.95,
        covers=covers,
        trials=trials,
        domains=domains,
        comparisons=1,
        verdict=verdict_of(interval, covers),
    )
