"""The result in words: is the kept model better than what is simpler, by how much, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stockpot.evaluation.claims import Claim, joined
from stockpot.evaluation.claims import Verdict as ClaimVerdict
from stockpot.evaluation.wording import in_sentence
from stockpot.recycling.schema import RecycleResults, TableRow
from stockpot.report.compared import domain_claims, final_claims
from stockpot.report.judged import judged
from stockpot.report.numbers import percent, score, typographic

Verdict = Literal["helped", "no difference", "hurt", "not testable", "alone"]

# The weakest claim speaks first: a model is as good as what it is not better than.
_ORDER: tuple[ClaimVerdict, ...] = ("worse", "no difference", "not testable", "better")
_VERDICT: dict[ClaimVerdict, Verdict] = {
    "worse": "hurt",
    "no difference": "no difference",
    "not testable": "not testable",
    "better": "helped",
}


@dataclass(frozen=True)
class Headline:
    """``words`` is one sentence, ``details`` are sentences on how sure it is and where not.

    ``claims``: what they were written from, the leading one first.
    """

    verdict: Verdict
    words: str
    details: tuple[str, ...]
    claims: tuple[Claim, ...] = ()


def headline(results: RecycleResults) -> Headline:
    """The kept model against what is simpler, on rows that chose nothing; all from claims."""
    row = results.row(results.final.protocol)
    label = in_sentence((row or results.final).label)
    if not results.table:
        words = f"{label}, trained on all domains."
        return Headline("alone", words, ("No domain was held out, so nothing was compared.",))
    reached = _reached(row, results)
    claims = sorted(final_claims(results), key=lambda claim: _ORDER.index(claim.verdict))
    if not claims:
        words = f"{label} {reached or 'is kept'}."
        return Headline("alone", words, ("It was compared with nothing simpler.",))
    leading = [claim for claim in claims if claim.verdict == claims[0].verdict]
    sentences = [joined(leading), *(claim.sentence() for claim in claims[len(leading) :])]
    details = [*sentences[1:], _how_sure(claims, reached), *_exceptions(row, results)]
    if results.final.train_on == "all" and results.final.why_trained_on:
        details.insert(0, results.final.why_trained_on)
    return Headline(
        _VERDICT[claims[0].verdict],
        typographic(sentences[0]),
        tuple(typographic(each) for each in details),
        tuple(claims),
    )


def _reached(row: TableRow | None, results: RecycleResults) -> str:
    """The kept row's own score; empty where the table has no such row."""
    if row is None:
        return ""
    count, metric = len(row.domains), results.task.metric
    part = judged(results).part
    where = f"{count} {part}s" if count > 1 else next(iter(row.domains))
    return f"reaches {score(row.mean, metric)}{percent(metric)} on {where}"


def _how_sure(claims: list[Claim], reached: str) -> str:
    trials = min(claim.trials for claim in claims)
    sure = claims[0].certainty()
    times = f"{trials} trials" if trials > 1 else "one trial"
    return (f"It {reached}. " if reached else "") + f"In brackets: {sure}; {times}."


def _exceptions(row: TableRow | None, results: RecycleResults) -> list[str]:
    """Domains where the kept model is behind, so that a good mean does not hide them."""
    if row is None or len(row.domains) < 2:
        return []
    return [c.sentence() for c in domain_claims(results, row).values() if c.high < 0]
