"""The sums of one pass against the plainest float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.inspection import measure as module
from stockpot.inspection.measure import Identity, TensorSums, block_size, measure, rows_of

SHAPES = [(40, 3, 3, 3), (17, 5), (9,), (1, 20, 6), (), (1, 7)]


def blocks(arrays: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    flat = [array.reshape(-1) for array in arrays]
    return [[each[at : at + size] for each in flat] for at in range(0, flat[0].size, size)]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-12, atol=1e-12))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows_in_block", [1, 3, 1000])
def test_one_pass_gives_the_plain_formulas(shape: tuple[int, ...], rows_in_block: int) -> None:
    draw = np.random.default_rng(0)
    models = [draw.normal(size=shape).astype(np.float32) for _ in range(3)]
    rows, row = rows_of(shape)
    sums = measure(blocks(models, rows_in_block * row), shape)

    flat = np.stack([each.reshape(-1).astype(np.float64) for each in models])
    assert sums.elements == flat.shape[1]
    assert close(sums.gram, flat @ flat.T)
    delta = flat - flat[0]
    assert close(sums.deltas, delta @ delta.T)
    table = flat.reshape(3, rows, row)
    for i in range(3):
        for j in range(3):
            moved = np.roll(table[j], 1, axis=0) * (i != j)
            assert sums.shifted[i, j] == pytest.approx(float((table[i] * moved).sum()), abs=1e-9)
    signs = delta[1] * delta[2]
    assert sums.opposite == np.count_nonzero(signs < 0)
    assert sums.both == np.count_nonzero(signs)


def test_tiny_changes_of_large_weights_keep_their_angle() -> None:
    """Deltas are taken before they are squared; from the Gram matrix 1e-7 would drown in 1e16."""
    draw = np.random.default_rng(1)
    base = draw.normal(size=(64, 64)) * 1e3
    step = draw.normal(size=(2, 64, 64)) * 1e-7
    models = [base, base + step[0], base + step[1]]
    sums = measure(blocks(models, 4096), (64, 64))
    a, b = models[1] - base, models[2] - base
    cosine = sums.deltas[1, 2] / np.sqrt(sums.deltas[1, 1] * sums.deltas[2, 2])
    assert cosine == pytest.approx(float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())))


def test_sign_conflict_of_many_models_counts_pairs() -> None:
    base = np.zeros(4)
    models = [
        base,
        np.array([1.0, 1.0, 0.0, -1.0]),
        np.array([1.0, -1.0, 0.0, 0.0]),
        np.array([1.0, -1.0, 5.0, 1.0]),
    ]
    sums = measure([models], (4,))
    assert (sums.opposite, sums.both) == (0 + 2 + 0 + 1, 3 + 3 + 0 + 1)


def test_broken_values_are_counted_and_placed_over_blocks() -> None:
    good = np.ones((6, 4), np.float32)
    bad = good.copy()
    bad[3, 1] = np.nan
    bad[5, 3] = np.inf
    sums = measure(blocks([good, bad], 4), (6, 4))
    assert sums.nonfinite == {1: (2, 13)}
    assert np.isnan(sums.gram[1, 1])


def test_a_tensor_without_elements_is_no_business_of_this_function() -> None:
    with pytest.raises(ValueError, match="without elements"):
        measure([], (0, 3))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (5, 1)), ((1, 197, 768), (197, 768)), ((8, 3, 2, 2), (8, 12))],
)
def test_rows(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert rows_of(shape) == expected


def test_blocks_are_whole_rows() -> None:
    assert block_size((1000, 384)) % 384 == 0
    assert block_size((1000, 384)) <= module.BLOCK
    assert block_size((4, 10 * module.BLOCK)) == 10 * module.BLOCK
    assert block_size((3, 0)) == module.BLOCK


def test_equality_is_exact_or_up_to_a_16_bit_format() -> None:
    import torch  # the reference for bfloat16

    draw = np.random.default_rng(2)
    x = draw.normal(size=5000).astype(np.float32)
    half = x.astype(np.float16).astype(np.float64)
    brain = torch.from_numpy(x).bfloat16().double().numpy()
    same = Identity(4)
    same.look(np.stack([x.astype(np.float64), half, brain, x.astype(np.float64)]))
    assert same.exact == {(0, 3)}
    assert same.rounded[(0, 1)] == {"F16"}
    assert same.rounded[(0, 2)] == {"BF16"}
    assert same.rounded[(1, 2)] == set()
    changed = np.stack([x.astype(np.float64)] * 4)
    changed[3, 4999] += 1e-6
    same.look(changed)
    assert same.exact == set()


def test_sums_start_at_nothing() -> None:
    sums = TensorSums.zeros(2)
    assert sums.gram.shape == (2, 2)
    assert not sums.gram.any()
