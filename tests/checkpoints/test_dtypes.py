"""Every conversion against an independent one: torch, exact fractions, or all bit patterns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoints.dtypes import (
    STORAGE,
    code_of,
    decode,
    encode,
    first_nonfinite,
    narrow,
    widen,
    working_dtype,
)
from stockpot.checkpoints.memory import torch_tensor

ALL_16_BITS = np.arange(2**16, dtype=np.uint16)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    return encode(values.copy(), "BF16", np.empty(values.size, np.uint16))


def test_every_bfloat16_survives_widening_and_rounding():
    wide = decode(ALL_16_BITS, "BF16", np.empty(2**16, np.float32))
    expected = torch_tensor(ALL_16_BITS.copy(), "BF16").float().numpy()
    np.testing.assert_array_equal(wide.view(np.uint32), expected.view(np.uint32))
    numbers = ~np.isnan(wide)
    np.testing.assert_array_equal(to_bfloat16(wide)[numbers], ALL_16_BITS[numbers])
    assert np.isnan(widen(to_bfloat16(wide)[~numbers], "BF16")).all()


def test_rounding_to_bfloat16_is_to_nearest_even():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    ties = (np.arange(2**15, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    for x in (values, ties[np.isfinite(ties)]):
        expected = torch.from_numpy(x.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(to_bfloat16(x), expected)


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_a_double_is_rounded_once_to_bfloat16(value):
    """The nearest of the two neighbours by exact arithmetic, even on a tie."""
    from fractions import Fraction

    bits = to_bfloat16(np.array([value]))
    result = widen(bits, "BF16")[0]
    largest = Fraction(float(np.float32(3.3895314e38)))
    if abs(Fraction(value)) > largest:
        return
    below = widen(np.array([max(int(bits[0]) - 1, 0)], np.uint16), "BF16")[0]
    above = widen(np.array([min(int(bits[0]) + 1, 0xFF7F)], np.uint16), "BF16")[0]
    distance = abs(Fraction(value) - Fraction(float(result)))
    for other in (below, above):
        if np.isfinite(other) and (other < 0) == (result < 0):
            theirs = abs(Fraction(value) - Fraction(float(other)))
            assert distance < theirs or (distance == theirs and int(bits[0]) % 2 == 0)


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_eight_bit_floats_have_the_values_torch_gives_them(code):
    bits = np.arange(256, dtype=np.uint8)
    expected = torch_tensor(bits.copy(), code).float().numpy()
    np.testing.assert_array_equal(widen(bits, code), expected)
    with pytest.raises(ValueError, match="not written"):
        encode(np.zeros(1, np.float32), code, np.empty(1, np.uint8))


@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_the_first_nan_or_infinity_is_found(code):
    values = np.ones(1000, np.float32)
    stored = np.full(1000, 0x38, np.uint8) if code.startswith("F8") else narrow(values, code).copy()
    assert first_nonfinite(stored, code) is None
    nan = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7E, "BF16": 0xFFC0}
    stored[700] = nan.get(code, -np.inf)
    stored[900] = nan.get(code, np.nan)
    assert first_nonfinite(stored, code) == 700
    assert first_nonfinite(stored[:0], code) is None


def test_integers_are_never_nonfinite_and_are_left_as_they_are():
    x = np.array([2**40, -1])
    assert first_nonfinite(x, "I64") is None
    assert widen(x, "I64") is x
    assert narrow(np.array([3.0]), "I64").dtype == np.int64


def test_arithmetic_is_wider_than_the_weights():
    assert working_dtype(["BF16", "F16"]) == np.float32
    assert working_dtype(["BF16", "F32"]) == np.float64
    assert working_dtype(["F64"]) == np.float64


def test_types_without_a_code():
    assert code_of(np.zeros(1, np.complex64)) is None
    assert code_of(np.zeros(1, ">f4")) == "F32"
    assert {code_of(np.zeros(1, dtype)) for dtype in STORAGE.values()} <= set(STORAGE)
