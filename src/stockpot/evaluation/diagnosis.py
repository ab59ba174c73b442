"""Why an average of weights helped, did nothing, or failed: evidence in, a named reason out.

Averaging ``M`` members changes the error by four parts (Rame et al. 2022, arXiv:2205.09739): bias
stays, variance falls, covariance between members (lack of diversity) stays, and locality (members
too far apart for weights to stand in for predictions) is added. Each rule below looks for one way
in which one of the parts goes wrong. Where an average hurt, rules run from causes that make it
meaningless to causes that leave nothing to gain; where it made no difference, having nothing to
gain comes first. The first rule that fires names the reason, the rest are findings.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, median
from typing import Literal

from stockpot.evaluation.evidence import (
    DEFAULTS,
    Diagnosis,
    Evidence,
    Finding,
    Member,
    PairBarrier,
    Thresholds,
)
from stockpot.evaluation.wording import declared, ends, points, unit

Rule = Callable[[Evidence, Thresholds], Finding | None]
Verdict = Literal["helped", "no difference", "hurt"]


def diagnose(evidence: Evidence, thresholds: Thresholds = DEFAULTS) -> Diagnosis:
    """Compare an average with its members' mean and name the reason in words.

    The verdict follows the interval of the difference where there is one, otherwise a difference
    below half a point counts as none. An average that helped still reports what it suffers from.
    """
    verdict = _verdict(evidence, thresholds)
    rules = {
        "helped": _FAULTS,
        "no difference": (_nothing_to_gain, *_FAULTS, _locality),
        "hurt": (*_FAULTS, _locality, _nothing_to_gain),
    }[verdict]
    found = tuple(f for rule in rules if (f := rule(evidence, thresholds)) is not None)
    if verdict == "helped":
        main = _helped(evidence)
    else:
        main = found[0] if found else _unexplained(evidence, verdict)
    rest = tuple(finding for finding in found if finding is not main)
    words = f"{_opening(evidence, verdict)} {_sentence(main.words)}"
    return Diagnosis(verdict, main.code, words, rest, evidence.to_json())


def worth_averaging(ensemble: float, mean_member: float, thresholds: Thresholds = DEFAULTS) -> bool:
    """Go / no-go before paying for more runs: does a prediction ensemble gain 3 points or more?"""
    return ensemble - mean_member >= thresholds.ensemble_gain


def is_broken(pair: PairBarrier, thresholds: Thresholds = DEFAULTS) -> bool:
    """Whether two models are not linearly mode connected, on either split."""

    def beyond(height: float | None, least: float, examples: int | None) -> bool:
        noise = 2 * (thresholds.disagreement / examples) ** 0.5 if examples else 0.0
        return height is not None and height > max(least, noise)

    return beyond(pair.id, thresholds.barrier_id, pair.examples_id) or beyond(
        pair.ood, thresholds.barrier_ood, pair.examples_ood
    )


def _verdict(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    if evidence.low is not None and evidence.high is not None:
        if evidence.low > 0:
            return "helped"
        return "hurt" if evidence.high < 0 else "no difference"
    if abs(evidence.gap) < thresholds.difference:
        return "no difference"
    return "helped" if evidence.gap > 0 else "hurt"


def _unrelated(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    strangers = [
        member
        for member in evidence.members
        if member.cosine is not None and member.cosine < thresholds.cosine
    ]
    if not strangers:
        return None
    worst = min(strangers, key=lambda member: member.cosine or 0.0)
    return Finding(
        "unrelated ancestor",
        f"unrelated ancestor: {_names(strangers)} {_does(strangers, 'descend')} from the base "
        f"(median layer cosine {worst.cosine:.2f}; relatives have 0.4 or more)",
    )


def _heads(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    if evidence.head_shared is not False:
        return None
    return Finding(
        "heads differ",
        "heads differ: members started from different heads, whose rows do not correspond; "
        "start every run from one linear probe",
    )


def _batchnorm(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    again = evidence.average_reestimated
    if again is not None and again - evidence.average > thresholds.reestimated:
        gained = _amount(again - evidence.average, evidence)
        return Finding(
            "batchnorm statistics",
            "BatchNorm statistics: the average uses running statistics that are not its own; "
            f"measuring them anew on training data gains {gained}",
        )
    if again is None and evidence.batchnorm == "averaged" and _any_broken(evidence, thresholds):
        return Finding(
            "batchnorm statistics",
            "BatchNorm statistics: running statistics were trained and averaged, and do not "
            "belong to the averaged weights; freeze them or measure them anew",
        )
    return None


def _learning_rate(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """Runs from one init that lost each other, or a run far out with falling validation."""
    broken = [
        pair
        for pair in evidence.barriers
        if pair.kind == "same init" and is_broken(pair, thresholds)
    ]
    if broken:
        worst = max(broken, key=_height)
        return Finding(
            "learning rate too high",
            f"learning rate too high: runs from the same init are not linearly connected "
            f"({worst.first} and {worst.second}: barrier {_amount(_height(worst), evidence)}"
            f"{_rates(evidence, worst)}); lower it or train fewer steps",
        )
    far = _far(evidence, thresholds)
    if not far:
        return None
    member, times = far
    rate = f" at learning rate {member.learning_rate:g}" if member.learning_rate else ""
    return Finding(
        "learning rate too high",
        f"learning rate too high: {member.name}{rate} moved {times:.1f} times as far from the base "
        f"as its siblings, and its validation fell by {_amount(member.fall or 0.0, evidence)}",
    )


def _far(evidence: Evidence, thresholds: Thresholds) -> tuple[Member, float] | None:
    """The member farthest out relative to its siblings (runs from the same init)."""
    candidates = []
    for member in evidence.members:
        siblings = [
            other.distance
            for other in evidence.members
            if other is not member and other.init == member.init and other.distance is not None
        ]
        if member.distance is None or not siblings or (member.fall or 0.0) < thresholds.fall:
            continue
        times = member.distance / max(median(siblings), 1e-12)
        if times >= thresholds.distance:
            candidates.append((member, times))
    return max(candidates, key=lambda each: each[1], default=None)


def _auxiliary(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """Pairs from different inits with a barrier; one init in all of them is the one to name."""
    inits = {member.name: member.init for member in evidence.members}
    pairs = [pair for pair in evidence.barriers if pair.kind == "different init"]
    broken = [pair for pair in pairs if is_broken(pair, thresholds)]
    if not broken:
        return None
    worst = max(broken, key=_height)
    common = set.intersection(*({_init(inits, p.first), _init(inits, p.second)} for p in broken))
    culprits = sorted(common - {"base"})
    if len(culprits) == 1:
        name = culprits[0]
        rest = [p for p in pairs if name not in (_init(inits, p.first), _init(inits, p.second))]
        others = (
            f", at most {_amount(max(map(_height, rest)), evidence)} among the others"
            if rest
            else ""
        )
        return Finding(
            "connectivity broken",
            f"linear mode connectivity broken by auxiliary {name}: barrier up to "
            f"{_amount(_height(worst), evidence)} between runs from it and the rest{others}; "
            "leave it out or train it less",
        )
    return Finding(
        "connectivity broken",
        f"linear mode connectivity broken between inits {_init(inits, worst.first)} and "
        f"{_init(inits, worst.second)} (barrier {_amount(_height(worst), evidence)}), "
        f"and in {len(broken)} of {len(pairs)} pairs measured",
    )


def _weak_member(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """One member far below the others; judged on validation where that is known."""
    if len(evidence.members) < 3:
        return None
    known = all(member.id_accuracy is not None for member in evidence.members)
    value = {
        member.name: (member.id_accuracy if known else member.accuracy) or 0.0
        for member in evidence.members
    }
    ordered = sorted(evidence.members, key=lambda member: value[member.name])
    weakest = ordered[0]
    rest = [value[member.name] for member in ordered[1:]]
    drop, spread = fmean(rest) - value[weakest.name], max(rest) - min(rest)
    if drop < thresholds.weak_member or drop < 2 * spread:
        return None
    where = "on validation" if known else "on the test rows"
    metric = evidence.metric
    return Finding(
        "one weak member",
        f"one weak member: {weakest.name} reaches "
        f"{points(value[weakest.name], metric=metric)} {where}, the others "
        f"{points(fmean(rest), metric=metric)} on average; greedy selection leaves it out",
    )


def _nothing_to_gain(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    gain = evidence.ensemble_gain
    if gain is None or gain >= thresholds.ensemble_gain:
        return None
    amount = f"the prediction ensemble gains only {_amount(gain, evidence)}"
    if gain <= 0:
        amount = "the prediction ensemble gains nothing"
    ratio = evidence.ratio_error
    if ratio is not None and ratio < thresholds.ratio_error:
        return Finding(
            "too little diversity",
            f"too little diversity: members err on the same examples (ratio-error {ratio:.2f}), "
            f"and {amount}",
        )
    return Finding("bias, not variance", f"error is bias, not variance: {amount}")


def _locality(evidence: Evidence, thresholds: Thresholds) -> Finding | None:
    """Averaging weights does clearly worse than averaging predictions of the same members."""
    gain = evidence.ensemble_gain
    if gain is None or evidence.gap > gain / 2 or gain - evidence.gap < thresholds.ensemble_gain:
        return None
    return Finding(
        "members too far apart",
        f"members too far apart: averaging their predictions gains {_amount(gain, evidence)}, "
        f"averaging their weights {_amount(evidence.gap, evidence)}",
    )


# Faults are worth knowing even where the average helped.
_FAULTS: tuple[Rule, ...] = (
    _unrelated,
    _heads,
    _batchnorm,
    _learning_rate,
    _auxiliary,
    _weak_member,
)


def _helped(evidence: Evidence) -> Finding:
    gain = evidence.ensemble_gain
    if gain is None:
        return Finding("variance removed", "members err differently, and averaging cancels it")
    share = f"the prediction ensemble, which costs {len(evidence.members)} times as much to run"
    verb = "gains" if gain >= 0 else "loses"
    return Finding("variance removed", f"{share}, {verb} {_amount(abs(gain), evidence)}")


def _unexplained(evidence: Evidence, verdict: Verdict) -> Finding:
    measured = [pair for pair in evidence.barriers if pair.kind != "base to average"]
    what = []
    if measured:
        highest = _amount(max(map(_height, measured)), evidence)
        what.append(f"members are connected (barrier at most {highest})")
    if evidence.ensemble_gain is not None:
        what.append(f"the prediction ensemble gains {_amount(evidence.ensemble_gain, evidence)}")
    seen = "; ".join(what) if what else "neither barriers nor a prediction ensemble were measured"
    return Finding("no cause found", f"no cause found: {seen}")


def _opening(evidence: Evidence, verdict: Verdict) -> str:
    if verdict == "no difference":
        gap = f"{points(evidence.gap, metric=evidence.metric, sign=True)} {unit(evidence.metric)}"
        if evidence.low is not None and evidence.high is not None:
            low, high = ends(evidence.low, evidence.high, metric=evidence.metric, sign=True)
            gap += f", {low} to {high}"
        return f"The average cannot be told from its members' mean ({gap})."
    rises = (verdict == "helped") == declared(evidence.metric).higher_is_better
    side = "above" if rises else "below"
    return f"The average is {_amount(abs(evidence.gap), evidence)} {side} its members' mean."


def _amount(value: float, evidence: Evidence) -> str:
    return f"{points(value, metric=evidence.metric)} {unit(evidence.metric)}"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _height(pair: PairBarrier) -> float:
    return max(pair.id or 0.0, pair.ood or 0.0)


def _any_broken(evidence: Evidence, thresholds: Thresholds) -> bool:
    return any(is_broken(pair, thresholds) for pair in evidence.barriers)


def _init(inits: dict[str, str], name: str) -> str:
    return inits.get(name, name)


def _rates(evidence: Evidence, pair: PairBarrier) -> str:
    rates = {m.name: m.learning_rate for m in evidence.members if m.learning_rate is not None}
    known = sorted({rates[name] for name in (pair.first, pair.second) if name in rates})
    return ", learning rate " + " and ".join(f"{rate:g}" for rate in known) if known else ""


def _names(members: list[Member]) -> str:
    return ", ".join(member.name for member in members)


def _does(members: list[Member], verb: str) -> str:
    return f"does not {verb}" if len(members) == 1 else f"do not {verb}"
