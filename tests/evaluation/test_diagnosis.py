import json
from dataclasses import asdict, replace

import pytest

from stockpot.errors import InputError
from stockpot.evaluation.diagnosis import diagnose, is_broken
from stockpot.evaluation.evidence import Member, PairBarrier, SoupEvidence
from stockpot.evaluation.intervals import Interval

MEMBERS = (
    Member("r0", 0.60, "base", 0.90, 5e-5, cosine=0.99, distance=0.010, fall=0.0),
    Member("r1", 0.62, "glyphs", 0.91, 3e-5, cosine=0.98, distance=0.012, fall=0.0),
    Member("r2", 0.61, "rotation", 0.90, 5e-5, cosine=0.97, distance=0.011, fall=0.0),
    Member("r3", 0.61, "base", 0.91, 3e-5, cosine=0.99, distance=0.010, fall=0.0),
)
CONNECTED = (
    PairBarrier("r0", "r3", "same init", id=0.001, ood=0.004),
    PairBarrier("r0", "r1", "different init", id=0.004, ood=0.0),
    PairBarrier("r0", "r2", "different init", id=0.003, ood=0.01),
    PairBarrier("r1", "r2", "different init", id=0.008, ood=0.0),
)


def about(mean, half=0.005):
    return Interval(mean, mean - half, mean + half)


def measured(average, ensemble, half=0.005, **changes):
    """An average of MEMBERS (mean 0.61), with the same half width of every interval."""
    return SoupEvidence(
        changes.pop("members", MEMBERS),
        average=average,
        ensemble=ensemble,
        low=average - 0.61 - half,
        high=average - 0.61 + half,
        gain=about(ensemble - 0.61, half),
        shortfall=about(ensemble - average, half),
        barriers=changes.pop("barriers", CONNECTED),
        head_shared=changes.pop("head_shared", True),
        **changes,
    )


LOW = measured(0.55, 0.66)


def member(index, **changes):
    changed = list(MEMBERS)
    changed[index] = replace(MEMBERS[index], **changes)
    return tuple(changed)


def with_barriers(**heights):
    """Barrier on validation of pairs, written as r0r1=.2."""
    return tuple(
        replace(pair, id=heights.get(pair.first + pair.second, pair.id)) for pair in CONNECTED
    )


