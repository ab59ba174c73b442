"""Why an average of weights helped, did nothing, or failed: evidence in, a named reason out.

Averaging ``M`` members changes the error by four parts (Rame et al. 2022, arXiv:2205.09739): bias
stays, variance falls, covariance between members (lack of diversity) stays, and locality (members
too far apart for weights to stand in for predictions) is added. Each rule below looks for one way
in which one of the parts goes wrong, and fires only where the interval of its measurement lies
beyond the threshold. Where an average is behind its members, rules run from causes that make it
meaningless to causes that leave nothing to gain; where it is level, having nothing to gain comes
first. The first rule that fires names the reason, the rest are findings. Of an average ahead of
its members no fault is said.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, median

from stockpot.evaluation.evidence import (
    DEFAULTS,
    Diagnosis,
    Finding,
    Member,
    PairBarrier,
    Position,
    SoupEvidence,
)
from stockpot.evaluation.intervals import Interval
from stockpot.evaluation.wording import ends, points, unit

Rule = Callable[[SoupEvidence], Finding | None]


def diagnose(evidence: SoupEvidence) -> Diagnosis:
    """Compare an average with its members' mean on the rows measured, and name the reason."""
    verdict = _verdict(evidence)
    rules = {
        "ahead": (),
        "no difference": (_nothing_to_gain, *_FAULTS, _locality),
        "behind": (*_FAULTS, _locality, _nothing_to_gain),
        "not measured": (),
    }[verdict]
    fired = tuple(f for rule in rules if (f := rule(evidence)) is not None)
    if verdict == "ahead":
        main = _ahead(evidence)
    else:
        main = fired[0] if fired else _unexplained(evidence)
    rest = tuple(finding for finding in fired if finding is not main)
    words = f"{_opening(evidence, verdict)} {_sentence(main.words)}"
    return Diagnosis(verdict, main.code, words, rest, evidence.to_json())


def is_broken(pair: PairBarrier) -> bool:
    """Whether two models are not linearly mode connected, on either split."""

    def beyond(height: float | None, least: float, examples: int | None) -> bool:
        return height is not None and height - _noise(examples) > least

    return beyond(pair.id, DEFAULTS.barrier_id, pair.examples_id) or beyond(
        pair.ood, DEFAULTS.barrier_ood, pair.examples_ood
    )


def _verdict(evidence: SoupEvidence) -> Position:
    if evidence.low is None or evidence.high is None:
        return "not measured"
    if evidence.low > 0:
        return "ahead"
    return "behind" if evidence.high < 0 else "no difference"


def _noise(examples: int | None) -> float:
    """Two standard errors of the difference of two similar models on so many examples."""
    return 2 * (DEFAULTS.disagreement / examples) ** 0.5 if examples else 0.0


def _unrelated(evidence: SoupEvidence) -> Finding | None:
    strangers = [
        member
        for member in evidence.members
        if member.foreign and member.cosine is not None and member.cosine < DEFAULTS.cosine
    ]
    if not strangers:
        return None
    worst = min(strangers, key=lambda member: member.cosine or 0.0)
    return Finding(
        "unrelated ancestor",
        f"unrelated ancestor: {_names(strangers)} {_does(strangers, 'descend')} from the base "
        f"(median layer cosine {worst.cosine:.2f}; relatives have 0.4 or more)",
    )


def _heads(evidence: SoupEvidence) -> Finding | None:
    if evidence.head_shared is not False:
        return None
    return Finding(
        "heads differ",
        "heads differ: members started from different heads, whose rows do not correspond; "
        "start every run from one linear probe",
    )


def _batchnorm(evidence: SoupEvidence) -> Finding | None:
    again = evidence.reestimated
    if again is not None and again.low > DEFAULTS.reestimated:
        return Finding(
            "batchnorm statistics",
            "BatchNorm statistics: the average uses running statistics that are not its own; "
            f"measuring them anew on training data gains {_measured(again, evidence)}",
        )
    if again is None and evidence.batchnorm == "averaged" and _any_broken(evidence):
        return Finding(
            "batchnorm statistics",
            "BatchNorm statistics: running statistics were trained and averaged, and do not "
            "belong to the averaged weights; freeze them or measure them anew",
        )
    return None


