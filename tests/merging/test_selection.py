"""Quantiles found in a stream are those of the sorted whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stockpot.merging import merge, selection
from stockpot.merging.method import _REGISTERED, Block, PerModel, Real, merge_method
from stockpot.merging.selection import SAMPLE, estimate, inside, pick, threshold_passes

RANKS = (0, 1, 2, 1000, 40_000, 199_999, 200_000, 300_000)


@pytest.fixture
def found():
    """Run the passes over vectors of 200,000 magnitudes; what they find at ``RANKS``."""
    seen = {}

    @merge_method(
        "quantiles_of_a_test",
        title="",
        formula="",
        source="",
        base="none",
        parameters=(PerModel(Real("unused", 0.0)),),
        passes=lambda parameters: threshold_passes(
            lambda block, **_: block.models, lambda size, **_: RANKS, scope=seen["scope"]
        ),
    )
    def quantiles(block: Block, *, unused):
        seen["found"] = block.statistics["threshold"]
        return block.models[0]

    def run(vectors, scope="tensor", **options):
        seen["scope"] = scope
        models = [{"w": vector[:-5000], "x": vector[-5000:]} for vector in vectors]
        if scope == "tensor":
            models = [{"w": vector} for vector in vectors]
        merge(models, method="quantiles_of_a_test", hash_parents=False, **options)
        return seen["found"]

    yield run
    _REGISTERED.pop("quantiles_of_a_test")


def expected(vector):
    ordered = np.sort(np.abs(vector).astype(np.float64))[::-1]
    return [
        math.inf if rank == 0 else 0.0 if rank >= ordered.size else ordered[rank - 1]
        for rank in RANKS
    ]


def vectors():
    rng = np.random.default_rng(0)
    size = 200_000
    smooth = rng.standard_normal(size)
    rows = np.repeat(rng.standard_normal(size // 1000) * 10, 1000) * rng.standard_normal(size)
    late = smooth.copy()
    late[: size - SAMPLE // 64] *= 1e-3
    return {
        "smooth": smooth,
        "rows of different size": rows,
        "one value": np.full(size, 0.25),
        "mostly zero": np.where(rng.random(size) < 0.9, 0.0, smooth),
        "on a grid": np.round(smooth * 8) / 8,
        "large at the end": late,
        "ascending": np.linspace(0, 1, size),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", list(vectors()))
def test_exact_whatever_the_distribution(found, kind, dtype):
    vector = vectors()[kind].astype(dtype)
    other = np.random.default_rng(1).permutation(vector)
    results = found([vector, other])
    assert results[0] == expected(vector)
    assert results[1] == expected(vector)


def test_over_all_tensors_of_a_model(found):
    vector = vectors()["rows of different size"].astype(np.float32)
    assert found([vector, -vector], scope="model") == [expected(vector)] * 2


def test_a_misleading_sample_costs_time_and_nothing_else(found, monkeypatch):
    monkeypatch.setattr(
        selection, "estimate", lambda parts, column, ranks: [(3.0, 3.1)] * len(ranks)
    )
    for kind in ("smooth", "one value", "mostly zero"):
        vector = vectors()[kind]
        assert found([vector]) == [expected(vector)]


def test_estimates_bracket_a_smooth_distribution_narrowly():
    vector = np.abs(vectors()["smooth"])
    sample = vector[:SAMPLE]
    part = selection.SampledMagnitudes(vector.size, [sample])
    (low, high), *_ = estimate([part], 0, [40_000])
    exact = np.sort(vector)[-40_000]
    assert low < exact < high
    assert np.mean((vector >= low) & (vector <= high)) < 0.05


def test_ends_of_the_bracket_are_counted_not_kept():
    x = np.array([1.0] * 10 + [2.0] * 20 + [3.0] * 30 + [2.5])
    part = inside(np, x, (2.0, 3.0))
    assert (part.above, part.at_high, part.values.tolist(), part.at_low) == (0, 30, [2.5], 20)
    assert [pick([part], (2.0, 3.0), rank) for rank in (1, 30, 31, 32, 51, 52)] == [
        3.0, 3.0, 2.5, 2.0, 2.0, None,
    ]  # fmt: skip


@pytest.mark.parametrize("values", [3, 1000, 10**6])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999, 1.0])
def test_the_first_of_equal_entries_are_kept(values, share):
    """As a stable sort would, in blocks of any size, with a sample that misleads."""
    size = 300_000
    x = np.random.default_rng(values).integers(-values, values, size).astype(np.float32)
    x[: size // 2] = np.sort(x[: size // 2])
    expected = np.zeros(size, dtype=bool)
    expected[np.argsort(-np.abs(x), kind="stable")[: int(share * size)]] = True
    for elements in (None, 65_536, 70_001):
        merged = merge(
            [{"w": x}],
            method="mergekit:ties",
            base={"w": np.zeros_like(x)},
            weight=1.0,
            density=share,
            block_elements=elements,
        )
        np.testing.assert_array_equal(merged.state["w"], np.where(expected, x, 0))
