"""What scores say, on pools whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stockpot.ranking.history import Table
from stockpot.ranking.posterior import fit
from stockpot.ranking.posterior.evidence import (
    ScorePanel,
    Sensor,
    Untrained,
    observe,
    silent,
    standard,
)
from stockpot.ranking.posterior.fallback import Trust, shrunk
from stockpot.ranking.posterior.shipped import FILE, read, shipped, written


def sensor(name: str, gain: float = 0.8, spread: float = 0.1) -> Sensor:
    return Sensor(name, gain, 0.0, spread, True, "made")


def panel(correlation: float = 0.0) -> ScorePanel:
    """Two scores of noise 0.5 that err alike so far."""
    noise = 0.5 * np.array([[1.0, correlation], [correlation, 1.0]])
    return ScorePanel((sensor("a"), sensor("b")), noise)


def test_a_gap_counts_for_what_it_is() -> None:
    """-.10 and -.12 lie near each other and -.35 far off, although ranks are one apart."""
    near, same, far = standard(np.array([-0.10, -0.12, -0.35]), 0.1)
    assert near - same == pytest.approx((near - far) * 0.02 / 0.25)
    # (3 var + 5 spread^2) / 8 of the pool; three models do not tell a spread.
    spread = np.sqrt((3 * np.var([-0.10, -0.12, -0.35]) + 5 * 0.1**2) / 8)
    assert near - far == pytest.approx(0.25 / spread)
    tiny = standard(np.array([-0.100, -0.101, -0.102]), 0.1)
    assert np.ptp(tiny) < 0.03
    assert np.ptp(standard(np.array([-0.100, -0.101, -0.102]), np.nan)) > 2.0
    assert standard(np.array([0.0, 0.0, 0.0, 50.0, np.nan]), 0.1)[:4].max() < 3.0


def test_scores_that_err_alike_are_one_voice() -> None:
    """Generalised least squares by hand, and its two limits: independent noise, and the same."""
    columns = {"a": np.array([0.1, 0.0, -0.1]), "b": np.array([0.05, 0.05, -0.1])}
    told = observe(panel(0.4), columns, np.zeros(3))
    assert told is not None
    gain, noise = np.array([0.8, 0.8]), 0.5 * np.array([[1.0, 0.4], [0.4, 1.0]])
    table = np.stack([standard(column, 0.1) for column in columns.values()])
    weights = np.linalg.solve(noise, gain)
    assert told.noise == pytest.approx(np.full(3, 1 / (weights @ gain)))
    assert told.news == pytest.approx(weights @ table / (weights @ gain))
    assert sum(told.shares.values()) == pytest.approx(told.news)
    alone = observe(panel().chosen(["a"]), columns, np.zeros(3))
    both = observe(panel(), columns, np.zeros(3))
    same = observe(panel(0.99), {"a": columns["a"], "b": columns["a"]}, np.zeros(3))
    assert alone is not None
    assert both is not None
    assert same is not None
    assert both.noise == pytest.approx(alone.noise / 2)
    assert same.noise == pytest.approx(alone.noise, rel=0.03)


def test_scores_that_were_never_seen_together_share_what_they_agree_on() -> None:
    apart = replace(panel(), noise=np.array([[0.5, np.nan], [np.nan, 0.5]]))
    values = np.random.default_rng(0).normal(size=30)
    twins = observe(apart, {"a": values, "b": values}, np.zeros(30))
    alone = observe(apart.chosen(["a"]), {"a": values}, np.zeros(30))
    assert twins is not None
    assert alone is not None
    assert twins.noise == pytest.approx(alone.noise, rel=0.05)


def test_a_score_speaks_of_its_own_model_only() -> None:
    """Twenty scores that lean the same way as a family do not move the family's other members."""
    random = np.random.default_rng(1)
    family = np.repeat([0.0, 1.0], 10)[:, None]
    values = family * random.normal(size=(1, 12)) + 0.3 * random.normal(size=(20, 12))
    names = tuple(f"m{i}" for i in range(20))
    table = Table(names, tuple(f"t{j}" for j in range(12)), values)
    posterior = fit(table, elsewhere=replace(panel().chosen(["a"]), trust=Trust()))
    before = posterior.for_task()
    after = posterior.for_task(scores={"a": {"m10": 0.1, "m11": -0.1}})
    location = [dict(zip(each.order, each.location, strict=True)) for each in (before, after)]
    moved = {name: location[1][name] - location[0][name] for name in names}
    assert moved["m10"] > 0.05
    assert moved["m11"] < -0.05
    assert all(moved[name] == pytest.approx(0.0) for name in names if name not in ("m10", "m11"))


def test_first_contact_without_history() -> None:
    """An untrained network that a good score separates is not taken for the best."""
    names = ("imagenet", "photos", "untrained")
    strong = replace(panel(0.8), noise=0.15 * np.array([[1.0, 0.8], [0.8, 1.0]]))
    posterior = fit(Table(names, (), np.empty((3, 0))), elsewhere=strong)
    scores = dict(zip(names, [0.78, 0.76, 0.45], strict=True))
    ranking = posterior.for_task(scores={"a": scores, "b": scores})
    assert ranking["untrained"].best < 0.02
    assert ranking["photos"].best > 0.3
    # One result says nothing of where its model stands among the others.
    after = posterior.for_task({"imagenet": 0.9}, {"a": scores, "b": scores})
    assert after.order == ranking.order
    assert after["imagenet"].best < 0.8