def _learning_rate(evidence: SoupEvidence) -> Finding | None:
    """Runs that forgot the base, lost each other, or went far out with falling validation."""
    lost = [
        member
        for member in evidence.members
        if not member.foreign and member.cosine is not None and member.cosine < DEFAULTS.cosine
    ]
    if lost:
        worst_run = min(lost, key=lambda member: member.cosine or 0.0)
        return Finding(
            "learning rate too high",
            f"learning rate too high: nothing of the base is left in {_names(lost)} "
            f"(median layer cosine {worst_run.cosine:.2f}); lower it or train fewer steps",
        )
    broken = [pair for pair in evidence.barriers if pair.kind == "same init" and is_broken(pair)]
    if broken:
        worst = max(broken, key=_height)
        return Finding(
            "learning rate too high",
            f"learning rate too high: runs from the same init are not linearly connected "
            f"({worst.first} and {worst.second}: barrier {_amount(_height(worst), evidence)}"
            f"{_rates(evidence, worst)}); lower it or train fewer steps",
        )
    far = _far(evidence)
    if not far:
        return None
    member, times = far
    rate = f" at learning rate {member.learning_rate:g}" if member.learning_rate else ""
    return Finding(
        "learning rate too high",
        f"learning rate too high: {member.name}{rate} moved {times:.1f} times as far from the base "
        f"as its siblings, and its validation fell by {_amount(member.fall or 0.0, evidence)}",
    )


def _far(evidence: SoupEvidence) -> tuple[Member, float] | None:
    """The member farthest out relative to its siblings (runs from the same init)."""
    candidates = []
    for member in evidence.members:
        siblings = [
            other.distance
            for other in evidence.members
            if other is not member and other.init == member.init and other.distance is not None
        ]
        fall = (member.fall or 0.0) - _noise(member.validated)
        if member.distance is None or not siblings or fall < DEFAULTS.fall:
            continue
        times = member.distance / max(median(siblings), 1e-12)
        if times >= DEFAULTS.distance:
            candidates.append((member, times))
    return max(candidates, key=lambda each: each[1], default=None)


def _auxiliary(evidence: SoupEvidence) -> Finding | None:
    """Pairs from different inits with a barrier; one init in all of them is the one to name."""
    inits = {member.name: member.init for member in evidence.members}
    pairs = [pair for pair in evidence.barriers if pair.kind == "different init"]
    broken = [pair for pair in pairs if is_broken(pair)]
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


def _weak_member(evidence: SoupEvidence) -> Finding | None:
    """One member far below the others on the held-out rows, beyond what those scatter."""
    known = [m for m in evidence.members if m.behind is not None]
    if len(known) < 3 or len(known) < len(evidence.members):
        return None
    weakest = min(known, key=lambda member: member.accuracy)
    rest = [member.accuracy for member in known if member is not weakest]
    behind = weakest.behind
    assert behind is not None
    if behind.low < max(DEFAULTS.weak_member, 2 * (max(rest) - min(rest))):
        return None
    metric = evidence.metric
    return Finding(
        "one weak member",
        f"one weak member: {weakest.name} reaches {points(weakest.accuracy, metric=metric)}, the "
        f"others {points(fmean(rest), metric=metric)} on average, ahead by "
        f"{_measured(behind, evidence)}; greedy selection leaves out whom validation shows as weak",
    )


def _nothing_to_gain(evidence: SoupEvidence) -> Finding | None:
    gain = evidence.gain
    if gain is None or gain.high >= DEFAULTS.ensemble_gain:
        return None
    verb = "gains only" if gain.mean > 0 else "gains nothing:"
    amount = f"the prediction ensemble {verb} {_measured(gain, evidence)}"
    ratio, high = evidence.ratio_error, evidence.ratio_error_high
    if ratio is not None and high is not None and high < DEFAULTS.ratio_error:
        return Finding(
            "too little diversity",
            "too little diversity: members err on the same examples "
            f"(ratio-error {ratio:.2f}, at most {high:.2f}), and {amount}",
        )
    return Finding("bias, not variance", f"error is bias, not variance: {amount}")


