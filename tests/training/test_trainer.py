"""One fine-tuning: what trains when, what is kept, and that a kill changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.backbones import Model
from stockpot.errors import InputError, StockpotError
from stockpot.evaluation.metrics import accuracy
from stockpot.training import HyperParameters, Trainer, build_feed, finetune, predict
from stockpot.training.sampler import BalancedSampler
from tests.training.tiny import (
    array_task,
    cnn_backbone,
    image_task,
    linear_model,
    parts,
    text_backbone,
    text_task,
    without_dropout,
)

HP = HyperParameters(
    steps=12,
    batch_size=4,
    evaluate_every=4,
    learning_rate=0.01,
    average_from=0.25,
    average_at="end",
)


def trainer(hp: HyperParameters = HP, *, kind: str = "classification", seed: int = 0, **more):
    task = array_task(kind)
    split = parts(task)
    feed = build_feed(task, linear_model(task).backbone, folder=Path("unused"))
    return Trainer(
        linear_model(task, hp.dropout),
        feed,
        task.labels,
        split.train,
        more.pop("validation", split.validation),
        hp,
        seed=seed,
        kind=kind,
        **more,
    )


def same(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def reference(task, hp: HyperParameters, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Every iterate of a plain training loop, without any of the machinery."""
    model = linear_model(task)
    sampler = BalancedSampler(parts(task).train, hp.batch_size, seed)
    optimizer = torch.optim.Adam(model.trained_parameters(), lr=hp.learning_rate)
    iterates = []
    for step in range(hp.steps):
        rows = sampler.rows(step)
        logits = model(torch.from_numpy(task.inputs[rows]))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(task.labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        iterates.append(model.state())
    return iterates


def test_training_is_the_plain_loop() -> None:
    run = trainer()
    run.advance(12)
    for name, tensor in reference(array_task(), HP)[-1].items():
        torch.testing.assert_close(run.state()[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_moving_average_is_the_mean_of_the_iterates_after_its_start() -> None:
    run = trainer()
    run.advance(12)
    iterates = reference(array_task(), HP)[3:]  # average_from .25 of 12: the fourth is the first
    for name, tensor in run.average().items():
        slow = torch.stack([state[name].double() for state in iterates]).mean(0)
        torch.testing.assert_close(tensor.double(), slow, rtol=1e-4, atol=1e-6)


def test_the_moving_average_of_no_iterate_is_the_last_one() -> None:
    run = trainer(HP.replace(average_from=1.0))
    run.advance(12)
    assert same(run.average(), run.state())


def test_best_is_the_first_step_with_the_best_mean_over_domains() -> None:
    run = trainer(HP.replace(evaluate_every=1, learning_rate=0.05))
    states = [run.state()]
    for _ in range(12):
        run.advance(1)
        states.append(run.state())
    means = [entry["validation"] for entry in run.progress.history]
    best = int(np.argmax(means))
    assert [entry["step"] for entry in run.progress.history] == list(range(13))
    assert run.progress.best_step == best
    assert same(run.progress.best, states[best])
    for entry in run.progress.history:
        assert entry["validation"] == pytest.approx(np.mean(list(entry["by_domain"].values())))
    assert set(run.progress.history[0]["by_domain"]) == {"north", "east"}


def test_the_last_state_is_that_of_the_last_step_and_not_the_best() -> None:
    task = array_task()
    split = parts(task)
    model = linear_model(task)
    feed = build_feed(task, model.backbone, folder=Path("unused"))
    hp = HP.replace(evaluate_every=1, learning_rate=0.3, steps=20)
    done = finetune(model, feed, task, split, hp, seed=0)
    assert done.best_step < 20
    assert not same(done.best, done.last)
    assert same(done.last, model.state())


def test_validation_scores_are_those_of_predictions() -> None:
    run = trainer()
    run.advance(4)
    task = array_task()
    for name, rows in parts(task).validation.items():
        outputs = predict(run.model, run.feed, rows)
        expected = accuracy(outputs, task.labels[rows], "classification")
        assert run.progress.history[-1]["by_domain"][name] == pytest.approx(expected)


def test_head_only_steps_change_nothing_but_the_head() -> None:
    run = trainer(HP.replace(head_only_steps=5))
    start = run.state()
    run.advance(5)
    middle = run.state()
    assert all(torch.equal(middle[n], start[n]) for n in start if n.startswith("featurizer."))
    assert not torch.equal(middle["head.weight"], start["head.weight"])
    run.advance(1)
    end = run.state()
    assert all(not torch.equal(end[n], middle[n]) for n in end if n.startswith("featurizer."))


def test_the_optimizer_is_made_anew_after_the_head_only_steps() -> None:
    """Step 6 must be the first Adam step of an optimizer over everything; the total stays."""
    hp = HP.replace(head_only_steps=5)
    run = trainer(hp)
    run.advance(5)
    before = run.state()
    run.advance(1)
    after = run.state()
    # Adam's first step has the size of the learning rate in every coordinate.
    for name in after:
        moved = (after[name] - before[name]).abs()
        torch.testing.assert_close(
            moved[moved > 0], torch.full_like(moved[moved > 0], 0.01), rtol=1e-2, atol=1e-5
        )
    run.advance(100)
    assert run.step == 12


def test_head_only_iterates_are_not_averaged() -> None:
    run = trainer(HP.replace(head_only_steps=10, average_from=0.0))
    run.advance(11)
    eleventh = run.state()
    run.advance(1)
    twelfth = run.state()
    for name, tensor in run.average().items():
        torch.testing.assert_close(tensor, (eleventh[name] + twelfth[name]) / 2)


def test_snapshots_are_the_states_at_their_steps() -> None:
    run = trainer(snapshots=[3, 8])
    run.advance(3)
    third = run.state()
    run.advance(9)
    assert sorted(run.progress.snapshots) == [3, 8]
    assert same(run.progress.snapshots[3], third)


def test_swad_of_a_run_is_the_valley_over_its_evaluations() -> None:
    run = trainer(HP.replace(evaluate_every=2, average_from=0.0, steps=20), swad=True)
    run.advance(20)
    assert run.valley.losses == [entry["validation_loss"] for entry in run.progress.history[1:]]
    assert list(run.swad()) == list(run.state())
    assert trainer().swad() is None


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    hp = HP.replace(dropout=0.5)
    runs = [trainer(hp, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        run.advance(12)
    assert same(runs[0].state(), runs[1].state())
    assert not same(runs[0].state(), runs[2].state())


def test_a_run_is_no_part_of_the_callers_randomness() -> None:
    run = trainer(HP.replace(dropout=0.5))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run.advance(3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_a_saved_run_goes_on_with_the_bytes_it_would_have_had(tmp_path: Path, stop: int) -> None:
    hp = HP.replace(dropout=0.5, head_only_steps=3, evaluate_every=2, average_from=0.0)
    whole = trainer(hp, swad=True, snapshots=[1, 9])
    whole.advance(12)
    first = trainer(hp, swad=True, snapshots=[1, 9])
    first.advance(stop)
    first.save(tmp_path / "run.pt")
    second = trainer(hp, swad=True, snapshots=[1, 9])
    second.load(tmp_path / "run.pt")
    assert second.step == stop
    second.advance(12)
    assert same(second.state(), whole.state())
    assert same(second.average(), whole.average())
    assert same(second.swad(), whole.swad())
    assert same(second.progress.best, whole.progress.best)
    assert same(second.progress.snapshots[1], whole.progress.snapshots[1])
    assert second.progress.history == whole.progress.history


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_killed_fine_tuning_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    task = image_task() if modality == "image" else text_task()

    def run(scratch: Path | None):
        backbone = cnn_backbone() if modality == "image" else text_backbone(tmp_path / "bert")
        feed = build_feed(task, backbone, folder=tmp_path / "cache", views=2)
        model = Model(backbone, 2, dropout=0.1)
        return finetune(model, feed, task, parts(task), HP, seed=3, scratch=scratch)

    whole = run(None)
    real = Trainer._take_step

    def killed(self):
        if self.step == 6:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Trainer, "_take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "scratch")
    monkeypatch.setattr(Trainer, "_take_step", real)
    assert (tmp_path / "scratch" / "trainer.pt").exists()
    again = run(tmp_path / "scratch")
    assert same(again.last, whole.last)
    assert same(again.best, whole.best)
    assert same(again.average, whole.average)
    assert again.history == whole.history
    assert not (tmp_path / "scratch").exists()


def test_frozen_statistics_stay_through_a_fine_tuning_and_averaged_ones_are_kept(
    tmp_path: Path,
) -> None:
    task = image_task()
    for batchnorm, moved in (("frozen", False), ("reestimate", True)):
        backbone = cnn_backbone(batchnorm=batchnorm)
        before = backbone.state()
        feed = build_feed(task, backbone, folder=tmp_path, views=0)
        done = finetune(Model(backbone, 2), feed, task, parts(task), HP, seed=0)
        after = backbone.state()
        name = "blocks.2.bn.running_mean"
        assert torch.equal(after[name], before[name]) is not moved
        assert torch.equal(after["bn.running_mean"], before["bn.running_mean"])
        assert (f"featurizer.{name}" in done.average) is moved
        assert "featurizer.blocks.2.bn.weight" in done.average
        assert not torch.equal(after["blocks.2.bn.weight"], before["blocks.2.bn.weight"])


def test_only_what_is_trained_is_kept(tmp_path: Path) -> None:
    task = text_task()
    backbone = text_backbone(tmp_path / "bert")
    feed = build_feed(task, backbone, folder=tmp_path / "cache")
    done = finetune(Model(backbone, 2), feed, task, parts(task), HP, seed=0, snapshots=[4])
    for state in (done.best, done.last, done.average, done.snapshots[4]):
        assert all(n.startswith(("featurizer.encoder.layer.2.", "head.")) for n in state)
        assert all(tensor.device.type == "cpu" for tensor in state.values())
        assert all(tensor.is_contiguous() for tensor in state.values())


def test_texts_of_a_step_go_through_in_parts_of_one_length_with_the_same_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = text_task()
    states = []
    for size in (1000, 2):
        monkeypatch.setattr("stockpot.training.feed._PART", size)
        backbone = text_backbone(tmp_path / "bert")
        without_dropout(backbone)
        feed = build_feed(task, backbone, folder=tmp_path / "cache")
        model = Model(backbone, 2)
        hp = HP.replace(steps=1, learning_rate=1e-3)
        run = Trainer(model, feed, task.labels, parts(task).train, {}, hp, seed=0, kind=task.kind)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        run.advance(1)
        states.append({n: p.grad.clone() for n, p in model.head.named_parameters()})
    for name, gradient in states[0].items():
        torch.testing.assert_close(states[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_numbers_are_learnt_in_standard_units_and_given_in_their_own() -> None:
    """Labels around 100 with a spread of 30 are reached at a learning rate that fits spread 1."""
    hp = HP.replace(steps=300, learning_rate=0.02, evaluate_every=100, batch_size=16)
    run = trainer(hp, kind="regression")
    run.advance(300)
    task = array_task("regression")
    assert run.progress.history[-1]["validation"] > 0.9  # R2
    model = linear_model(task)
    model.load_state(run.state())
    rows = parts(task).validation["north"]
    outputs = predict(model, run.feed, rows)
    score = accuracy(outputs, task.labels[rows], "regression")
    assert score == pytest.approx(run.progress.history[-1]["by_domain"]["north"], abs=1e-4)
    assert abs(float(outputs.mean()) - 100) < 20
    model.load_state(run.average())
    assert accuracy(predict(model, run.feed, rows), task.labels[rows], "regression") > 0.8


def test_weights_given_in_original_units_come_back_as_they_were() -> None:
    run = trainer(kind="regression")
    state = run.state()
    assert state["head.bias"].item() == pytest.approx(0.0, abs=1e-4)
    state["head.bias"] += 12
    run.load_weights(state)
    assert run.state()["head.bias"].item() == pytest.approx(12.0, abs=1e-4)


def test_divergence_names_the_step_and_the_learning_rate() -> None:
    run = trainer(HP.replace(learning_rate=1.0), kind="regression")
    run.advance(2)
    with torch.no_grad():
        run.model.head.weight.fill_(float("inf"))
    run.advance(1)
    assert "loss is not finite at step 3 with learning rate 1" in str(run.diverged)
    assert run.step == 2
    run.advance(5)
    assert run.step == 2
    with pytest.raises(StockpotError, match="validation output is not finite"):
        run.evaluate()


def test_the_weights_that_training_starts_from_are_the_first_candidate() -> None:
    """At a learning rate that destroys everything the best step is step 0."""
    run = trainer(HP.replace(learning_rate=9.0, steps=40))
    task, start = array_task(), run.state()
    with torch.no_grad():  # a start that no step of this size can improve
        run.model.backbone.network[0].weight.zero_()
        run.model.backbone.network[0].weight[0, :2] = torch.tensor([0.1, -0.05])
        run.model.backbone.network[2].weight.zero_()
        run.model.backbone.network[2].weight[0, 0] = 1.0
        run.model.head.weight.copy_(torch.tensor([[-99.0, 0, 0], [99.0, 0, 0]]))
        run.model.backbone.network[2].bias.zero_()
        run.model.backbone.network[0].bias.zero_()
    start = run.state()
    run.advance(40)
    first = run.progress.history[0]
    assert (first["step"], first["validation"], first["loss"]) == (0, 1.0, None)
    assert run.progress.best_step == 0
    assert same(run.progress.best, start)
    assert not same(run.state(), start)
    assert set(parts(task).validation) == set(first["by_domain"])


@pytest.mark.parametrize("step", [1, 6, 11])
def test_a_run_that_diverges_keeps_what_came_before(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    task, hp = array_task(), HP.replace(evaluate_every=2, average_from=0.0)
    real = Trainer._take_step

    def spoilt(self):
        if self.step == step - 1:
            with torch.no_grad():
                self.model.backbone.network[0].weight[0, 0] = float("nan")
        real(self)

    def run(steps: int = hp.steps):
        model = linear_model(task)
        feed = build_feed(task, model.backbone, folder=Path("unused"))
        own = hp.replace(steps=steps)
        return finetune(
            model, feed, task, parts(task), own, seed=0, swad=True, snapshots=[1, steps]
        )

    # Evaluations up to the one before the divergence are those of an undisturbed, shorter run.
    whole = run(max(1, (step - 1) // 2 * 2))
    monkeypatch.setattr(Trainer, "_take_step", spoilt)
    done = run()
    assert done.diverged == {
        "step": step,
        "learning_rate": hp.learning_rate,
        "what": "the loss is not finite",
    }
    assert done.steps == step - 1
    assert same(done.last, done.best)
    for state in (done.best, done.average, done.swad, *done.snapshots.values()):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    if step > 2:
        assert done.history == whole.history
        assert same(done.average, whole.average)
        assert same(done.best, whole.best)
        assert same(done.snapshots[1], whole.snapshots[1])
    else:
        assert done.best_step == 0
        assert same(done.best, linear_model(task).state())


def test_weights_that_become_infinite_end_the_run_before_any_average_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trainer(HP.replace(average_from=0.0, evaluate_every=4))
    run.advance(5)
    with torch.no_grad():
        run.model.head.bias.fill_(3e38)
    monkeypatch.setattr("stockpot.training.trainer.learning_rate", lambda hp, step: 1e38)
    run.advance(3)
    assert run.diverged is not None
    assert run.diverged.what in ("loss", "tensor 'head.bias'", "tensor 'featurizer.0.weight'")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.average().values())


def test_half_precision_of_graphics_cards_is_refused_on_the_cpu() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        trainer(HP.replace(precision="fp16"), device="cpu")


def test_labels_beyond_the_head_are_refused() -> None:
    task = array_task()
    feed = build_feed(task, linear_model(task).backbone, folder=Path("unused"))
    with pytest.raises(InputError, match="label 5 is out of range for a head with 2"):
        Trainer(
            linear_model(task),
            feed,
            task.labels * 5,
            parts(task).train,
            {},
            HP,
            seed=0,
            kind="classification",
        )


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_acts_as_the_named_optimizer_says(optimizer: str) -> None:
    """With AdamW decay scales the weights; with Adam it goes through the moments."""
    hp = HP.replace(optimizer=optimizer, weight_decay=0.5, learning_rate=0.01)
    run, plain = trainer(hp), trainer(hp.replace(weight_decay=0.0))
    start = run.state()["head.weight"]
    run.advance(1)
    plain.advance(1)
    difference = run.state()["head.weight"] - plain.state()["head.weight"]
    if optimizer == "adamw":
        torch.testing.assert_close(difference, -0.01 * 0.5 * start, rtol=1e-2, atol=1e-5)
    else:
        assert float(difference.abs().max()) <= 0.0201


def test_half_precision_trains_close_to_single_and_leaves_weights_single(tmp_path: Path) -> None:
    task = text_task()
    losses = {}
    for precision in ("no", "bf16"):
        backbone = text_backbone(tmp_path / "bert")
        feed = build_feed(task, backbone, folder=tmp_path / "cache")
        hp = HP.replace(precision=precision)
        done = finetune(Model(backbone, 2), feed, task, parts(task), hp, seed=0)
        assert all(tensor.dtype == torch.float32 for tensor in done.last.values())
        losses[precision] = [entry["loss"] for entry in done.history[1:]]
    np.testing.assert_allclose(losses["bf16"], losses["no"], rtol=0.1)
