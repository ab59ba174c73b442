"""Which candidate is kept, and what the rows that judge say of it.

The rule is that of ``recycling.choice``: a candidate is *level* with the best where the 95 %
interval of their distance on the choosing rows holds 0; of the level ones the one is kept that
chose least, then an average before one model, then the average of more models. The best of many
soups looks good by chance, so where the best was picked out of many, the interval is wide enough
for all of them together (``crossed.single_error``). Nothing is level that is behind the best single
model by a plain interval: it is what one has without a soup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stockpot.evaluation.claims import THESE_WEIGHTS, Claim, compare_all, verdict_of
from stockpot.evaluation.crossed import single_error
from stockpot.evaluation.selection import LEVEL, Shortfall
from stockpot.evaluators.contract import Scores
from stockpot.soups.candidates import SoupCandidate
from stockpot.soups.measuring import TriedBlend
from stockpot.soups.paired import CELL, difference

JUDGE = "judging rows"
_LOOKS = 50  # of a long search so many stand for all: neighbours are nearly the same model


def shortfalls(rows: Sequence[SoupCandidate]) -> list[Shortfall | None]:
    """By how much every candidate is behind the best, or behind the best single model where that is
    the surer; None where that cannot be told: it was given up, or there is one number a model only.
    """
    rivals = {one.name: one for one in (leader(rows), *rows[:1])}.values()
    return [
        max(
            (gap for rival in rivals if (gap := _behind(rival, row)) is not None),
            key=lambda gap: gap.mean - gap.margin,
            default=None,
        )
        for row in rows
    ]


def leader(rows: Sequence[SoupCandidate]) -> SoupCandidate:
    """The candidate with the best score on all choosing rows."""
    return max((row for row in rows if _complete(row.scored)), key=lambda row: row.scored.score)


def best_searched(rows: Sequence[SoupCandidate]) -> SoupCandidate | None:
    """What the search came to; None where there was none."""
    searched = [row for row in rows if row.name.startswith("search")]
    return max(searched, key=lambda row: row.scored.score, default=None)


def is_level(row: SoupCandidate, best: SoupCandidate, behind: Shortfall | None) -> bool:
    """Whether the choosing rows cannot tell a candidate from the best."""
    if behind is None:
        return _complete(row.scored) and row.scored.score >= best.scored.score
    return behind.mean <= behind.margin + 1e-12


def preferred(
    rows: Sequence[SoupCandidate], behind: Sequence[Shortfall | None], allowed: Sequence[bool]
) -> SoupCandidate | None:
    """The candidate that the rule keeps, of those that are ``allowed``; None where none is."""
    best = leader(rows)
    level = [
        row
        for row, gap, may in zip(rows, behind, allowed, strict=True)
        if may and is_level(row, best, gap)
    ]
    if not level:
        level = [row for row, may in zip(rows, allowed, strict=True) if may]
        level = sorted(level, key=lambda row: -row.scored.score)[:1]
    order = {row.name: place for place, row in enumerate(rows)}
    return min(
        level,
        key=lambda row: (
            row.decisions,
            len(row.scored.blend.members) < 2,
            -len(row.scored.blend.members),
            order[row.name],
        ),
        default=None,
    )


def judged_claims(
    scores: dict[str, Scores],
    kept: str,
    against: Sequence[str],
    labels: dict[str, str],
    metric: str,
) -> tuple[Claim, ...]:
    """What the judging rows say of the kept candidate against others, all together."""
    pairs = [(kept, other) for other in against if other != kept and other in scores]
    if kept not in scores or not pairs:
        return ()
    cells = {name: {CELL: scores[name]} for name in (kept, *(other for _, other in pairs))}
    claims = compare_all(cells, pairs, rows=JUDGE, metric=metric, labels=labels, trainings=False)
    return tuple(
        replace(claim, covers=THESE_WEIGHTS, verdict=verdict_of(claim, THESE_WEIGHTS))
        for claim in claims
    )


def _behind(best: SoupCandidate, row: SoupCandidate) -> Shortfall | None:
    own, other = row.scored.scores, best.scored.scores
    if own is None or other is None or not _complete(row.scored):
        return None
    gap = difference(other, own)
    looks = [one for one in best.looks if _complete(one) and one.scores is not None]
    looks = looks[:: max(1, len(looks) // _LOOKS)]
    family = [gap, *(difference(one.scores, own) for one in looks if one.scores is not None)]
    error = single_error(family, 1.0 - LEVEL) if len(family) > 1 else 1.0 - LEVEL
    return Shortfall(gap.mean, gap.of_these_trainings().margin(error))


def _complete(scored: TriedBlend) -> bool:
    return scored.complete and scored.failure is None
