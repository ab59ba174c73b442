"""Model Stock during training: members, merges towards the anchor, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stockpot.errors import InputError
from stockpot.training import HyperParameters, Trainer, build_feed, periodic, periodic_stock
from tests.training.tiny import array_task, linear_model, parts

HP = HyperParameters(
    steps=9, batch_size=4, evaluate_every=100, learning_rate=0.01, average_from=1.0
)


def run(every: int = 3, *, shared: bool = False, scratch: Path | None = None, **more):
    task = array_task()
    first = linear_model(task)
    feed = build_feed(task, first.backbone, folder=Path("unused"))

    def make(index: int):
        model = linear_model(task, 0.2)
        if shared:
            model.backbone, model.featurizer = first.backbone, first.backbone.module
        return model

    return periodic_stock(
        make,
        linear_model(task).state(),
        feed,
        task,
        parts(task),
        [HP.replace(dropout=0.2), HP.replace(dropout=0.2, learning_rate=0.005)],
        seeds=[1, 2],
        every=every,
        scratch=scratch,
        **more,
    )


def test_each_merge_is_model_stock_around_the_fixed_anchor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    real = periodic.stock

    def stock(states, anchor):
        merged = real(states, anchor)
        calls.append((states, anchor, merged))
        return merged

    monkeypatch.setattr(periodic, "stock", stock)
    done = run()
    assert len(calls) == 3
    anchor = linear_model(array_task()).state()
    for states, given, merged in calls:
        assert len(states) == 2
        for name, base in anchor.items():
            assert torch.equal(given[name], base)
            a, b = (state[name].double() - base for state in states)
            cosine = float((a * b).sum() / (a.norm() * b.norm()))
            ratio = max(0.0, 2 * cosine / (1 + cosine))
            expected = base + ratio * (a + b) / 2
            torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert done.steps == 18
    assert [entry["step"] for entry in done.history] == [0, 3, 6, 9]
    means = [entry["validation"] for entry in done.history]
    assert done.best_step == 3 * means.index(max(means))


def test_members_go_on_from_the_merged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = {name: t + 1 for name, t in linear_model(array_task()).state().items()}
    starts = []
    real = Trainer.advance

    def advance(self, steps):
        starts.append(self.state())
        real(self, steps)

    monkeypatch.setattr(periodic, "stock", lambda states, anchor: dict(merged))
    monkeypatch.setattr(Trainer, "advance", advance)
    done = run()
    for state in starts[2:]:
        assert all(torch.equal(state[name], merged[name]) for name in merged)
    assert all(torch.equal(done.last[name], merged[name]) for name in merged)


def test_members_may_share_one_backbone() -> None:
    apart, together = run(), run(shared=True)
    assert all(torch.equal(apart.last[name], together.last[name]) for name in apart.last)


def test_the_optimizers_state_is_kept_or_forgotten_as_told() -> None:
    kept, forgotten = run(), run(optimizer_state="reset")
    assert not torch.equal(kept.last["head.weight"], forgotten.last["head.weight"])


def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run()
    real, count = periodic.stock, []

    def killed(states, anchor):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(states, anchor)

    monkeypatch.setattr(periodic, "stock", killed)
    with pytest.raises(KeyboardInterrupt):
        run(scratch=tmp_path / "scratch")
    monkeypatch.setattr(periodic, "stock", real)
    again = run(scratch=tmp_path / "scratch")
    assert again.history == whole.history
    assert all(torch.equal(again.last[name], whole.last[name]) for name in whole.last)
    assert all(torch.equal(again.best[name], whole.best[name]) for name in whole.best)
    assert not (tmp_path / "scratch").exists()


def test_members_of_different_length_are_refused() -> None:
    task = array_task()
    model = linear_model(task)
    feed = build_feed(task, model.backbone, folder=Path("unused"))
    for settings, seeds in (([HP], [0]), ([HP, HP.replace(steps=4)], [0, 1])):
        with pytest.raises(InputError, match="periodic merging"):
            periodic_stock(
                lambda i: model,
                model.state(),
                feed,
                task,
                parts(task),
                settings,
                seeds=seeds,
                every=2,
            )
