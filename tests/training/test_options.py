"""Optimizers, schedules, losses, stopping, averages: each against a plain loop or an identity."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from stockpot.backbones import Model
from stockpot.errors import InputError
from stockpot.evaluation.metrics import accuracy
from stockpot.training import (
    HyperParameters,
    Trainer,
    build_feed,
    finetune,
    periodic_stock,
    predict,
)
from stockpot.training.objective import Objective
from stockpot.training.optimizer import learning_rate
from stockpot.training.sampler import BalancedSampler
from tests.training.tiny import (
    array_task,
    linear_model,
    parts,
    text_backbone,
    text_task,
    without_dropout,
)

HP = HyperParameters(steps=12, batch_size=4, evaluate_every=4, learning_rate=0.01)


def trainer(hp: HyperParameters, *, kind: str = "classification", **more) -> Trainer:
    task = array_task(kind)
    split = parts(task)
    model = linear_model(task, hp.dropout)
    feed = build_feed(task, model.backbone, folder=Path("unused"))
    return Trainer(
        model,
        feed,
        task.labels,
        split.train,
        more.pop("validation", split.validation),
        hp,
        seed=0,
        kind=kind,
        classes=task.classes,
        **more,
    )


def same(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b, tolerance: float = 1e-6) -> None:
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=tolerance)


# --- against a plain loop ------------------------------------------------------------------------


def schedule_of_torch(optimizer, hp: HyperParameters):
    """Warm-up and what follows as two of torch's schedulers, one after the other."""
    rest = max(1, hp.steps - hp.warmup_steps)
    after = {
        "constant": lambda: schedulers.ConstantLR(optimizer, factor=1.0),
        "linear": lambda: schedulers.PolynomialLR(optimizer, total_iters=rest, power=1.0),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, T_max=rest),
    }[hp.schedule]()
    if not hp.warmup_steps:
        return after
    before = schedulers.LinearLR(optimizer, start_factor=1e-12, total_iters=hp.warmup_steps)
    return schedulers.SequentialLR(optimizer, [before, after], milestones=[hp.warmup_steps])


def plain_loop(hp: HyperParameters, weight=None) -> dict[str, torch.Tensor]:
    """The same run with nothing but torch."""
    task = array_task()
    model = linear_model(task)
    parameters = model.trained_parameters()
    if hp.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters,
            lr=hp.learning_rate,
            momentum=hp.momentum,
            nesterov=hp.nesterov,
            weight_decay=hp.weight_decay,
        )
    else:
        optimizer = torch.optim.Adam(parameters, lr=hp.learning_rate)
    scheduler = schedule_of_torch(optimizer, hp)
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=hp.label_smoothing)
    sampler = BalancedSampler(parts(task).train, hp.batch_size * hp.accumulate, 0)
    for step in range(hp.steps):
        rows = sampler.rows(step)
        optimizer.zero_grad()
        outputs = model(torch.from_numpy(task.inputs[rows]))
        loss(outputs, torch.from_numpy(task.labels[rows])).backward()
        if hp.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, hp.clip_norm)
        optimizer.step()
        scheduler.step()
    return model.state()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.1},
        {"optimizer": "sgd", "nesterov": True},
        {"schedule": "linear"},
        {"schedule": "cosine", "warmup_steps": 4},
        {"schedule": "linear", "warmup_steps": 3, "optimizer": "sgd"},
        {"warmup_steps": 12},
        {"clip_norm": 0.1, "optimizer": "sgd"},
        {"label_smoothing": 0.2},
        {"accumulate": 3},
    ],
    ids=str,
)
def test_a_run_with_an_option_is_the_plain_loop_with_it(changes) -> None:
    hp = HP.replace(**changes)
    run = trainer(hp)
    run.advance(12)
    close(run.state(), plain_loop(hp))
    if changes != {"accumulate": 3}:  # the option is not without effect
        ordinary = trainer(HP)
        ordinary.advance(12)
        assert not same(run.state(), ordinary.state())


