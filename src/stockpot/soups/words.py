"""A soup in words: did it help, by how much, how sure."""

from __future__ import annotations

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.wording import in_sentence, label, points, unit
from stockpot.soups.schema import SoupGain, SoupResults


def headline(results: SoupResults) -> str:
    """One sentence: the kept model against the best single one, by rows that chose nothing."""
    kept, metric = results.kept, results.evaluator.metric
    name = in_sentence(kept.label)
    if kept.name == "best":
        return f"No soup is kept: {name} is not clearly behind any of them."
    claim = next((one for one in kept.claims if one.against == "best"), None)
    if claim is None:
        gain = next((one for one in kept.gains if one.against == "best"), None)
        seen = None if gain is None else gain.choose if gain.judge is None else gain.judge
        if gain is None or seen is None:
            return f"Kept: {name}."
        change = f"{points(seen, metric=metric, sign=True)} {unit(metric)}"
        return _capital(f"{name}: {change} against {in_sentence(gain.label)}, without an interval.")
    other = in_sentence(claim.against_label)
    if claim.low > 0 or claim.high < 0:
        verdict = "better" if claim.low > 0 else "worse"
        return _capital(f"{name} is {claim.size()} {verdict} than {other} ({claim.ends()}).")
    return f"No gain that these rows could see: {name} against {other} {_spread(claim)}."


def kept_line(results: SoupResults) -> str:
    """What was kept, why, and against what, in one line; a warning of ``warning`` at its end."""
    kept, worse = results.kept, warning(results)
    lines = [_capital(one.sentence()) for one in kept.claims if one.sentence() not in worse]
    if not kept.claims and kept.gains:
        lines.append(headline(results))
    return " ".join([f"kept: {kept.label}, {kept.why}.", *lines, *([worse] if worse else [])])


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def sentences(results: SoupResults) -> list[str]:
    """What was kept and why, its gains while choosing and when judged, the search and controls."""
    kept, metric = results.kept, results.evaluator.metric
    lines = [_capital(f"{kept.label}: {kept.why}.")]
    if kept.judge is not None:
        judged = points(kept.judge, metric=metric)
        lines.append(f"Its {label(metric)} on rows that chose nothing: {judged}.")
    lines += [_capital(claim.sentence()) for claim in kept.claims]
    lines += [_capital(line) for gain in kept.gains if (line := _curse(gain, metric))]
    lines += _searched(results)
    for one in results.controls:
        if one.judge is not None:
            lines.append(f"Control, {one.label}: {points(one.judge, metric=metric)}.")
    for check in kept.checks:
        lines.append(
            f"Constraint {check.label}: {_number(check.mean)} against {check.against}, at least "
            f"{_number(check.low)} with 95 % confidence; {-check.lose_at_most:g} is allowed."
        )
    return [*lines, *([line] if (line := warning(results)) else [])]


def warning(results: SoupResults) -> str:
    """That the kept model is worse than the best single one, where judging rows say so."""
    for claim in results.kept.claims:
        if claim.against == "best" and claim.high < 0:
            return f"Warning: {claim.sentence()} The choosing rows could not tell."
    return ""


def _curse(gain: SoupGain, metric: str) -> str:
    if gain.choose is None or gain.judge is None:
        return ""
    seen, held = (points(value, metric=metric, sign=True) for value in (gain.choose, gain.judge))
    return (
        f"against {in_sentence(gain.label)}: {seen} {unit(metric)} on the rows that chose, {held} "
        "on those that judge."
    )


def _searched(results: SoupResults) -> list[str]:
    if not results.cost.searched:
        return []
    tried = f"The search tried {results.cost.searched} models."
    if not results.kept.name.startswith("search"):
        tried = (
            f"Searching did not help here: {results.cost.searched} models were tried, and none is "
            "clearly better than what was there without it."
        )
    line = "" if results.searched is None else _curse(results.searched, results.evaluator.metric)
    return [tried, *([f"The best that was searched: {line}"] if line else [])]


def _spread(claim: Claim) -> str:
    metric = claim.metric
    low, high = (points(end, metric=metric, sign=True) for end in (claim.low, claim.high))
    return f"{points(claim.mean, metric=metric, sign=True)} {unit(metric)} ({low} to {high})"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3g}"
