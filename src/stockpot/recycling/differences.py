"""Every row of the comparison against the reference, as claims that hold together."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.evaluation.claims import CellScores, compare, compare_all
from stockpot.evaluation.crossed import Cell
from stockpot.recycling.schema import RowDifferences, RowGap

_LEVEL = 0.95
_OF_DOMAINS = ("against", "mean", "low", "high", "covers", "trials", "verdict")


def differences(
    scores: Mapping[str, Mapping[Cell, CellScores]],
    columns: Mapping[str, Mapping[Cell, CellScores]],
    against: str | None,
    *,
    metric: str,
    rows: str,
    labels: Mapping[str, str],
) -> dict[str, RowDifferences]:
    """By protocol what its row says.

    ``scores``: by what was held out for a training, ``columns``: by the table's column, both with
    the trial. They are the same where every training is tested on one domain.
    A difference is a claim with its phrase under ``words``.
    The claims over all domains hold together over all rows. Those of single domains hold together
    over the domains of their row, and of them only what differs from the row's claim is kept.
    """
    others = [name for name in scores if name != against]
    none = RowDifferences(difference=None, domain_differences={})
    if against is None or not others:
        return dict.fromkeys(scores, none)
    claims = compare_all(
        scores,
        [(name, against) for name in others],
        rows=rows,
        metric=metric,
        labels=labels,
        level=_LEVEL,
    )
    made = {against: none}
    for name, claim in zip(others, claims, strict=True):
        here = {}
        domains = list(dict.fromkeys(cell[0] for cell in columns[name]))
        for domain in domains:
            pair = {
                each: {cell: own for cell, own in columns[each].items() if cell[0] == domain}
                for each in (name, against)
            }
            # Bonferroni: domains are few and have nothing to do with each other.
            level = 1 - (1 - _LEVEL) / len(domains)
            alone = compare(
                pair, name, against, rows=rows, metric=metric, labels=labels, level=level
            )
            here[domain] = RowGap(**{key: getattr(alone, key) for key in _OF_DOMAINS})
        made[name] = RowDifferences(
            difference=RowGap(**vars(claim), words=claim.phrase()), domain_differences=here
        )
    return made
