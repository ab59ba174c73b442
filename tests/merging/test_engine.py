"""The engine: nothing of how work is cut shows, NaN is named, errors end everything."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from stockpot.errors import InputError, NonFiniteError
from stockpot.merging import merge
from stockpot.merging.block import CHUNK, Block, Count, Largest, TensorShape, Total
from stockpot.merging.pool import WorkerPool
from stockpot.merging.random import uniform

from .models import torch_states

SHAPES = {"large": (3, CHUNK + 17), "row": (2, 5), "scalar": ()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "stock"])
def test_block_size_and_threads_do_not_change_a_bit(dtype, method):
    base, models = torch_states(3, dtype, shapes=SHAPES)
    base = None if method == "linear" else base
    expected = merge(models, method=method, base=base, threads=1).state
    for block in (5_000, CHUNK, CHUNK + 1, 10**9):
        for threads in (1, 4):
            again = merge(
                models, method=method, base=base, threads=threads, block_elements=block
            ).state
            assert equal(expected, again), (block, threads)


def test_a_block_may_be_one_element():
    base, models = torch_states(2, torch.bfloat16, shapes={"w": (7, 3)})
    for granularity in ("tensor", "filter", "global"):
        options = {"method": "stock", "base": base, "granularity": granularity}
        assert equal(
            merge(models, **options).state, merge(models, block_elements=1, **options).state
        )


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "stock"])
def test_a_torch_device_gives_the_same_bytes(method):
    base, models = torch_states(2, torch.bfloat16, shapes=SHAPES)
    base = None if method == "linear" else base
    options = {"method": method, "base": base}
    assert equal(merge(models, **options).state, merge(models, device="torch-cpu", **options).state)


def test_an_unusable_device_is_one_line():
    with pytest.raises(InputError, match="device 'nonsense' cannot be used"):
        merge([{"w": torch.ones(2)}], device="nonsense")


@pytest.mark.parametrize("method", ["linear", "stock"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_named_with_model_tensor_and_position(method, bad):
    base, models = torch_states(2, torch.bfloat16)
    base = None if method == "linear" else base
    models[1]["layers.1.attn.weight"][3, 5] = bad
    with pytest.raises(NonFiniteError, match=r"model 2: tensor 'layers.1.attn.weight'.*\[3, 5\]"):
        merge(models, method=method, base=base)
    allowed = merge(models, method=method, base=base, allow_nonfinite=True).state
    assert not allowed["layers.1.attn.weight"].isfinite().all()


def test_sums_are_exact_in_any_order():
    chunks = (
        np.random.default_rng(0).standard_normal((50, 2, 2)) * 10.0 ** np.arange(50)[:, None, None]
    )
    values = []
    for order in (range(50), reversed(range(50))):
        parts = [Total(chunks[i : i + 1]) for i in order]
        for part in parts[1:]:
            parts[0].join(part)
        values.append(parts[0].value())
    np.testing.assert_array_equal(*values)
    a, b = Count(np.array([1, 2])), Largest(np.array([1.0, 5.0]))
    a.join(Count(np.array([10, 0])))
    b.join(Largest(np.array([3.0, 4.0])))
    assert a.value().tolist() == [11, 2]
    assert b.value().tolist() == [3.0, 5.0]


def test_random_numbers_belong_to_a_place():
    whole = uniform(7, "w", 1, 0, 200_000)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.005
    for start, count in [(0, 1), (65_535, 3), (70_000, 100_000)]:
        np.testing.assert_array_equal(
            uniform(7, "w", 1, start, count), whole[start : start + count]
        )
    for other in [(8, "w", 1), (7, "v", 1), (7, "w", 2)]:
        assert (uniform(*other, 0, 100) != whole[:100]).mean() > 0.9


def test_models_of_a_block_are_gone_after_deltas():
    block = Block(TensorShape("w", (2,)), [np.ones(2)], np.ones(2), xp=np)
    assert block.deltas[0].tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="overwritten"):
        _ = block.models
    with pytest.raises(RuntimeError, match="needs a base"):
        _ = Block(TensorShape("w", (2,)), [np.ones(2)], None, xp=np).deltas


def test_the_pool_runs_stages_in_order_and_pieces_on_all_threads():
    log, lock = [], threading.Lock()

    def flow(name):
        for stage in range(3):

            def piece(context, stage=stage):
                with lock:
                    log.append((name, stage, threading.get_ident()))

            yield [piece] * 4
            done = [entry for entry in log if entry[:2] == (name, stage)]
            assert len(done) == 4
        yield []

    WorkerPool(4, dict).run(flow(name) for name in range(10))
    assert len(log) == 120
    for name in range(10):
        stages = [stage for other, stage, _ in log if other == name]
        assert stages == sorted(stages)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_ends_the_work(threads):
    done = []

    def flow(number):
        def piece(context):
            if number == 5:
                raise ValueError("five")
            done.append(number)

        yield [piece]

    with pytest.raises(ValueError, match="five"):
        WorkerPool(threads, dict).run(flow(number) for number in range(1000))
    assert len(done) < 1000

    def broken():
        yield flow(1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        WorkerPool(threads, dict).run(broken())


def test_a_result_beyond_its_type_is_named():
    """mergekit gives NaN for whole fp16 tensors here."""
    big = {"w": torch.tensor([[1.0, 60000.0]]).half()}
    with pytest.raises(NonFiniteError, match=r"'w' a value beyond F16 at \[0, 1\]"):
        merge([big], weights=2.0, normalize=False)
    assert merge([big], weights=2.0, normalize=False, dtype="float32").state["w"][0, 1] == 120000


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e25])
def test_quick_inner_products_are_near_enough_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    size = 3 * CHUNK + 1234
    common = rng.standard_normal(size)
    vectors = [((common + rng.standard_normal(size)) * scale).astype(np.float32) for _ in range(3)]
    vectors[1][CHUNK : 2 * CHUNK] = 0  # a chunk that float32 cannot tell from underflow
    block = Block(TensorShape("x", (size,)), vectors, None, xp=np)
    wide = np.array(vectors, dtype=np.float64)
    exact = wide @ wide.T
    norms = np.sqrt(np.diagonal(exact))
    for quick, error in ((True, 1e-8), (False, 1e-14)):
        with np.errstate(over="ignore", invalid="ignore"):  # as in the pool
            found = block.gram(vectors, quick=quick).value()
        assert np.abs((found - exact) / np.outer(norms, norms)).max() < error


def test_infinities_of_both_signs_have_a_sum() -> None:
    assert np.isnan(Total(np.array([np.inf, 1.0, -np.inf])).value())
    assert Total(np.array([np.inf, 1.0])).value() == np.inf


def test_model_stock_takes_infinities_where_they_are_allowed() -> None:
    base, models = torch_states(2, torch.float32)
    name = next(iter(base))
    models[0][name].view(-1)[0], models[1][name].view(-1)[1] = torch.inf, -torch.inf
    merged = merge(models, method="stock", base=base, allow_nonfinite=True).state
    assert not merged[name].view(-1)[0].isfinite()
    assert torch.equal(merged[name].view(-1)[2:], base[name].view(-1)[2:])
