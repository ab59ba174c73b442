"""Sampler, hyper-parameters, augmentation, averages and probe, each against what it must equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.errors import InputError, TaskError
from stockpot.training import HyperParameters
from stockpot.training.augmentation import augment, crop_and_flip, jitter
from stockpot.training.averaging import LossValley, RunningMean
from stockpot.training.hyperparameters import draw_hyperparameters
from stockpot.training.probe import linear_probe
from stockpot.training.sampler import BalancedSampler

# --- batches -------------------------------------------------------------------------------------


def test_every_domain_gives_its_share_and_no_row_comes_twice_before_all_came() -> None:
    domains = {"a": np.arange(10), "b": np.arange(100, 107)}
    sampler = BalancedSampler(domains, 4, seed=0)
    steps = [sampler.rows(step) for step in range(35)]
    for rows in steps:
        assert (rows[:4] < 10).all()
        assert (rows[4:] >= 100).all()
    of_a = np.concatenate([rows[:4] for rows in steps])
    of_b = np.concatenate([rows[4:] for rows in steps])
    for epoch in of_a.reshape(-1, 10):
        assert sorted(epoch) == list(range(10))
    for epoch in of_b.reshape(-1, 7):
        assert sorted(epoch) == list(range(100, 107))


def test_a_domain_smaller_than_its_share_is_used_several_times() -> None:
    rows = BalancedSampler({"a": np.array([3, 5])}, 5, seed=0).rows(0)
    assert set(rows) == {3, 5}
    assert len(rows) == 5


def test_rows_of_a_step_depend_on_the_seed_and_the_step_alone() -> None:
    domains = {"a": np.arange(10), "b": np.arange(100, 107)}
    forward = BalancedSampler(domains, 4, seed=0)
    in_order = [forward.rows(step) for step in range(20)]
    again = BalancedSampler({"a": domains["a"]}, 4, seed=0)
    np.testing.assert_array_equal(again.rows(17), in_order[17][:4])
    assert not np.array_equal(BalancedSampler(domains, 4, seed=1).rows(0), in_order[0])


def test_nothing_to_train_on_is_told() -> None:
    with pytest.raises(TaskError, match="'b'"):
        BalancedSampler({"a": np.arange(3), "b": np.arange(0)}, 2, seed=0)
    with pytest.raises(TaskError, match="no domains"):
        BalancedSampler({}, 2, seed=0)


# --- hyper-parameters ----------------------------------------------------------------------------

SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "dropout": [0.0, 0.1, 0.5],
    "weight_decay": {"low": 0.0, "high": 1.0},
}


def test_draw_zero_is_the_defaults_and_others_are_reproducible() -> None:
    assert draw_hyperparameters(SPACE, name="x", seed=0, index=0) == HyperParameters()
    first = draw_hyperparameters(SPACE, name="x", seed=0, index=1)
    assert first == draw_hyperparameters(SPACE, name="x", seed=0, index=1)
    others = [
        draw_hyperparameters(SPACE, name=name, seed=seed, index=index).learning_rate
        for name, seed, index in (("x", 0, 2), ("x", 1, 1), ("y", 0, 1))
    ]
    assert len({first.learning_rate, *others}) == 4


def test_a_field_is_drawn_the_same_whatever_else_is_drawn() -> None:
    whole = draw_hyperparameters(SPACE, name="x", seed=0, index=3)
    alone = draw_hyperparameters(
        {"learning_rate": SPACE["learning_rate"]}, name="x", seed=0, index=3
    )
    assert whole.learning_rate == alone.learning_rate


def test_draws_cover_the_space_as_they_say() -> None:
    drawn = [draw_hyperparameters(SPACE, name="x", seed=0, index=i) for i in range(1, 401)]
    rates = np.log10([each.learning_rate for each in drawn])
    assert rates.min() > -5
    assert rates.max() < -3
    assert abs(rates.mean() + 4) < 0.1
    counts = [sum(each.dropout == value for each in drawn) for value in SPACE["dropout"]]
    assert min(counts) > 100


def test_unknown_fields_and_bad_values_are_named() -> None:
    with pytest.raises(InputError, match="unknown hyper-parameter 'lr'"):
        draw_hyperparameters({"lr": [1]}, name="x", seed=0, index=1)
    with pytest.raises(InputError, match="learning_rate: got -1"):
        HyperParameters(learning_rate=-1)
    with pytest.raises(InputError, match="head_only_steps: got 400"):
        HyperParameters(head_only_steps=400)
    with pytest.raises(InputError, match="optimizer: got lion"):
        HyperParameters().replace(optimizer="lion")


# --- augmentation --------------------------------------------------------------------------------


def images(n: int = 8) -> torch.Tensor:
    return torch.rand((n, 3, 20, 24), generator=torch.Generator().manual_seed(0))


def test_augmentation_keeps_shape_and_range_and_follows_the_generator() -> None:
    first = augment(images(), np.random.default_rng(0))
    assert first.shape == images().shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, augment(images(), np.random.default_rng(0)))
    assert not torch.equal(first, augment(images(), np.random.default_rng(1)))


def test_a_whole_crop_is_the_image_or_its_mirror() -> None:
    out = crop_and_flip(images(32), np.random.default_rng(0), area=(1, 1), aspect=(1.2, 1.2))
    mirrored = 0
    for before, after in zip(images(32), out, strict=True):
        flipped = torch.allclose(after, before.flip(-1), atol=1e-5)
        assert flipped or torch.allclose(after, before, atol=1e-5)
        mirrored += flipped
    assert 8 < mirrored < 24


def test_a_crop_takes_the_part_of_a_ramp_that_it_should() -> None:
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(200, 3, 64, 64).contiguous()
    out = crop_and_flip(ramp, np.random.default_rng(0))
    widths = (out[:, 0, 32, -1] - out[:, 0, 32, 0]).abs()
    assert float(widths.min()) > 0.7  # sqrt(.7 * 3/4) = .72 of the width
    assert float(widths.max()) <= 1.0
    assert float(widths.std()) > 0.03


def test_no_jitter_changes_nothing() -> None:
    out = jitter(images(), np.random.default_rng(0), strength=0.0, gray=0.0)
    torch.testing.assert_close(out, images(), rtol=1e-5, atol=1e-5)


def test_gray_images_have_the_luma_in_each_channel() -> None:
    out = jitter(images(), np.random.default_rng(0), strength=0.0, gray=1.0)
    luma = torch.einsum("nchw,c->nhw", images(), torch.tensor([0.299, 0.587, 0.114]))
    for channel in range(3):
        torch.testing.assert_close(out[:, channel], luma, rtol=1e-4, atol=1e-5)


def test_colour_jitter_equals_its_four_steps_one_after_the_other() -> None:
    """The single matrix against brightness, contrast, saturation and hue done in turn."""
    pale = images() * 0.2 + 0.4  # far from the limits, where clamping would differ
    out = jitter(pale, np.random.default_rng(5), strength=0.2, gray=0.0)
    rng = np.random.default_rng(5)
    factors = rng.uniform(0.8, 1.2, (3, 8))
    turn = rng.uniform(-0.2, 0.2, 8) * 2 * np.pi
    order = rng.permutation(4)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]],
        dtype=torch.float64,
    )
    for i in range(8):
        x = pale[i].double()
        for step in order:
            gray = torch.einsum("chw,c->hw", x, luma)
            if step == 0:
                x = factors[0, i] * x
            elif step == 1:
                x = factors[1, i] * x + (1 - factors[1, i]) * gray.mean()
            elif step == 2:
                x = factors[2, i] * x + (1 - factors[2, i]) * gray
            else:
                y, a, b = torch.einsum("dc,chw->dhw", yiq, x)
                c, s = np.cos(turn[i]), np.sin(turn[i])
                turned = torch.stack([y, c * a - s * b, s * a + c * b])
                x = torch.einsum("dc,chw->dhw", torch.linalg.inv(yiq), turned)
        torch.testing.assert_close(out[i].double(), x.clamp(0, 1), rtol=1e-4, atol=1e-4)


# --- averages along a run ------------------------------------------------------------------------


def states(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"w": torch.randn(50, generator=generator), "b": torch.randn(3, 2, generator=generator)}
        for _ in range(n)
    ]


def test_the_running_mean_is_the_float64_mean_rounded_once() -> None:
    iterates = states(200)
    mean = RunningMean()
    for state in iterates:
        mean.add(state)
    for name in ("w", "b"):
        slow = torch.stack([state[name].double() for state in iterates]).mean(0)
        assert torch.equal(mean.mean()[name], slow.float())


def test_means_merge_as_if_all_iterates_had_come_to_one() -> None:
    iterates = states(9)
    one, two, both = RunningMean(), RunningMean(), RunningMean()
    for index, state in enumerate(iterates):
        (one if index < 4 else two).add(state)
        both.add(state)
    one.merge(two)
    one.merge(RunningMean())
    assert one.count == 9
    torch.testing.assert_close(one.mean()["w"], both.mean()["w"], rtol=1e-7, atol=0)


def test_a_mean_of_one_is_that_one_and_of_none_is_empty() -> None:
    state = states(1)[0]
    mean = RunningMean()
    assert mean.mean() == {}
    mean.add(state)
    assert torch.equal(mean.mean()["w"], state["w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_never_touches_what_was_added(dtype: torch.dtype) -> None:
    state = {"w": torch.ones(3, dtype=dtype)}
    mean = RunningMean()
    mean.add(state)
    mean.add(state)
    assert torch.equal(state["w"], torch.ones(3, dtype=dtype))
    assert torch.equal(mean.mean()["w"], torch.ones(3))


def valley(losses: list[float], **options) -> LossValley:
    """Segment i holds one iterate, whose only weight is i."""
    made = LossValley(**options)
    for index, loss in enumerate(losses):
        segment = RunningMean()
        segment.add({"w": torch.tensor([float(index)])})
        made.add(segment, loss)
    return made


def middle(made: LossValley) -> float:
    return float(made.mean()["w"])


def test_swad_averages_the_valley_between_its_two_walls() -> None:
    # Falls to .2 at 3, the smallest of three: start 3, threshold 1.3 * mean(.2, .21, .22).
    # From 7 on six losses in a row lie above .273: the valley is 3 to 6.
    losses = [1, 0.6, 0.4, 0.2, 0.21, 0.22, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    made = valley(losses)
    assert made.start == 3
    assert made.threshold == pytest.approx(1.3 * 0.21)
    assert made.end == 7
    assert middle(made) == (3 + 4 + 5 + 6) / 4


def test_swad_goes_over_a_bump_shorter_than_its_patience() -> None:
    losses = [1, 0.2, 0.21, 0.22, 0.5, 0.5, 0.5, 0.22, 0.23, 0.22]
    assert middle(valley(losses)) == sum(range(1, 10)) / 9


def test_swad_drops_a_tail_above_the_threshold_at_the_end_of_training() -> None:
    assert middle(valley([1, 0.2, 0.21, 0.22, 0.22, 0.9, 0.9])) == (1 + 2 + 3 + 4) / 4


def test_swad_that_never_starts_is_the_last_segment() -> None:
    assert middle(valley([1, 0.9, 0.8, 0.7])) == 3
    assert LossValley().mean() == {}


def test_swad_with_little_patience_ends_the_valley_early() -> None:
    made = valley([1, 0.2, 0.21, 0.22, 0.5, 0.2], tolerance=1)
    assert made.end == 4
    assert middle(made) == 2


def test_swad_weighs_iterates_and_not_segments() -> None:
    made = LossValley(converge=1, tolerance=2)
    for values, loss in (([1.0], 0.2), ([2.0, 3.0, 4.0], 0.21)):
        segment = RunningMean()
        for value in values:
            segment.add({"w": torch.tensor([value])})
        made.add(segment, loss)
    assert middle(made) == 2.5


# --- linear probe --------------------------------------------------------------------------------


def test_the_probe_solves_logistic_regression_in_float64() -> None:
    """Its solution against the gradient that must vanish there."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) * [1, 2, 5, 0.1] + [0, 1, 2, 3]
    y = (x[:, 0] + 0.3 * rng.normal(size=200) > 0).astype(np.int64)
    weight, bias = linear_probe(x, y, x, y, n_outputs=2, kind="classification", penalties=(1e-2,))
    mean = x.mean(0)
    scale = np.sqrt(((x - mean) ** 2).mean())
    z = (x - mean) / scale
    own = weight.astype(np.float64) * scale
    offset = bias + weight @ mean
    logits = z @ own.T + offset
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = chances - np.eye(2)[y]
    np.testing.assert_allclose(error.T @ z / 200 + 1e-2 * own, 0, atol=2e-5)
    np.testing.assert_allclose(error.mean(0), 0, atol=2e-5)


