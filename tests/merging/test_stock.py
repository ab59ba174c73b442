"""Model Stock: facts of the paper, and of the bugs in other implementations."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.errors import MethodError
from stockpot.merging import merge
from stockpot.merging.methods.stock import interpolation_ratio, mean_cosine

from .models import SHAPES, numpy_states


def reference(base, models, *, bound=True, average="cosine"):
    """Model Stock of one tensor as the paper writes it, in float64."""
    deltas = [(m.astype(np.float64) - base).reshape(-1) for m in models]
    k = len(deltas)
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    cosines = []
    for i, j in pairs:
        lengths = np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j])
        cosines.append(float(deltas[i] @ deltas[j] / lengths) if lengths else 0.0)
    cosines = np.clip(cosines, -1, 1)
    c = np.mean(cosines) if average == "cosine" else np.cos(np.mean(np.arccos(cosines)))
    t = k * c / (1 + (k - 1) * c) if (c > 0 or not bound) else 0.0
    return t, base + t * np.mean(
        [m.astype(np.float64) for m in models] - base.astype(float), axis=0
    )


def correlated(count, cosine, size, std=1.0, seed=0):
    """Base 0 and vectors with about the given cosine between any two."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(size)
    own = [rng.standard_normal(size) for _ in range(count)]
    a, b = np.sqrt(max(cosine, 0)), np.sqrt(1 - max(cosine, 0))
    return [std * (a * common + b * each) for each in own]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("average", ["cosine", "angle"])
def test_agrees_with_the_formula_in_float64(count, average):
    base = np.random.default_rng(9).standard_normal(100_000)
    models = [base + delta for delta in correlated(count, 0.4, base.size, 1e-3)]
    t, expected = reference(base, models, average=average)
    states = [{"w": m} for m in models]
    result = merge(states, method="stock", base={"w": base}, average=average)
    assert result.report.fact("ratio")["w"] == pytest.approx(t, rel=1e-12)
    np.testing.assert_allclose(result.state["w"], expected, rtol=0, atol=1e-15)


def test_two_models_have_the_ratio_of_the_paper():
    cosine = np.array([0.2, 0.5, 1.0])
    np.testing.assert_allclose(
        interpolation_ratio(cosine, 2, bound=True), 2 * cosine / (1 + cosine), rtol=1e-15
    )


def test_the_two_averaging_conventions_are_the_two_that_exist():
    """Pairwise cosines .2, .5, .8: mean of cosines gives t .750, mean of angles .767."""
    gram = np.array([[1, 0.2, 0.5], [0.2, 1, 0.8], [0.5, 0.8, 1]])
    t = {
        average: float(interpolation_ratio(mean_cosine(gram, average), 3, bound=True))
        for average in ("cosine", "angle")
    }
    assert t["cosine"] == pytest.approx(0.750, abs=5e-4)
    assert t["angle"] == pytest.approx(0.767, abs=5e-4)


@pytest.mark.parametrize("granularity", ["tensor", "filter", "global"])
def test_small_updates_have_the_same_ratio_as_large_ones(granularity):
    """An absolute epsilon makes t fall from .70 to .03 (vectors of 1,536, update std 3e-6)."""
    results = []
    for std in (1e-3, 1e-6, 1e-9):
        deltas = correlated(2, 0.53, 1536, std)
        zero = {"w": np.zeros((3, 512))}
        states = [{"w": delta.reshape(3, 512)} for delta in deltas]
        merged = merge(states, method="stock", base=zero, granularity=granularity)
        results.append(merged.state["w"] / std)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-12)


def test_models_that_disagree_leave_the_base():
    base = {"w": np.ones(100)}
    delta = np.random.default_rng(0).standard_normal(100)
    states = [{"w": 1 + delta}, {"w": 1 - 0.9 * delta}]
    merged = merge(states, method="stock", base=base)
    np.testing.assert_array_equal(merged.state["w"], base["w"])
    assert merged.report.fact("ratio")["w"] == 0.0
    assert merged.report.fact("angle")["w"] == pytest.approx(180, abs=1e-3)


def test_without_bound_a_negative_cosine_extrapolates_as_the_formula_says():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(1000)
    b = -0.3 * a + rng.standard_normal(1000)
    zero = np.zeros(1000)
    t, expected = reference(zero, [a, b], bound=False)
    assert t < 0
    merged = merge([{"w": a}, {"w": b}], method="stock", base={"w": zero}, bound=False)
    np.testing.assert_allclose(merged.state["w"], expected, rtol=1e-12)
    opposite = merge([{"w": a}, {"w": -a}], method="stock", base={"w": zero}, bound=False)
    np.testing.assert_array_equal(opposite.state["w"], zero)


def test_a_frozen_tensor_keeps_its_bytes_and_one_frozen_model_pulls_to_the_base():
    base = {"w": np.random.default_rng(0).standard_normal(50)}
    frozen = merge([base, base], method="stock", base=base)
    np.testing.assert_array_equal(frozen.state["w"], base["w"])
    moved = {"w": base["w"] + 1}
    half = merge([base, moved], method="stock", base=base)
    np.testing.assert_array_equal(half.state["w"], base["w"])
    assert half.report.fact("cosine")["w"] == 0.0


@pytest.mark.parametrize("code", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("granularity", ["tensor", "filter", "global"])
def test_equal_models_give_their_own_bytes(code, granularity):
    base, (model, *_) = numpy_states(1, code=code)
    merged = merge([model] * 3, method="stock", base=base, granularity=granularity)
    for name in model:
        np.testing.assert_array_equal(merged.state[name], model[name])


def test_a_filter_is_an_output_channel_and_a_vector_is_one():
    base, models = numpy_states(2)
    merged = merge(models, method="stock", base=base, granularity="filter")
    name = "layers.0.attn.weight"
    for row in range(16):
        _, expected = reference(base[name][row], [m[name][row] for m in models])
        np.testing.assert_allclose(merged.state[name][row], expected, rtol=2e-7)
    _, expected = reference(base["layers.0.norm.bias"], [m["layers.0.norm.bias"] for m in models])
    np.testing.assert_allclose(merged.state["layers.0.norm.bias"], expected, rtol=2e-7)


def test_one_angle_for_the_whole_model():
    base, models = numpy_states(3)
    merged = merge(models, method="stock", base=base, granularity="global")
    flat = lambda state: np.concatenate([state[name].reshape(-1) for name in SHAPES])  # noqa: E731
    t, expected = reference(flat(base), [flat(m) for m in models])
    ratios = set(merged.report.fact("ratio").values())
    assert list(ratios) == [pytest.approx(t, rel=1e-9)]
    np.testing.assert_allclose(flat(merged.state), expected, rtol=1e-6, atol=1e-7)


def test_needs_two_models_and_a_base():
    base, models = numpy_states(2)
    with pytest.raises(MethodError, match="at least 2 models, got 1"):
        merge(models[:1], method="stock", base=base)
    with pytest.raises(MethodError, match="needs the base"):
        merge(models, method="stock")
