"""The result in words: did it help, by how much, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stockpot.evaluation.wording import in_sentence, unit
from stockpot.report.judged import Judged, judged
from stockpot.report.numbers import (
    NO_BREAK,
    percent,
    score,
    signed,
    signed_ends,
    spread,
    typographic,
)

Verdict = Literal["helped", "no difference", "hurt", "alone"]


@dataclass(frozen=True)
class Headline:
    """``words`` is one sentence, ``details`` are sentences on how sure it is and where not."""

    verdict: Verdict
    words: str
    details: tuple[str, ...]


def headline(results: dict[str, Any]) -> Headline:
    """Compare the final model with the baseline that the table's differences name."""
    table, metric = results["table"], results["task"]["metric"]
    where = judged(results)
    if not table:
        words = f"{in_sentence(results['final']['label'])}, trained on all domains."
        return Headline("alone", words, ("No domain was held out, so nothing was compared.",))
    rows = {row["protocol"]: row for row in table}
    final = rows.get(results["final"]["protocol"]) or max(
        (row for row in table if row["group"] != "oracle"), key=lambda row: row["mean"]
    )
    difference = final.get("difference")
    reached = f"{score(final['mean'], metric)}{percent(metric)}"
    if difference is None:
        return _without_difference(final, table, reached, metric, where)
    against = rows.get(difference["against"])
    name = in_sentence(against["label"]) if against else difference["against"]
    own = in_sentence(final["label"])
    size = f"{score(abs(difference['mean']), metric)}{NO_BREAK}{unit(metric)}"
    if difference["low"] > 0:
        verdict: Verdict = "helped"
        words = f"{own} is {size} better than {name} {where.on}."
    elif difference["high"] < 0:
        verdict = "hurt"
        words = f"{own} is {size} worse than {name} {where.on}."
    else:
        verdict = "no difference"
        words = f"No difference that this test could see between {own} and {name}."
    details = [_how_sure(final, against, results, metric), *_exceptions(final, metric)]
    return Headline(verdict, words, tuple(details))


def _without_difference(
    final: dict[str, Any],
    table: list[dict[str, Any]],
    reached: str,
    metric: str,
    where: Judged,
) -> Headline:
    """The final model is the baseline itself, or there is nothing to compare with."""
    own = in_sentence(final["label"])
    averages = [row for row in table if row["group"] == "average" and row.get("difference")]
    if not averages:
        words = f"{own} reaches {reached} {where.on}."
        return Headline("alone", words, ())
    best = max(averages, key=lambda row: row["mean"])
    words = f"{own} stays: on validation no average was better."
    detail = (
        f"It reaches {reached} {where.on}. The best average, "
        f"{in_sentence(best['label'])}, reaches {score(best['mean'], metric)}{percent(metric)}: "
        f"{typographic(best['difference']['words'])}."
    )
    return Headline("no difference", words, (detail,))


def _how_sure(
    final: dict[str, Any], against: dict[str, Any] | None, results: dict[str, Any], metric: str
) -> str:
    difference = final["difference"]
    trials = len({cell["trial"] for cell in results["cells"]})
    domains = len(final["domains"])
    part = judged(results).part
    where = f"the mean of {domains} {part}s"
    if domains == 1:
        where = f"on the {part} {next(iter(final['domains']))}"
    times = f" and {trials} trials" if trials > 1 else ", one trial"
    other = f" against {score(against['mean'], metric)}{percent(metric)}" if against else ""
    covers = final.get("covers")
    low, high = signed_ends(difference["low"], difference["high"], metric)
    return (
        f"{score(final['mean'], metric)}{percent(metric)}{other}, {where}{times}. "
        f"With 95 % confidence the difference lies between {low} and {high} {unit(metric)}"
        + (f", for {covers}." if covers else ".")
    )


def _exceptions(final: dict[str, Any], metric: str) -> list[str]:
    """Domains where the final model is worse, so that a good mean does not hide them."""
    worse = [
        f"{domain} ({signed(gap['mean'], metric)}, {spread(gap['low'], gap['high'], metric)})"
        for domain, gap in final.get("domain_differences", {}).items()
        if gap["high"] < 0
    ]
    if not worse:
        return []
    return [f"It is worse on {', '.join(worse)}; the diagnosis says why."]