def _locality(evidence: SoupEvidence) -> Finding | None:
    """Averaging weights does clearly worse than averaging predictions of the same members."""
    short, gain = evidence.shortfall, evidence.gain
    if short is None or gain is None or short.low <= DEFAULTS.shortfall or gain.low <= 0:
        return None
    return Finding(
        "members too far apart",
        f"members too far apart: averaging their predictions gains {_measured(gain, evidence)}, "
        f"averaging their weights {_measured(short, evidence)} less",
    )


_FAULTS: tuple[Rule, ...] = (
    _unrelated,
    _heads,
    _batchnorm,
    _learning_rate,
    _auxiliary,
    _weak_member,
)


def _ahead(evidence: SoupEvidence) -> Finding:
    gain = evidence.gain
    if gain is None:
        return Finding("no cause measured", "no prediction ensemble was measured beside it")
    share = (
        f"the prediction ensemble, which costs {len(evidence.members)} times as much to run, "
        f"gains {_measured(gain, evidence)}"
    )
    if gain.low > 0:
        return Finding("variance removed", share)
    return Finding("no cause found", share)


def _unexplained(evidence: SoupEvidence) -> Finding:
    between = [pair for pair in evidence.barriers if pair.kind != "base to average"]
    what = []
    if between:
        highest = _amount(max(map(_height, between)), evidence)
        what.append(f"barriers between members are at most {highest}")
    if evidence.gain is not None:
        what.append(f"the prediction ensemble gains {_measured(evidence.gain, evidence)}")
    seen = "; ".join(what) if what else "neither barriers nor a prediction ensemble were measured"
    return Finding("no cause found", f"no cause found: {seen}")


def _opening(evidence: SoupEvidence, verdict: Position) -> str:
    if evidence.low is None or evidence.high is None:
        gap = f"{points(evidence.gap, metric=evidence.metric, sign=True)} {unit(evidence.metric)}"
        return f"How sure the average's difference to its members' mean is ({gap}) is not known."
    measured = _measured(Interval(evidence.gap, evidence.low, evidence.high), evidence)
    if verdict == "no difference":
        return f"The average cannot be told from its members' mean on these rows: {measured}."
    side = "ahead of" if verdict == "ahead" else "behind"
    return f"The average is {side} its members' mean on these rows: {measured}."


def _measured(interval: Interval, evidence: SoupEvidence) -> str:
    """``+1.2 points (+0.3 to +2.1)``."""
    mean = points(interval.mean, metric=evidence.metric, sign=True)
    low, high = ends(interval.low, interval.high, metric=evidence.metric, sign=True)
    return f"{mean} {unit(evidence.metric)} ({low} to {high})"


def _amount(value: float, evidence: SoupEvidence) -> str:
    return f"{points(value, metric=evidence.metric)} {unit(evidence.metric)}"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _height(pair: PairBarrier) -> float:
    return max(pair.id or 0.0, pair.ood or 0.0)


def _any_broken(evidence: SoupEvidence) -> bool:
    return any(is_broken(pair) for pair in evidence.barriers)


def _init(inits: dict[str, str], name: str) -> str:
    return inits.get(name, name)


def _rates(evidence: SoupEvidence, pair: PairBarrier) -> str:
    rates = {m.name: m.learning_rate for m in evidence.members if m.learning_rate is not None}
    known = sorted({rates[name] for name in (pair.first, pair.second) if name in rates})
    return ", learning rate " + " and ".join(f"{rate:g}" for rate in known) if known else ""


def _names(members: list[Member]) -> str:
    return ", ".join(member.name for member in members)


def _does(members: list[Member], verb: str) -> str:
    return f"does not {verb}" if len(members) == 1 else f"do not {verb}"
