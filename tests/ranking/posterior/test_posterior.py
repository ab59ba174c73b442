"""What the whole posterior does on worlds whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import weightedtau

from stockpot.errors import InputError
from stockpot.ranking.history import Table, mean_scores
from stockpot.ranking.posterior import Ranking, fit
from stockpot.ranking.posterior.learning import bucket
from tests.ranking.posterior.worlds import split, world


def tau(ranking: Ranking, truth: dict[str, float], without: object = ()) -> float:
    names = [name for name in truth if name not in set(without)]  # type: ignore[call-overload]
    place = dict(zip(ranking.order, ranking.location, strict=True))
    return float(weightedtau([truth[n] for n in names], [place[n] for n in names])[0])


def test_without_anchors_it_is_the_history_and_with_them_better() -> None:
    table = world()
    plain, ours, more = [], [], []
    for task in table.tasks[::3]:
        train, truth = split(table, task)
        posterior = fit(train)
        baseline = mean_scores(train.scores)
        plain.append(weightedtau(list(truth.values()), baseline)[0])
        ours.append(tau(posterior.for_task(), truth))
        anchors = {name: truth[name] for name in list(truth)[::3]}
        more.append(tau(posterior.for_task(anchors), truth, anchors))
    assert np.mean(ours) > np.mean(plain) - 0.01
    assert np.mean(more) > np.mean(ours) + 0.03


def test_a_task_of_a_kind_is_recognised_and_named() -> None:
    """Twelve kinds of tasks, each an order of models of its own: anchors tell the kind."""
    random = np.random.default_rng(5)
    kinds = random.normal(size=(50, 12))
    values = np.repeat(kinds, 4, axis=1) + 0.5 * random.normal(size=(50, 48))
    names = tuple(f"kind{j // 4}-{j % 4}" for j in range(48))
    table = Table(tuple(f"m{i}" for i in range(50)), names, values)
    found, without = [], []
    for task in names[:16:4]:
        train, truth = split(table, task)
        posterior = fit(train)
        anchors = {name: truth[name] for name in random.permutation(train.models)[:12]}
        ranking = posterior.for_task(anchors)
        kind = next(each for each in ranking.evidence if each.name == "old tasks")
        assert kind.reason.startswith(f"this one is most like {task.split('-')[0]}-")
        found.append(tau(ranking, truth, anchors))
        posterior.settings = {20: replace(posterior.settings[20], likeness=0.0)}
        without.append(tau(posterior.for_task(anchors), truth, anchors))
    assert np.mean(found) > np.mean(without) + 0.05


def test_surprises_in_the_history_leave_a_chance_to_everybody() -> None:
    """In every third task a model from anywhere comes first, by far."""
    random = np.random.default_rng(3)
    table = world(tasks=24)
    values = table.values.copy()
    for task in range(0, 24, 3):
        values[random.integers(60), task] = 120.0
    chances = []
    for each in (table, replace(table, values=values)):
        train, truth = split(each, "t1")
        anchors = {name: truth[name] for name in list(truth)[::5]}
        ranking = fit(train).for_task(anchors)
        assert abs(sum(standing.best for standing in ranking.standings) - 1.0) < 1e-9
        chances.append(sum(standing.best for standing in ranking.standings[20:]))
    expected, surprised = chances
    assert expected < 0.1
    assert 0.1 < surprised < 0.5


def test_intervals_hold_what_they_promise() -> None:
    table = world(models=40, tasks=24, seed=3)
    for anchors in (0, 8):
        ranks, metrics = [], []
        for column, task in enumerate(table.tasks[::3]):
            train, truth = split(table, task)
            drawn = np.random.default_rng(column).permutation(train.models)[:anchors]
            ranking = fit(train).for_task({name: truth[name] for name in drawn})
            order = sorted(truth, key=lambda name: -truth[name])
            for each in ranking.standings:
                if not each.measured:
                    place = order.index(each.model) + 1
                    ranks.append(each.rank.low - 1e-9 <= place <= each.rank.high + 1e-9)
                    assert each.metric is not None
                    metrics.append(each.metric.low <= truth[each.model] <= each.metric.high)
        assert 0.82 <= np.mean(ranks) <= 0.97
        assert 0.82 <= np.mean(metrics) <= 0.97


def test_anchors_are_taken_at_their_word() -> None:
    train, truth = split(world(), "t0")
    anchors = {name: truth[name] for name in train.models[:12]}
    ranking = fit(train).for_task(anchors)
    measured = [each for each in ranking.standings if each.measured]
    assert [each.model for each in measured] == sorted(anchors, key=lambda n: -anchors[n])
    for each in measured:
        assert each.metric is not None
        assert each.metric.mean == each.metric.low == each.metric.high == anchors[each.model]
        assert each.reasons[0] == "measured on this task"


def test_numbers_hang_together() -> None:
    train, truth = split(world(), "t1")
    ranking = fit(train).for_task({name: truth[name] for name in train.models[:8]})
    assert sum(each.best for each in ranking.standings) == pytest.approx(1.0)
    for each in ranking.standings:
        assert 1 <= each.rank.low <= each.rank.mean <= each.rank.high <= 60
        assert each.score.low <= each.score.mean <= each.score.high
        assert each.metric is not None
        assert each.metric.low <= each.metric.mean <= each.metric.high
    assert ranking[ranking.order[0]] is ranking.standings[0]
    assert len(ranking.standings) == 60
    assert {each.name for each in ranking.evidence} == {"history", "metadata", "anchors"}
    with pytest.raises(InputError, match="'x' is not among"):
        ranking["x"]


def test_the_same_question_has_the_same_answer() -> None:
    train, truth = split(world(models=30), "t1")
    anchors = {name: truth[name] for name in train.models[:6]}
    first, second = fit(train).for_task(anchors), fit(train).for_task(anchors)
    assert (first.standings, first.evidence) == (second.standings, second.evidence)


def test_an_increasing_change_of_old_tasks_units_changes_nothing() -> None:
    train, _ = split(world(models=30), "t1")
    other = Table(train.models, train.tasks, np.exp(train.values / 20.0))
    assert fit(train).for_task().order == fit(other).for_task().order


def test_lower_is_better() -> None:
    train, truth = split(world(models=30), "t1")
    anchors = {name: truth[name] for name in train.models[:8]}
    up = fit(train).for_task(anchors)
    down = fit(train).for_task({n: -v for n, v in anchors.items()}, lower_is_better=True)
    assert up.order == down.order
    first, same = up.standings[0].metric, down.standings[0].metric
    assert first is not None
    assert same is not None
    assert same.mean == pytest.approx(-first.mean)
    assert same.low == pytest.approx(-first.high)


def test_corrupted_rows_do_not_spoil_the_rest() -> None:
    table = world(models=80, noise=0.4)
    values = table.values.copy()
    random = np.random.default_rng(5)
    bad = random.choice(80, 12, replace=False)
    for row in bad:
        values[row] = random.permutation(values[row]) + random.normal(0, 10, values.shape[1])
    spoiled = Table(table.models, table.tasks, values)
    good = [table.models[i] for i in range(80) if i not in bad]
    clean_taus, taus = [], []
    for task in table.tasks[:4]:
        train, truth = split(table, task)
        truth = {name: truth[name] for name in good}
        anchors = {name: truth[name] for name in good[::4]}
        clean_taus.append(tau(fit(train).for_task(anchors, candidates=good), truth, anchors))
        ranking = fit(spoiled.without_tasks([task])).for_task(anchors, candidates=good)
        taus.append(tau(ranking, truth, anchors))
    assert np.mean(taus) > np.mean(clean_taus) - 0.05


def test_gaps_are_no_news() -> None:
    table = world(models=40)
    values = table.values.copy()
    values[np.random.default_rng(0).random(values.shape) < 0.3] = np.nan
    values[0, 1:] = np.nan
    train, truth = split(table, "t3")
    holes = Table(table.models, table.tasks, values).without_tasks(["t3"])
    assert tau(fit(holes).for_task(), truth) > tau(fit(train).for_task(), truth) - 0.12


def test_one_lucky_result_does_not_lead_the_list() -> None:
    table = world(models=40)
    values = table.values.copy()
    values[7, :] = np.nan
    values[7, 0] = np.nanmax(values[:, 0]) + 1.0
    ranking = fit(Table(table.models, table.tasks, values)).for_task()
    assert ranking.order[0] != "m7"
    widths = {each.model: each.rank.high - each.rank.low for each in ranking.standings}
    assert widths["m7"] > np.median(list(widths.values()))


def sized(seed: int = 0) -> Table:
    """A world in which size decides."""
    random = np.random.default_rng(seed)
    size = random.normal(size=70)
    values = 1.5 * size[:, None] + random.normal(size=(70, 10))
    facts = {f"m{i}": {"parameters": float(np.exp(18 + size[i]))} for i in range(70)}
    return Table(
        tuple(f"m{i}" for i in range(70)), tuple(f"t{j}" for j in range(10)), values, facts
    )


def test_a_model_never_seen_is_judged_by_its_facts() -> None:
    posterior = fit(sized())
    names = [*posterior.table.models, "big", "small", "stranger"]
    facts = {"big": {"parameters": 1e9}, "small": {"parameters": 5e6}}
    ranking = posterior.for_task(candidates=names, metadata=facts)
    assert ranking.order.index("big") < 10
    assert ranking.order.index("small") > 62
    assert 20 < ranking.order.index("stranger") < 53
    assert "judged by its facts" in ranking["big"].reasons[0]
    evidence = {each.name: each for each in ranking.evidence}
    assert evidence["metadata"].used
    stranger, known = ranking["stranger"].rank, ranking[ranking.order[35]].rank
    assert stranger.high - stranger.low > known.high - known.low


def test_a_stranger_may_be_an_anchor() -> None:
    train, truth = split(sized(), "t0")
    anchors = {"new": 9.0, **{name: truth[name] for name in train.models[:5]}}
    ranking = fit(train).for_task(anchors, candidates=[*train.models, "new"])
    assert ranking["new"].measured
    assert ranking.order.index("new") < 10


def scored(quality: float, seed: int = 0) -> tuple[Table, np.ndarray]:
    """A world, and a score that sees ``quality`` of what history does not know."""
    random = np.random.default_rng(seed)
    table = world(models=40, tasks=12, seed=seed)
    centred = table.values - table.values.mean(axis=1, keepdims=True)
    return table, quality * centred / centred.std() + random.normal(size=table.values.shape)


def test_a_score_that_helps_is_used_and_helps() -> None:
    table, scores = scored(1.5)
    before, after = [], []
    for j, task in enumerate(table.tasks[:4]):
        train, truth = split(table, task)
        posterior = fit(train, scores={"good": np.delete(scores, j, axis=1)})
        given = dict(zip(table.models, scores[:, j].tolist(), strict=True))
        ranking = posterior.for_task(scores={"good": given})
        assert posterior.sensors["good"].used
        before.append(tau(posterior.for_task(), truth))
        after.append(tau(ranking, truth))
    assert np.mean(after) > np.mean(before) + 0.05
    moved = [r for each in ranking.standings for r in each.reasons if "from good" in r]
    assert moved


@pytest.mark.parametrize("quality", [0.0, -1.5])
def test_a_score_that_does_not_help_is_switched_off(quality: float) -> None:
    table, scores = scored(quality)
    train, _ = split(table, "t0")
    posterior = fit(train, scores={"bad": scores[:, 1:]})
    given = dict(zip(table.models, scores[:, 0].tolist(), strict=True))
    ranking = posterior.for_task(scores={"bad": given})
    evidence = {each.name: each for each in ranking.evidence}
    assert not evidence["bad"].used
    assert "history" in evidence["bad"].reason or "does not help" in evidence["bad"].reason
    assert ranking.order == posterior.for_task().order


def test_a_score_without_a_record_is_used_with_care_and_says_so() -> None:
    table = world(models=30)
    given = {name: float(i) for i, name in enumerate(table.models)}
    ranking = fit(table).for_task(scores={"new": given, "twin": given})
    evidence = {each.name: each for each in ranking.evidence}
    assert evidence["new"].used
    assert "never tested" in evidence["new"].reason
    alone = fit(table).for_task(scores={"new": given})
    both = np.array([ranking[name].rank.mean for name in table.models])
    one = np.array([alone[name].rank.mean for name in table.models])
    assert np.abs(both - one).max() < 3.0  # the same news twice is little more news


def test_one_value_of_a_score_says_nothing() -> None:
    ranking = fit(world(models=20)).for_task(scores={"x": {"m0": 1.0}})
    assert not {each.name: each for each in ranking.evidence}["x"].used


def test_no_history_at_all() -> None:
    empty = Table(tuple("abcde"), (), np.zeros((5, 0)))
    scores = {"s": dict(zip("abcde", [5.0, 4.0, 3.0, 2.0, 1.0], strict=True))}
    assert fit(empty).for_task(scores=scores).order == list("abcde")
    anchors = {"c": 0.9, "a": 0.1}
    ranking = fit(empty).for_task(anchors)
    assert ranking.order[0] == "c"
    assert ranking.standings[0].metric is not None or ranking.unit != ranking.unit
    assert not ranking.evidence[0].used


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_a_short_history(tasks: int) -> None:
    table = world(models=12, tasks=tasks)
    ranking = fit(table).for_task({"m0": 70.0, "m1": 75.0, "m2": 60.0})
    assert len(ranking.order) == 12
    assert sum(each.best for each in ranking.standings) == pytest.approx(1.0)


@pytest.mark.parametrize("anchors", [0, 1, 2, 3])
def test_the_metric_is_told_from_what_there_is(anchors: int) -> None:
    train, truth = split(world(models=30), "t0")
    ranking = fit(train).for_task({name: truth[name] for name in train.models[:anchors]})
    inside = []
    for each in ranking.standings:
        assert each.metric is not None
        inside.append(each.metric.low <= truth[each.model] <= each.metric.high)
    assert np.mean(inside) > 0.6


def test_next_weighs_improvement_against_cost() -> None:
    train, truth = split(world(models=30), "t0")
    posterior = fit(train)
    ranking = posterior.for_task({name: truth[name] for name in train.models[:6]})
    plain = ranking.next()
    assert len(plain) == 24
    assert plain[0].improvement == max(each.improvement for each in plain)
    costly = ranking.next({plain[0].model: 1e6})
    assert costly[0].model == plain[1].model
    assert costly[-1].cost == 1e6
    assert posterior.for_task().next()[0].improvement > 0
    everything = posterior.for_task(truth)
    assert everything.next() == []
    with pytest.raises(InputError, match="expected a positive"):
        ranking.next({"m9": 0.0})


def test_settings_are_learnt_from_the_history() -> None:
    quiet, loud = fit(world(noise=0.1)), fit(world(noise=3.0))
    assert quiet.settings[20].noise < loud.settings[20].noise
    assert quiet.settings[20].merit > quiet.settings[20].merit_without
    assert [bucket(k) for k in (0, 1, 10, 11, 500)] == [0, 5, 5, 20, 20]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.for_task({"m0": float("nan")}), "result of anchor 'm0' is nan"),
        (lambda p: p.for_task(scores={"s": {"m0": float("inf")}}), "'s' of 'm0' is infinite"),
        (lambda p: p.for_task(candidates=[]), "no model to rank"),
        (lambda p: fit(p.table, scores={"s": np.zeros((2, 2))}), "score 's' has shape"),
    ],
)
def test_wrong_questions_are_refused(call: object, words: str) -> None:
    posterior = fit(world(models=10, tasks=3))
    with pytest.raises(InputError, match=words):
        call(posterior)  # type: ignore[operator]