def test_an_untrained_network_stands_below_whatever_its_scores_say() -> None:
    """It gets half of one task in fifteen, shared by all; with a result of its own it is like any
    other, and a pool of such networks alone is an ordinary one."""
    names = ("imagenet", "photos", "fresh", "raw")
    scratch = Untrained(gap=8.0, spread=5.0, best=0, tasks=14)
    known = replace(panel(0.8), untrained=scratch)
    posterior = fit(Table(names, (), np.empty((4, 0))), elsewhere=known)
    scores = {"a": dict(zip(names, [0.3, 0.2, 0.9, 0.8], strict=True))}
    ranking = posterior.for_task(scores=scores, untrained=["fresh", "raw"])
    assert ranking.order == list(names)
    assert [ranking[name].best for name in names[2:]] == pytest.approx([0.5 / 15 / 4] * 2)
    assert sum(each.best for each in ranking.standings) == pytest.approx(1.0)
    # The others are judged as if these were not there.
    alone = posterior.for_task(
        scores={"a": {name: scores["a"][name] for name in names[:2]}}, candidates=names[:2]
    )
    chance = 0.5 / 15
    assert ranking["imagenet"].best == pytest.approx(
        (1 - chance) * alone["imagenet"].best + chance / 4, abs=1e-3
    )
    assert {each.name: each.reason for each in ranking.evidence}["weights"] == (
        "those of 2 of 4 models are an initialisation's; such a one was best on 0 of 14 tasks of "
        "the shipped set"
    )
    measured = posterior.for_task({"fresh": 0.9}, scores, untrained=["fresh"])
    assert not measured["fresh"].untrained
    fresh = posterior.for_task(scores=scores, untrained=names)
    assert fresh.order[0] == "fresh"
    assert not any(each.untrained for each in fresh.standings)


def test_beside_the_leading_score_others_do_not_count() -> None:
    led = replace(panel(0.4), lead="b")
    columns = {"a": np.array([0.1, 0.0, -0.1, 0.3]), "b": np.array([0.05, 0.05, -0.1, np.nan])}
    told = observe(led, columns, np.zeros(4))
    alone = observe(led.chosen(["b"]), {"b": columns["b"]}, np.zeros(4))
    other = observe(led.chosen(["a"]), {"a": columns["a"]}, np.zeros(4))
    assert told is not None
    assert alone is not None
    assert other is not None
    assert told.news[:3] == pytest.approx(alone.news)
    assert told.shares["a"][:3] == pytest.approx(0.0)
    assert told.news[3] == pytest.approx(other.news[3])  # where it is not known, others do


def test_what_the_shipped_set_found_worthless_is_not_assumed_to_be_worth_something() -> None:
    names = ("m0", "m1", "m2")
    worthless = replace(panel().chosen(["a"]), trust=Trust())
    worthless = worthless.with_others(silent([replace(sensor("b", 0.0), used=False)]))
    posterior = fit(Table(names, (), np.empty((3, 0))), elsewhere=worthless)
    plain = posterior.for_task(scores={"a": {"m0": 0.1, "m1": 0.0, "m2": -0.1}})
    both = {"a": {"m0": 0.1, "m1": 0.0, "m2": -0.1}, "b": {"m0": 0.0, "m1": 0.0, "m2": 9.0}}
    assert posterior.for_task(scores=both).location == pytest.approx(plain.location)


def test_what_decides_is_said() -> None:
    """Never tested: the shipped set's gain beside a history, its error, and no use where none."""
    values = np.random.default_rng(2).normal(size=(12, 6))
    table = Table(tuple(f"m{i}" for i in range(12)), tuple(f"t{j}" for j in range(6)), values)
    scores = {"a": {f"m{i}": 0.1 * i for i in range(12)}}
    plain = fit(table).for_task()
    for error, used in ((0.01, True), (0.05, False)):
        told = replace(panel().chosen(["a"]), trust=shrunk(0.02, error, 9))
        ranking = fit(table, elsewhere=told).for_task(scores=scores)
        evidence = {each.name: each for each in ranking.evidence}["a"]
        assert evidence.used is used
        assert f"ranking +0.020 +- {error:.3f} over 9 tasks left out" in evidence.reason
        assert (ranking.order == plain.order) is not used


def test_the_shipped_set_is_what_was_written() -> None:
    found = replace(
        panel(0.3), trust=shrunk(0.03, 0.01, 7), lead="a", untrained=Untrained(8.25, 4.5, 1, 14)
    )
    again = read(written(found, 7))
    assert again.untrained == found.untrained
    assert again.lead == "a"
    assert [s.name for s in again.sensors] == ["a", "b"]
    assert again.noise == pytest.approx(found.noise)
    assert again.trust == found.trust
    assert shipped().noise.shape == (len(shipped().sensors),) * 2
    assert json.loads(FILE.read_text())["tasks"] >= 0
