"""Approximate storage: what it keeps, what it states, and that all machines decode alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError
from stockpot.registry import add, checkout, init_registry, lossy
from tests.registry.models import BASE, moved, write_model


def test_sign_is_the_best_matrix_of_one_size_and_these_signs() -> None:
    """BitDelta, eq. 2: alpha = mean |delta| minimises the squared error."""
    draw = np.random.default_rng(0)
    base, delta = draw.normal(size=(2, 64 * 32)).astype("f4")
    stored = base + delta
    body = lossy.encode(lossy.Option("sign"), stored, "F32", 64, base)
    found = lossy.decode("sign", memoryview(body), "F32", 64, base) - base
    real = stored - base
    alpha = np.abs(real).mean()
    assert np.allclose(found, alpha * np.where(real >= 0, 1, -1), atol=1e-6)
    errors = [np.square(real - scale * np.sign(real)).sum() for scale in (0.9 * alpha, 1.1 * alpha)]
    assert np.square(real - found).sum() < min(errors)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_low_rank_is_the_truncated_svd(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(1)
    base = draw.normal(size=shape).astype("f4")
    delta = draw.normal(size=(shape[0], 5)) @ draw.normal(size=(5, shape[1]))
    stored = (base + delta).astype("f4")
    option = lossy.Option("low-rank", 3)
    body = lossy.encode(option, stored.ravel(), "F32", shape[0], base.ravel())
    found = lossy.decode("low-rank", memoryview(body), "F32", shape[0], base.ravel())
    left, values, right = np.linalg.svd((stored - base).astype(np.float64))
    best = (left[:, :3] * values[:3]) @ right[:3]
    assert np.abs(found.reshape(shape) - base - best).max() < 2e-3 * np.abs(best).max()


def test_int8_is_off_by_half_a_step_at_most() -> None:
    draw = np.random.default_rng(2)
    base, delta = draw.normal(size=(2, 50, 30)).astype("f4")
    stored = base + delta
    body = lossy.encode(lossy.Option("int8"), stored.ravel(), "F32", 50, base.ravel())
    found = lossy.decode("int8", memoryview(body), "F32", 50, base.ravel()).reshape(50, 30)
    step = np.abs(stored - base).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - stored) <= 0.5 * step + 1e-6).all()


@pytest.mark.parametrize("option", ["int8", "sign", "low-rank:2"])
def test_the_manifest_states_the_error_that_a_checkout_has(tmp_path: Path, option: str) -> None:
    state = moved(BASE, 1)
    with init_registry(tmp_path / "r") as registry:
        add(registry, write_model(tmp_path / "base", BASE))
        model = write_model(tmp_path / "tuned", state)
        done = add(registry, model, parents=["base"], lossy=option)
        checkout(registry, done.id, tmp_path / "out")
        stated = done.manifest.lossy
    assert stated is not None
    with open_checkpoint(model) as exact, open_checkpoint(tmp_path / "out") as stored:
        assert stated["original"] == exact.digest()
        assert done.manifest.digest == stored.digest() != exact.digest()
        error = change = 0.0
        for name in exact.names:
            ours, theirs = exact.read(name).astype("f8"), stored.read(name).astype("f8")
            if ours.ndim < 2 or min(ours.shape[0], ours.size // ours.shape[0]) < 8:
                assert np.array_equal(ours, theirs)  # vectors are kept exactly
            elif np.any(ours != theirs):
                error += np.square(ours - theirs).sum()
                change += np.square(ours - BASE[name]).sum()
    assert stated["error"] == pytest.approx((error / change) ** 0.5, rel=1e-6)


def test_bytes_of_a_decoded_tensor_are_fixed() -> None:
    """The decoded bytes are a blob's name: they may not depend on the machine's BLAS."""
    base = (np.arange(600, dtype="f4") / 7).astype("f4")
    stored = base + np.sin(np.arange(600)).astype("f4")
    body = lossy.encode(lossy.Option("low-rank", 2), stored, "F32", 20, base)
    found = lossy.decode("low-rank", memoryview(body), "F32", 20, base).reshape(20, 30)
    values = np.frombuffer(body[:8], "f4")
    left = np.frombuffer(body[8:88], "f2").reshape(2, 20)
    right = np.frombuffer(body[88:], "f2").reshape(2, 30)
    slow = base.reshape(20, 30).copy()
    for row in range(20):
        for column in range(30):
            for k in range(2):
                product = np.float32(np.float32(left[k, row]) * values[k])
                slow[row, column] += np.float32(product * np.float32(right[k, column]))
    assert np.array_equal(found, slow)


def test_what_cannot_be_stored_approximately_is_refused(tmp_path: Path) -> None:
    for text in ("int4", "low-rank", "low-rank:0", "sign:3"):
        with pytest.raises(InputError, match="unknown"):
            lossy.parse_option(text)
    model = write_model(tmp_path / "m", BASE)
    with (
        init_registry(tmp_path / "r") as registry,
        pytest.raises(InputError, match="needs a base"),
    ):
        add(registry, model, lossy="int8")


def test_a_model_equal_to_its_base_stays_readable(tmp_path: Path) -> None:
    """Approximations of no change are the base's own tensors, not differences to themselves."""
    with init_registry(tmp_path / "r") as registry:
        add(registry, write_model(tmp_path / "base", BASE))
        copy = add(
            registry,
            write_model(tmp_path / "copy", BASE),
            parents=["base"],
            lossy="int8",
            name="copy",
        )
        checkout(registry, copy.id, tmp_path / "out")
        assert copy.manifest.digest == registry.manifest("base").digest
