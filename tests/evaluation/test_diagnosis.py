import json
from dataclasses import replace

import pytest

from stockpot.errors import InputError
from stockpot.evaluation.diagnosis import diagnose, is_broken, worth_averaging
from stockpot.evaluation.evidence import Evidence, Member, PairBarrier

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
HURT = Evidence(MEMBERS, average=0.55, ensemble=0.66, barriers=CONNECTED, head_shared=True)


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
        replace(HURT, members=member(1, cosine=0.004)),
        ["unrelated ancestor", "r1 does not descend from the base", "cosine 0.00"],
    ),
    "heads differ": (replace(HURT, head_shared=False), ["heads differ", "one linear probe"]),
    "batchnorm statistics": (
        replace(HURT, batchnorm="averaged", average_reestimated=0.65),
        ["BatchNorm statistics", "anew", "gains 10.0 points"],
    ),
    "learning rate too high": (
        replace(HURT, barriers=with_barriers(r0r3=0.3, r0r1=0.2)),
        ["learning rate too high", "r0 and r3: barrier 30.0 points, learning rate 3e-05 and 5e-05"],
    ),
    "connectivity broken": (
        replace(HURT, barriers=with_barriers(r0r2=0.14, r1r2=0.12)),
        ["broken by auxiliary rotation", "up to 14.0 points", "at most 0.4 points among"],
    ),
    "one weak member": (
        replace(HURT, members=member(1, id_accuracy=0.70)),
        ["one weak member: r1 reaches 70.0 on validation, the others 90.3"],
    ),
    "bias, not variance": (
        replace(HURT, average=0.607, ensemble=0.614, ratio_error=0.3),
        ["error is bias, not variance", "the prediction ensemble gains only 0.4 points"],
    ),
    "too little diversity": (
        replace(HURT, average=0.609, ensemble=0.612, ratio_error=0.05),
        ["too little diversity", "ratio-error 0.05", "gains only 0.2 points"],
    ),
    "members too far apart": (HURT, ["predictions gains 5.0 points", "weights -6.0 points"]),
    "no cause found": (
        replace(HURT, ensemble=None),
        ["no cause found: members are connected (barrier at most 1.0 points)"],
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_named_reason(code):
    evidence, phrases = CASES[code]
    result = diagnose(evidence)
    assert result.code == code
    assert result.verdict in ("hurt", "no difference")
    for phrase in phrases:
        assert phrase.lower() in result.words.lower(), result.words


def test_an_average_that_helps():
    result = diagnose(replace(HURT, average=0.65))
    assert (result.verdict, result.code) == ("helped", "variance removed")
    assert result.words.startswith("The average is 4.0 points above its members' mean.")
    assert "gains 5.0 points" in result.words
    assert diagnose(replace(HURT, average=0.65, ensemble=None)).verdict == "helped"


def test_an_average_that_helps_in_spite_of_a_fault_reports_the_fault():
    result = diagnose(
        replace(HURT, average=0.65, barriers=with_barriers(r0r1=0.1), members=MEMBERS)
    )
    assert result.verdict == "helped"
    assert [finding.code for finding in result.findings] == ["connectivity broken"]


def test_the_interval_decides_the_verdict():
    assert diagnose(replace(HURT, average=0.62, low=-0.01, high=0.03)).verdict == "no difference"
    assert diagnose(replace(HURT, average=0.612, low=0.001, high=0.004)).verdict == "helped"
    assert diagnose(replace(HURT, average=0.60, low=-0.02, high=-0.001)).verdict == "hurt"


def test_several_causes_are_all_reported_gravest_first():
    result = diagnose(
        replace(HURT, members=member(1, cosine=0.0), head_shared=False, ensemble=0.61)
    )
    assert result.code == "unrelated ancestor"
    assert [f.code for f in result.findings] == [
        "heads differ",
        "members too far apart",
        "bias, not variance",
    ]


def test_a_run_far_out_with_falling_validation():
    members = member(0, learning_rate=1e-3, distance=0.2, fall=0.04)
    result = diagnose(replace(HURT, members=members))
    assert result.code == "learning rate too high"
    assert "r0 at learning rate 0.001 moved 20.0 times as far" in result.words
    assert diagnose(replace(HURT, members=member(0, distance=0.2))).code != result.code


def test_barriers_without_one_common_auxiliary():
    result = diagnose(replace(HURT, barriers=with_barriers(r0r1=0.1, r0r2=0.2, r1r2=0.1)))
    assert "between inits base and rotation (barrier 20.0 points)" in result.words
    assert "3 of 3 pairs" in result.words


def test_averaged_statistics_are_suspected_only_with_a_barrier():
    averaged = replace(HURT, batchnorm="averaged")
    assert diagnose(averaged).code == "members too far apart"
    broken = replace(averaged, barriers=with_barriers(r0r1=0.5))
    assert diagnose(broken).code == "batchnorm statistics"


def test_published_barrier_counts_as_broken():
    """TerraIncognita, an RxRx run against a VLCS run: ends 61.1 and 51.9, 39.8 in the middle."""
    barrier = (0.611 + 0.519) / 2 - 0.398
    assert is_broken(PairBarrier("a", "b", "different init", ood=barrier))
    assert not is_broken(PairBarrier("a", "b", "different init", id=0.01, ood=0.01))


def test_go_no_go_rule_on_published_numbers():
    """OfficeHome Art: members 61.8, ensemble 66.8: go. Rotated digits: 76.4 to 76.6: no go."""
    assert worth_averaging(0.668, 0.618)
    assert not worth_averaging(0.766, 0.764)


def test_no_difference_words():
    level = replace(HURT, average=0.611, ensemble=0.60)
    words = diagnose(level).words
    assert words.startswith("The average cannot be told from its members' mean (+0.1 points).")
    assert "gains nothing" in words
    words = diagnose(replace(level, low=-0.01, high=0.012)).words
    assert "(+0.1 points, -1.0 to +1.2)" in words


def test_where_nothing_was_lost_a_barrier_is_not_the_reason():
    """Level with its members although one pair has a barrier: there was nothing to gain."""
    level = replace(HURT, average=0.61, ensemble=0.615, barriers=with_barriers(r0r1=0.1))
    result = diagnose(level)
    assert result.code == "bias, not variance"
    assert [finding.code for finding in result.findings] == ["connectivity broken"]
    assert diagnose(replace(level, ensemble=0.66)).code == "connectivity broken"


def test_a_barrier_on_few_examples_may_be_noise():
    few = PairBarrier("a", "b", "different init", ood=0.05, examples_ood=60)
    assert not is_broken(few)
    assert is_broken(replace(few, examples_ood=2000))
    assert is_broken(replace(few, ood=0.2))


def test_regression_speaks_of_r2():
    words = diagnose(replace(HURT, metric="r2", average=0.7)).words
    assert "0.090 of R2 above" in words


def test_json_is_plain_and_complete():
    values = diagnose(replace(HURT, low=-0.07, high=-0.05)).to_json()
    assert json.loads(json.dumps(values)) == values
    assert values["evidence"]["mean_member"] == pytest.approx(0.61)
    assert values["evidence"]["ensemble_gain"] == pytest.approx(0.05)
    assert values["evidence"]["barriers"][0]["first"] == "r0"


def test_nothing_measured():
    result = diagnose(Evidence((Member("a", 0.6), Member("b", 0.7)), average=0.3))
    assert "neither barriers nor a prediction ensemble were measured" in result.words


def test_bad_evidence():
    with pytest.raises(InputError, match="without members"):
        Evidence((), 0.5)
    with pytest.raises(InputError, match="both its low and its high"):
        Evidence(MEMBERS, 0.5, low=0.1)


def test_an_average_below_its_members_is_no_matter_of_bias_where_the_ensemble_gains() -> None:
    """As measured on PACS' cartoons: members 57.4, ensemble 60.3, average of weights 56.0 %."""
    members = tuple(Member(f"m{i}", 0.574) for i in range(4))
    result = diagnose(Evidence(members, average=0.56, ensemble=0.603, low=-0.02, high=-0.008))
    assert result.verdict == "hurt"
    assert result.code == "members too far apart"
