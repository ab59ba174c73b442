import json
from dataclasses import replace

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.evaluation.claims import Claim, compare, compare_all

LABELS = {"soup": "Soup, greedy", "erm": "ERM, best run"}


def coin(rate, size, seed):
    return (np.random.default_rng(seed).random(size) < rate).astype(float)


def scored(gain, domains="abcd", trials=3, size=800, seed=0):
    """Two protocols, the first ahead of the other by about ``gain``."""
    cells = [(domain, trial) for domain in domains for trial in range(trials)]
    erm = {cell: coin(0.7, size, [seed, i]) for i, cell in enumerate(cells)}
    soup = {}
    for i, (cell, own) in enumerate(erm.items()):
        flips = np.random.default_rng([seed, 99, i]).random(size)
        rising = (own == 0) & (flips < gain / 0.3 + 0.05)
        falling = (own == 1) & (flips < 0.05 * 0.3 / 0.7)
        soup[cell] = np.where(rising, 1.0, np.where(falling, 0.0, own))
    return {"erm": erm, "soup": soup}


def test_a_gain_is_said_with_names_rows_and_interval():
    claim = compare(scored(0.04), "soup", "erm", labels=LABELS)
    assert claim.verdict == "better"
    assert claim.mean == pytest.approx(0.04, abs=0.01)
    ends = f"({100 * claim.low:.1f} to {100 * claim.high:.1f})"
    size = f"{100 * claim.mean:.1f} points"
    assert claim.sentence() == (
        f"Soup (greedy) is {size} better than ERM (best run) on 4 held-out domains {ends}."
    )
    assert claim.phrase() == f"better by {size} {ends}"
    assert claim.certainty() == "95 % interval over examples and trainings"


def test_the_reverse_is_a_loss_of_the_same_size():
    data = scored(0.04)
    gain, loss = compare(data, "soup", "erm"), compare(data, "erm", "soup")
    assert loss.verdict == "worse"
    assert (loss.mean, loss.low, loss.high) == (-gain.mean, -gain.high, -gain.low)


def test_a_null_says_so():
    claim = compare(scored(0.0), "soup", "erm", rows="validation rows", labels=LABELS)
    assert claim.verdict == "no difference"
    assert claim.sentence().startswith(
        "No difference that this test could see between Soup (greedy) and ERM (best run) on "
        "validation rows ("
    )


@pytest.mark.parametrize(("domains", "trials"), [("a", 1), ("ab", 1), ("a", 2)])
def test_too_few_trainings_give_numbers_and_no_verdict(domains, trials):
    """A gain of 20 points on 800 rows: enormous, and yet one seed."""
    claim = compare(scored(0.2, domains, trials), "soup", "erm", labels=LABELS)
    assert (claim.verdict, claim.covers) == ("not testable", "examples only")
    count = {1: "one training", 2: "2 trainings"}[trials]
    for words in (claim.sentence(), claim.phrase()):
        assert f"{count} each, another seed may differ" in words
        assert not {"better", "worse", "helped", "hurt"} & set(words.lower().split())
    assert claim.phrase().startswith(f"+{100 * claim.mean:.1f} points on these rows (+")


def test_one_trial_of_four_domains_is_testable():
    claim = compare(scored(0.1, trials=1), "soup", "erm")
    assert (claim.verdict, claim.trials) == ("better", 1)
    assert claim.covers == "examples, trainings and other domains"


def test_equal_scores_are_called_equal():
    data = {name: scored(0.0)["erm"] for name in ("a", "b")}
    claim = compare(data, "a", "b")
    assert claim.phrase() == "the same on every example"
    assert claim.sentence() == "a and b score the same on every example of 4 held-out domains."
    assert claim.verdict == "no difference"


def test_many_at_once_are_wider_and_say_how_many():
    data = scored(0.02)
    data |= {f"p{i}": scored(0.0, seed=i + 1)["erm"] for i in range(12)}
    alone = compare(data, "soup", "erm")
    together = compare_all(data, [("soup", "erm"), *((f"p{i}", "erm") for i in range(12))])
    assert together[0].mean == alone.mean
    assert together[0].high - together[0].low > 1.2 * (alone.high - alone.low)
    assert {claim.comparisons for claim in together} == {13}
    assert together[0].certainty().endswith("for 13 comparisons together")


def test_the_same_arguments_give_the_same_claims():
    data = scored(0.01)
    data["other"] = scored(0.0, seed=5)["erm"]
    pairs = [("soup", "erm"), ("other", "erm")]
    assert compare_all(data, pairs) == compare_all(data, pairs)


def test_a_verdict_that_does_not_follow_cannot_be_stated():
    claim = compare(scored(0.0), "soup", "erm")
    with pytest.raises(InputError, match="'better' does not follow"):
        replace(claim, verdict="better")


def test_json_there_and_back():
    claim = compare(scored(0.04), "soup", "erm", labels=LABELS)
    value = json.loads(json.dumps(claim.to_json()))
    assert Claim.from_json(value) == claim
    with pytest.raises(InputError, match="lacks 'level'"):
        Claim.from_json({key: each for key, each in value.items() if key != "level"})
    with pytest.raises(InputError, match="does not know 'words'"):
        Claim.from_json({**value, "words": "better"})


def test_regression_speaks_of_r2():
    claim = compare(scored(0.04), "soup", "erm", metric="r2")
    assert f"{claim.mean:.3f} of R2 better than erm" in claim.sentence()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"b": {("x", 0): [1.0]}}, "'a' is not among"),
        ({"a": {("x", 0): [1.0]}, "b": {("y", 0): [1.0]}}, "'a' has no scores for domain 'y'"),
        ({"a": {("x", 0): [1.0, 0.0]}, "b": {("x", 0): [1.0]}}, "expected \\(1,\\)"),
        ({"a": {("x", 0): [np.nan]}, "b": {("x", 0): [1.0]}}, "not finite for domain 'x', trial 0"),
        (
            {n: {("x", 0): [1.0], ("x", 1): [1.0, 0.0]} for n in "ab"},
            "trials of domain 'x' have 1 and 2",
        ),
    ],
)
def test_bad_input(scores, message):
    with pytest.raises(InputError, match=message):
        compare(scores, "a", "b")


def test_of_these_very_weights_trainings_that_scatter_hide_nothing() -> None:
    """One of three trainings is destroyed: their scatter could hide it, rows cannot."""
    rng = np.random.default_rng(0)
    scores = {
        "soup": {("x", t): (rng.random(400) < (0.8 if t else 0.2)) * 1.0 for t in range(3)},
        "probe": {("x", t): (rng.random(400) < 0.8) * 1.0 for t in range(3)},
    }
    (others,) = compare_all(scores, [("soup", "probe")])
    (these,) = compare_all(scores, [("soup", "probe")], trainings=False)
    assert others.low < 0 < others.high
    assert these.high < 0
    assert these.mean == others.mean
    assert these.covers == "examples only"
    assert these.verdict == "not testable"