def test_class_weights_are_those_of_torch() -> None:
    hp = HP.replace(class_weights={"yes": 5.0}, label_smoothing=0.1)
    run = trainer(hp)
    run.advance(12)
    close(run.state(), plain_loop(hp, weight=torch.tensor([1.0, 5.0])))


@pytest.mark.parametrize("weights", [None, "balanced"])
def test_accumulated_batches_are_the_larger_batch(weights) -> None:
    whole = trainer(HP.replace(batch_size=8, class_weights=weights))
    cut = trainer(HP.replace(batch_size=2, accumulate=4, class_weights=weights))
    for run in (whole, cut):
        run.advance(12)
    close(cut.state(), whole.state())
    losses = [[entry["loss"] for entry in run.progress.history[1:]] for run in (whole, cut)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_weighted_losses_do_not_depend_on_how_texts_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = text_task()
    gradients = []
    for size in (1000, 2):
        monkeypatch.setattr("stockpot.training.feed._PART", size)
        backbone = text_backbone(tmp_path / "bert")
        feed = build_feed(task, backbone, folder=tmp_path / "cache")
        without_dropout(backbone)
        model = Model(backbone, 2)
        model.set_head(np.full((2, model.head.in_features), 0.01, np.float32), np.zeros(2))
        hp = HP.replace(steps=1, class_weights={"bad": 9.0}, label_smoothing=0.1)
        run = Trainer(
            model,
            feed,
            task.labels,
            parts(task).train,
            {},
            hp,
            seed=0,
            kind=task.kind,
            classes=task.classes,
        )
        run.advance(1)
        gradients.append(model.head.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


# --- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
def test_rates_are_those_of_torch(schedule: str, warmup: int) -> None:
    hp = HyperParameters(
        steps=20, learning_rate=0.3, schedule=schedule, warmup_steps=warmup, head_only_steps=0
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = schedule_of_torch(optimizer, hp)
    for step in range(20):
        assert learning_rate(hp, step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_head_only_steps_have_the_whole_rate_and_the_schedule_starts_after_them() -> None:
    plain = HyperParameters(steps=15, learning_rate=0.3, schedule="cosine", warmup_steps=4)
    hp = plain.replace(steps=20, head_only_steps=5)
    assert [learning_rate(hp, step) for step in range(5)] == [0.3] * 5
    for step in range(15):
        assert learning_rate(hp, 5 + step) == learning_rate(plain, step)


# --- weights of classes --------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 7 + [1] * 2 + [3] * 5)  # class 2 does not occur
    made = Objective("classification", labels, n_outputs=4, class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(made.weights[[0, 1, 3]], expected, rtol=1e-6)
    assert made.weights[2] == 1
    counts = Counter(labels.tolist())
    assert len({round(counts[k] * float(made.weights[k]), 4) for k in counts}) == 1


def test_validation_losses_are_neither_weighted_nor_smoothed() -> None:
    run = trainer(HP.replace(class_weights={"yes": 50.0}, label_smoothing=0.5))
    run.advance(12)
    task, losses = array_task(), []
    for rows in parts(task).validation.values():
        outputs = torch.from_numpy(predict(run.model, run.feed, rows))
        losses.append(
            float(nn.functional.cross_entropy(outputs, torch.from_numpy(task.labels[rows])))
        )
    assert run.progress.history[-1]["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("classification", {"class_weights": {"yess": 2.0}}, "'yess'; did you mean 'yes'"),
        ("regression", {"class_weights": "balanced"}, "class_weights: the task is regression"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing: the task is regression"),
    ],
)
def test_losses_that_do_not_fit_the_task_are_refused(kind, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        trainer(HP.replace(**changes), kind=kind)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 1.0},
        {"nesterov": True},
        {"optimizer": "sgd", "nesterov": True, "momentum": 0.0},
        {"schedule": "step"},
        {"warmup_steps": 13},
        {"warmup_steps": 3, "head_only_steps": 10},
        {"clip_norm": 0.0},
        {"accumulate": 0},
        {"early_stopping": 0},
        {"class_weights": "even"},
        {"class_weights": {"yes": -1.0}},
        {"label_smoothing": 1.0},
        {"average_at": "start"},
        {"swad_converge": 0},
        {"swad_tolerance": 0},
        {"swad_ratio": -0.1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(changes) -> None:
    name = "optimizer" if "optimizer" in changes and len(changes) == 1 else next(iter(changes))
    name = "nesterov" if "nesterov" in changes else name
    with pytest.raises(InputError, match=f"^{name}: got "):
        HP.replace(**changes)


# --- stopping early ------------------------------------------------------------------------------

LONG = HP.replace(steps=40, evaluate_every=2, learning_rate=0.3)


def whole_history() -> list[dict]:
    run = trainer(LONG)
    run.advance(40)
    return run.progress.history


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
def test_a_run_stops_after_so_many_evaluations_without_a_new_best(patience: int) -> None:
    entries = whole_history()
    scores = [entry["validation"] for entry in entries]
    expected = next(
        n for n in range(1, len(scores)) if n - 1 - int(np.argmax(scores[:n])) >= patience
    )
    run = trainer(LONG.replace(early_stopping=patience))
    run.advance(40)
    assert run.finished
    assert run.step == entries[expected - 1]["step"] < 40
    assert run.progress.history == entries[:expected]
    assert run.progress.best_step == entries[int(np.argmax(scores[:expected]))]["step"]


def test_a_head_that_trains_alone_does_not_stop_a_run() -> None:
    run = trainer(LONG.replace(early_stopping=1, head_only_steps=20))
    run.advance(40)
    assert run.step > 20


def test_snapshots_after_an_early_stop_are_the_last_weights() -> None:
    task = array_task()
    model = linear_model(task)
    feed = build_feed(task, model.backbone, folder=Path("unused"))
    hp = LONG.replace(early_stopping=2)
    done = finetune(model, feed, task, parts(task), hp, seed=0, snapshots=[2, 39])
    assert done.steps < 39
    assert same(done.snapshots[39], done.last)
    assert not same(done.snapshots[2], done.last)


def test_merged_runs_stop_by_the_evaluations_of_the_merged_weights() -> None:
    task = array_task()
    feed = build_feed(task, linear_model(task).backbone, folder=Path("unused"))

    def run(**changes):
        return periodic_stock(
            lambda index: linear_model(task),
            linear_model(task).state(),
            feed,
            task,
            parts(task),
            [LONG.replace(**changes)] * 2,
            seeds=[0, 1],
            every=2,
        )

    whole, stopped = run(), run(early_stopping=2)
    assert len(stopped.history) < len(whole.history)
    assert stopped.history == whole.history[: len(stopped.history)]
    assert stopped.history[-1]["step"] - stopped.best_step == 4


# --- averages ------------------------------------------------------------------------------------


def iterates(hp: HyperParameters) -> list[dict[str, torch.Tensor]]:
    run = trainer(hp)
    states = []
    while not run.finished:
        run.advance(1)
        states.append(run.state())
    return states


def test_the_moving_average_is_taken_where_it_validates_best() -> None:
    """Mean of the iterates so far at every evaluation, and the first of the best of those."""
    hp = HP.replace(steps=20, evaluate_every=2, learning_rate=0.3, average_from=0.3)
    task = array_task()
    model = linear_model(task)
    feed = build_feed(task, model.backbone, folder=Path("unused"))
    states = iterates(hp)
    means, scores = [], []
    for until in range(8, 21, 2):  # the iterates from step 7 on
        mean = {
            name: torch.stack([s[name].double() for s in states[6:until]]).mean(0).float()
            for name in states[0]
        }
        model.load_state(mean)
        means.append(mean)
        scores.append(
            np.mean(
                [
                    accuracy(predict(model, feed, rows), task.labels[rows], "classification")
                    for rows in parts(task).validation.values()
                ]
            )
        )
    run = trainer(hp)
    run.advance(20)
    noted = {e["step"]: e["average_validation"] for e in run.progress.history if e["step"] > 6}
    assert list(noted.values()) == pytest.approx(scores)
    assert not any("average_validation" in e for e in run.progress.history if e["step"] <= 6)
    best = int(np.argmax(scores))
    assert best < len(scores) - 1  # not the end
    close(run.average(), means[best])
    ends = trainer(hp.replace(average_at="end"))
    ends.advance(20)
    close(ends.average(), means[-1])
    assert "average_validation" not in ends.progress.history[-1]


def test_looking_at_the_average_changes_nothing_else() -> None:
    hp = HP.replace(dropout=0.5)
    runs = [trainer(hp.replace(average_at=at), swad=True) for at in ("best", "end")]
    for run in runs:
        run.advance(12)
    assert same(runs[0].state(), runs[1].state())
    assert same(runs[0].swad(), runs[1].swad())
    assert same(runs[0].progress.best, runs[1].progress.best)


def test_regression_averages_speak_the_original_units() -> None:
    hp = HP.replace(steps=60, learning_rate=0.02, evaluate_every=20, batch_size=16)
    run = trainer(hp, kind="regression")
    run.advance(60)
    task, model = array_task("regression"), linear_model(array_task("regression"))
    model.load_state(run.average())
    scores = [
        accuracy(predict(model, run.feed, rows), task.labels[rows], "regression")
        for rows in parts(task).validation.values()
    ]
    best = max(entry["average_validation"] for entry in run.progress.history[1:])
    assert np.mean(scores) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0])
def test_swad_averages_from_the_first_step_whenever_the_moving_average_starts(start) -> None:
    run = trainer(HP.replace(average_from=start, swad_converge=1), swad=True)
    run.advance(12)
    assert run.valley.start == 0
    last = run.valley.losses.index(
        [loss for loss in run.valley.losses if loss <= run.valley.threshold][-1]
    )
    states = iterates(HP)[: 4 * (last + 1)]
    slow = {
        name: torch.stack([s[name].double() for s in states]).mean(0).float() for name in states[0]
    }
    close(run.swad(), slow)


def test_swad_leaves_out_the_steps_of_the_head_alone() -> None:
    hp = HP.replace(head_only_steps=6, swad_converge=1, swad_ratio=100.0)
    run = trainer(hp, swad=True)
    run.advance(12)
    assert run.valley.inside.count + sum(s.count for _, s in run.valley.pending) == 6


def test_the_settings_of_the_valley_are_those_of_the_run() -> None:
    run = trainer(HP.replace(swad_converge=2, swad_tolerance=4, swad_ratio=0.1), swad=True)
    assert (run.valley.converge, run.valley.tolerance, run.valley.ratio) == (2, 4, 0.1)


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 9])
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "nesterov": True, "schedule": "cosine", "warmup_steps": 3},
        {"schedule": "linear", "head_only_steps": 4, "clip_norm": 0.5, "average_from": 0.4},
        {"accumulate": 2, "class_weights": "balanced", "label_smoothing": 0.1},
        {"early_stopping": 2, "learning_rate": 0.3, "evaluate_every": 1},
    ],
    ids=str,
)
def test_a_saved_run_goes_on_with_the_bytes_it_would_have_had(
    tmp_path: Path, stop: int, changes
) -> None:
    hp = HP.replace(**{"dropout": 0.3, "evaluate_every": 2, **changes})
    whole, first, second = (trainer(hp, swad=True) for _ in range(3))
    whole.advance(12)
    first.advance(stop)
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    second.advance(12)
    assert second.step == whole.step
    assert same(second.state(), whole.state())
    assert same(second.average(), whole.average())
    assert same(second.swad(), whole.swad())
    assert same(second.progress.best, whole.progress.best)
    assert second.progress.history == whole.progress.history