CASES = {
    "unrelated ancestor": (
        replace(LOW, members=member(1, cosine=0.004, foreign=True)),
        ["unrelated ancestor", "r1 does not descend from the base", "cosine 0.00"],
    ),
    "heads differ": (replace(LOW, head_shared=False), ["heads differ", "one linear probe"]),
    "batchnorm statistics": (
        replace(LOW, batchnorm="averaged", reestimated=about(0.1)),
        ["BatchNorm statistics", "anew", "gains +10.0 points (+9.5 to +10.5)"],
    ),
    "learning rate too high": (
        replace(LOW, barriers=with_barriers(r0r3=0.3, r0r1=0.2)),
        ["learning rate too high", "r0 and r3: barrier 30.0 points, learning rate 3e-05 and 5e-05"],
    ),
    "connectivity broken": (
        replace(LOW, barriers=with_barriers(r0r2=0.14, r1r2=0.12)),
        ["broken by auxiliary rotation", "up to 14.0 points", "at most 0.4 points among"],
    ),
    "one weak member": (
        replace(
            LOW,
            members=tuple(
                replace(m, behind=about(m.name == "r1" and 0.2)) for m in member(1, accuracy=0.41)
            ),
        ),
        ["one weak member: r1 reaches 41.0, the others 60.7 on average, ahead by +20.0 points (+"],
    ),
    "bias, not variance": (
        measured(0.607, 0.614, ratio_error=0.3, ratio_error_high=0.4),
        ["error is bias, not variance", "the prediction ensemble gains only +0.4 points (-0.1 to"],
    ),
    "too little diversity": (
        measured(0.609, 0.612, ratio_error=0.05, ratio_error_high=0.08),
        ["too little diversity", "ratio-error 0.05, at most 0.08", "gains only +0.2 points"],
    ),
    "members too far apart": (
        LOW,
        ["predictions gains +5.0 points", "weights +11.0 points (+10.5 to +11.5) less"],
    ),
    "no cause found": (
        replace(LOW, ensemble=None, gain=None, shortfall=None),
        ["no cause found: barriers between members are at most 1.0 points"],
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_named_reason(code):
    evidence, phrases = CASES[code]
    result = diagnose(evidence)
    assert result.code == code
    assert result.verdict in ("behind", "no difference")
    for phrase in phrases:
        assert phrase.lower() in result.words.lower(), result.words


def test_an_average_ahead_of_its_members():
    result = diagnose(measured(0.65, 0.66))
    assert (result.verdict, result.code) == ("ahead", "variance removed")
    assert result.words.startswith(
        "The average is ahead of its members' mean on these rows: +4.0 points (+3.5 to +4.5)."
    )
    assert "costs 4 times as much to run, gains +5.0 points (+4.5 to +5.5)" in result.words
    assert "helped" not in result.words
    unmeasured = replace(measured(0.65, 0.66), gain=None, shortfall=None)
    assert diagnose(unmeasured).code == "no cause measured"
    assert diagnose(measured(0.65, 0.611)).code == "no cause found"


def test_of_an_average_ahead_of_its_members_no_fault_is_said():
    faulty = measured(
        0.65,
        0.66,
        head_shared=False,
        barriers=with_barriers(r0r1=0.1, r0r3=0.4),
        members=member(1, cosine=0.0, foreign=True),
    )
    result = diagnose(faulty)
    assert (result.code, result.findings) == ("variance removed", ())


def test_the_interval_decides_the_verdict():
    assert diagnose(replace(LOW, average=0.62, low=-0.01, high=0.03)).verdict == "no difference"
    assert diagnose(replace(LOW, average=0.612, low=0.001, high=0.004)).verdict == "ahead"
    assert diagnose(replace(LOW, average=0.60, low=-0.02, high=-0.001)).verdict == "behind"


def test_without_an_interval_there_is_no_verdict_and_no_fault():
    result = diagnose(replace(LOW, low=None, high=None, head_shared=False))
    assert (result.verdict, result.code, result.findings) == ("not measured", "no cause found", ())
    assert "is not known" in result.words


@pytest.mark.parametrize("half", [0.001, 0.02, 0.04])
def test_nothing_to_gain_is_said_only_where_the_whole_interval_is_below_three_points(half):
    """A gain of 0.5 points: bias with a half width below 2.5 points, not known with more."""
    level = replace(measured(0.61, 0.615, half), low=-0.01, high=0.01)
    assert (diagnose(level).code == "bias, not variance") == (0.005 + half < 0.03)


def test_little_diversity_needs_a_ratio_that_is_surely_small():
    level = measured(0.609, 0.612, ratio_error=0.1, ratio_error_high=0.2)
    assert diagnose(level).code == "bias, not variance"


def test_a_run_of_our_own_is_never_an_unrelated_ancestor():
    """Started from the base by us: what is lost was lost to the learning rate."""
    result = diagnose(replace(LOW, members=member(0, cosine=0.0)))
    assert result.code == "learning rate too high"
    assert "nothing of the base is left in r0 (median layer cosine 0.00)" in result.words
    assert "unrelated" not in result.words


def test_several_causes_are_all_reported_gravest_first():
    low = measured(0.55, 0.61, head_shared=False, members=member(1, cosine=0.0, foreign=True))
    result = diagnose(low)
    assert result.code == "unrelated ancestor"
    assert [f.code for f in result.findings] == ["heads differ", "bias, not variance"]


def test_a_run_far_out_with_falling_validation():
    members = member(0, learning_rate=1e-3, distance=0.2, fall=0.04)
    result = diagnose(replace(LOW, members=members))
    assert result.code == "learning rate too high"
    assert "r0 at learning rate 0.001 moved 20.0 times as far" in result.words
    assert diagnose(replace(LOW, members=member(0, distance=0.2))).code != result.code
    few = member(0, learning_rate=1e-3, distance=0.2, fall=0.04, validated=100)
    assert diagnose(replace(LOW, members=few)).code != result.code


def test_barriers_without_one_common_auxiliary():
    result = diagnose(replace(LOW, barriers=with_barriers(r0r1=0.1, r0r2=0.2, r1r2=0.1)))
    assert "between inits base and rotation (barrier 20.0 points)" in result.words
    assert "3 of 3 pairs" in result.words


def test_averaged_statistics_are_suspected_only_with_a_barrier():
    averaged = replace(LOW, batchnorm="averaged")
    assert diagnose(averaged).code == "members too far apart"
    broken = replace(averaged, barriers=with_barriers(r0r1=0.5))
    assert diagnose(broken).code == "batchnorm statistics"


def test_published_barrier_counts_as_broken():
    """TerraIncognita, an RxRx run against a VLCS run: ends 61.1 and 51.9, 39.8 in the middle."""
    barrier = (0.611 + 0.519) / 2 - 0.398
    assert is_broken(PairBarrier("a", "b", "different init", ood=barrier))
    assert not is_broken(PairBarrier("a", "b", "different init", id=0.01, ood=0.01))


def test_no_difference_words():
    words = diagnose(replace(measured(0.611, 0.60), low=-0.01, high=0.012)).words
    assert words.startswith(
        "The average cannot be told from its members' mean on these rows: "
        "+0.1 points (-1.0 to +1.2)."
    )
    assert "gains nothing: -1.0 points (-1.5 to -0.5)" in words


def test_where_nothing_was_lost_a_barrier_is_not_the_reason():
    """Level with its members although one pair has a barrier: there was nothing to gain."""
    level = measured(0.61, 0.615, barriers=with_barriers(r0r1=0.1))
    result = diagnose(level)
    assert result.code == "bias, not variance"
    assert [finding.code for finding in result.findings] == ["connectivity broken"]
    assert diagnose(replace(level, gain=about(0.05))).code == "connectivity broken"


def test_a_barrier_on_few_examples_may_be_noise():
    few = PairBarrier("a", "b", "different init", ood=0.05, examples_ood=60)
    assert not is_broken(few)
    assert is_broken(replace(few, examples_ood=2000))
    assert is_broken(replace(few, ood=0.2))


def test_regression_speaks_of_r2():
    words = diagnose(measured(0.7, 0.71, metric="r2")).words
    assert "on these rows: +0.090 of R2 (+0.085 to +0.095)" in words


def test_json_is_plain_and_complete():
    values = asdict(diagnose(LOW))
    assert json.loads(json.dumps(values["evidence"])) == values["evidence"]
    assert values["evidence"]["mean_member"] == pytest.approx(0.61)
    assert values["evidence"]["ensemble_gain"] == pytest.approx(0.05)
    assert values["evidence"]["gain"]["low"] == pytest.approx(0.045)
    assert values["evidence"]["barriers"][0]["first"] == "r0"


def test_nothing_measured():
    members = (Member("a", 0.6), Member("b", 0.7))
    result = diagnose(SoupEvidence(members, average=0.3, low=-0.4, high=-0.3))
    assert "neither barriers nor a prediction ensemble were measured" in result.words


def test_bad_evidence():
    with pytest.raises(InputError, match="without members"):
        SoupEvidence((), 0.5)
    with pytest.raises(InputError, match="both its low and its high"):
        SoupEvidence(MEMBERS, 0.5, low=0.1)


def test_an_average_behind_its_members_is_no_matter_of_bias_where_the_ensemble_gains() -> None:
    """As measured on PACS' cartoons: members 57.4, ensemble 60.3, average of weights 56.0 %."""
    members = tuple(Member(f"m{i}", 0.574) for i in range(4))
    evidence = SoupEvidence(
        members,
        average=0.56,
        ensemble=0.603,
        low=-0.02,
        high=-0.008,
        gain=about(0.029, 0.008),
        shortfall=about(0.043, 0.012),
    )
    result = diagnose(evidence)
    assert result.verdict == "behind"
    assert result.code == "members too far apart"