def test_the_probe_takes_the_penalty_that_validates_best() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 25))
    y = (x[:, 0] > 0).astype(np.int64)
    v = rng.normal(size=(500, 25))
    vy = (v[:, 0] > 0).astype(np.int64)
    chosen = linear_probe(x, y, v, vy, n_outputs=2, kind="classification")
    losses = {}
    for penalty in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        weight, bias = linear_probe(
            x, y, v, vy, n_outputs=2, kind="classification", penalties=(penalty,)
        )
        logits = torch.from_numpy(v @ weight.T + bias)
        losses[penalty] = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(vy)))
    best = min(losses, key=losses.__getitem__)
    alone = linear_probe(x, y, v, vy, n_outputs=2, kind="classification", penalties=(best,))
    np.testing.assert_allclose(chosen[0], alone[0], rtol=1e-2, atol=1e-3)


def test_the_probe_for_numbers_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)) * [1, 3, 0.2] + 5
    y = 7 + x @ [2.0, -1.0, 10.0]
    weight, bias = linear_probe(x, y, x, y, n_outputs=1, kind="regression", penalties=(1e-9,))
    np.testing.assert_allclose(weight[0], [2, -1, 10], rtol=1e-4)
    np.testing.assert_allclose(x @ weight[0] + bias[0], y, rtol=1e-4)
    strong, _ = linear_probe(x, y, x, y, n_outputs=1, kind="regression", penalties=(1.0,))
    assert np.abs(strong[0] * x.std(0)).sum() < np.abs(weight[0] * x.std(0)).sum()


def test_a_feature_that_hardly_varies_gets_no_large_weight() -> None:
    """Fine-tuning moves all features at once: a huge weight on one destroys the model."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = (x[:, 0] + 0.5 * rng.normal(size=200) > 0).astype(np.int64)
    x[:, 4] = 1e-7 * (x[:, 4] + y)
    weight, _ = linear_probe(x[:100], y[:100], x[100:], y[100:], n_outputs=2, kind="classification")
    assert np.abs(weight[:, 4]).max() < 0.01 * np.abs(weight[:, 0]).max()


def test_the_probe_refuses_features_that_are_not_finite() -> None:
    x = np.full((4, 2), np.nan)
    with pytest.raises(InputError, match="not finite"):
        linear_probe(x, np.zeros(4), x, np.zeros(4), n_outputs=2, kind="classification")
