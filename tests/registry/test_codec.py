"""The coding of tensors: exact for every bit pattern, small for fine-tunings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stockpot.errors import CheckpointError
from stockpot.registry import codec

WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def round_trip(data: np.ndarray, base: np.ndarray | None, floating: bool) -> np.ndarray:
    body = b"".join(codec.encode(data, floating=floating, base=base))
    out = np.empty_like(data)
    codec.decode(memoryview(body), out, floating=floating, base=base)
    return out


def reference(data: np.ndarray, base: np.ndarray) -> list[int]:
    """Zigzagged differences of floats' places in their order, in plain Python integers."""
    bits = 8 * data.itemsize
    top, whole = 1 << (bits - 1), 1 << bits

    def order(value: int) -> int:
        return whole - 1 - value if value & top else value + top

    found = []
    for one, other in zip(data.tolist(), base.tolist(), strict=True):
        gap = (order(one) - order(other)) % whole
        gap = gap - whole if gap >= top else gap
        found.append(2 * gap if gap >= 0 else -2 * gap - 1)
    return found


@given(data=st.data(), width=st.sampled_from(sorted(WIDTHS)), floating=st.booleans())
@settings(max_examples=120, deadline=None)
def test_every_bit_pattern_comes_back(data, width, floating) -> None:
    kind = WIDTHS[width]
    size = data.draw(st.integers(0, 70))
    bits = hnp.arrays(kind, size, elements=st.integers(0, int(np.iinfo(kind).max)))
    values, base = data.draw(bits), data.draw(st.none() | bits)
    assert np.array_equal(round_trip(values, base, floating), values)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_special_values_come_back_against_each_other(kind: str) -> None:
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, -np.nan]
    values = np.array(special, kind).view(f"u{kind[1]}")
    payload = values.copy()
    payload[6] |= 3  # a NaN with something in it
    pairs = np.array([(a, b) for a in payload for b in payload], values.dtype)
    ours, theirs = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    assert np.array_equal(round_trip(ours, theirs, True), ours)


def test_differences_are_those_of_the_definition() -> None:
    draw = np.random.default_rng(0)
    data, base = draw.integers(0, 1 << 16, (2, 500)).astype(np.uint16)
    scratch = codec._Scratch(500, data.dtype)
    assert scratch.forward(data, base, True).tolist() == reference(data, base)


def test_tensors_longer_than_a_block_and_not_a_multiple_of_it() -> None:
    draw = np.random.default_rng(1)
    size = 2 * codec.BLOCK // 4 + 17
    base = draw.normal(size=size).astype("f4")
    near = (base * (1 + 1e-4 * draw.normal(size=size))).astype("f4")
    data, other = near.view("u4"), base.view("u4")
    assert np.array_equal(round_trip(data, other, True), data)
    assert np.array_equal(round_trip(data, None, True), data)


def test_a_fine_tuning_takes_a_fraction_and_an_equal_tensor_next_to_nothing() -> None:
    draw = np.random.default_rng(2)
    base = (0.05 * draw.normal(size=200_000)).astype("f4")
    near = base + (1e-5 * draw.normal(size=base.size)).astype("f4")

    def share(data: np.ndarray, other: np.ndarray | None) -> float:
        parts = codec.encode(data.view("u4"), floating=True, base=other)
        return sum(map(len, parts)) / data.nbytes

    assert share(near, base.view("u4")) < 0.5
    assert share(near, None) > 0.8
    assert share(base, base.view("u4")) < 0.001


def test_damaged_bodies_are_refused() -> None:
    data = np.arange(5000, dtype=np.uint32)
    body = bytearray(b"".join(codec.encode(data, floating=False)))
    out = np.empty_like(data)
    for damaged in (body[:-1], body[:3], body + b"x", b"\xff" * len(body)):
        with pytest.raises(CheckpointError):
            codec.decode(memoryview(bytes(damaged)), out, floating=False)
    lengths = np.frombuffer(bytes(body[:16]), "<u4").copy()
    lengths[0] ^= 1 << 31  # a packed plane that claims to be plain
    with pytest.raises(CheckpointError, match="unpacks to"):
        codec.decode(memoryview(lengths.tobytes() + bytes(body[16:])), out, floating=False)
