"""Element types of stored tensors, and the way to and from the floats one calculates with.

A type is named as in a safetensors header ("F32", "BF16", ...). numpy has no bfloat16 and no 8-bit
floats: their bits are kept as unsigned integers ("storage") and widened by shifts or a table.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STORAGE: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E5M2": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
FLOATS = ("F8_E5M2", "F8_E4M3", "BF16", "F16", "F32", "F64")

_NUMPY_CODES = {
    storage: code for code, storage in STORAGE.items() if code not in ("BF16", "F8_E4M3", "F8_E5M2")
}


def code_of(array: Array) -> str | None:
    """Code of a numpy array's dtype; None where it has none (complex, object, text)."""
    return _NUMPY_CODES.get(array.dtype.newbyteorder("="))


def is_float(code: str) -> bool:
    return code in FLOATS


def working_dtype(codes: list[str]) -> np.dtype[Any]:
    """Float type in which tensors of these types are combined: float64 if any is 32- or 64-bit."""
    wide = any(code in ("F32", "F64") for code in codes)
    return np.dtype(np.float64 if wide else np.float32)


def decode(stored: Array, code: str, out: Array) -> Array:
    """Widen storage values (n,) of type ``code`` into the float array ``out`` (n,), exactly."""
    if code == "BF16":
        if out.dtype == np.float32:
            bits = out.view(np.uint32)
            np.copyto(bits, stored)
            np.left_shift(bits, 16, out=bits)
        else:
            bits = stored.astype(np.uint32)
            np.left_shift(bits, 16, out=bits)
            np.copyto(out, bits.view(np.float32))
    elif code in ("F8_E4M3", "F8_E5M2"):
        np.copyto(out, _eight_bit_values(code)[stored])
    else:
        np.copyto(out, stored, casting="unsafe")
    return out


def encode(values: Array, code: str, out: Array) -> Array:
    """Round floats (n,) to type ``code``, to nearest even and once, into storage ``out`` (n,).

    float32 ``values`` are overwritten where ``code`` is BF16.
    """
    if code == "BF16":
        if values.dtype != np.float32:
            values = _round_to_odd(values)
        _encode_bfloat16(values, out)
    elif code in ("F8_E4M3", "F8_E5M2"):
        raise ValueError(f"{code} is read, not written")
    else:
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="unsafe")
    return out


def widen(stored: Array, code: str) -> Array:
    """Storage as values: float32 for bfloat16 and 8-bit floats, everything else as it is."""
    if code in ("BF16", "F8_E4M3", "F8_E5M2"):
        flat = np.ascontiguousarray(stored).reshape(-1)
        return decode(flat, code, np.empty(flat.shape, np.float32)).reshape(stored.shape)
    return stored


def narrow(values: Array, code: str) -> Array:
    """Values as storage of type ``code``: the inverse of ``widen``, rounding where it must."""
    storage = STORAGE[code]
    if values.dtype == storage:
        return values
    if not is_float(code):
        return values.astype(storage)
    flat = np.array(values, dtype=np.float64 if values.dtype == np.float64 else np.float32)
    return encode(flat.reshape(-1), code, np.empty(flat.size, storage)).reshape(values.shape)


def first_nonfinite(stored: Array, code: str) -> int | None:
    """Position of the first NaN or infinity in flat storage, or None. Integers have none."""
    if not is_float(code) or not stored.size:
        return None
    if code in ("F8_E4M3", "F8_E5M2"):
        bad = ~np.isfinite(_eight_bit_values(code))[stored]
        return int(np.argmax(bad)) if bad.any() else None
    bits = stored.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[stored.itemsize])
    exponent = _EXPONENT[code]
    sign = 1 << (8 * stored.itemsize - 1)
    signed = bits.view(f"i{stored.itemsize}")
    if int(signed.max()) < exponent and int(bits.max()) < exponent + sign:
        return None
    return int(np.argmax((bits & np.array(exponent, bits.dtype)) == exponent))


_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000}


def _encode_bfloat16(values: Array, out: Array) -> None:
    # Adding half of the last kept bit, plus that bit itself, rounds to nearest even in integers.
    bits = values.view(np.uint32)
    carry = bits >> 16
    carry &= 1
    carry += 0x7FFF
    if values.size and np.isnan(values.max()):
        nan = np.isnan(values)
        carry[nan] = 0
        bits[nan] |= 0x00400000
    bits += carry
    bits >>= 16
    np.copyto(out, bits, casting="unsafe")


def _round_to_odd(values: Array) -> Array:
    """float64 to float32 such that a second rounding to fewer bits is as good as a single one.

    Source: Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved
    algorithms using rounding to odd".
    """
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    finite = np.isfinite(single)
    wrong = finite & (single.astype(np.float64) != values) & ((single.view(np.uint32) & 1) == 0)
    if wrong.any():
        toward = np.where(values[wrong] > single[wrong], np.float32(np.inf), np.float32(-np.inf))
        single[wrong] = np.nextafter(single[wrong], toward)
    return single


@cache
def _eight_bit_values(code: str) -> Array:
    """Values of all 256 codes of an 8-bit float. Source: OCP 8-bit floating point specification
    1.0.
    """
    bits = np.arange(256)
    mantissa_bits = 3 if code == "F8_E4M3" else 2
    bias = 7 if code == "F8_E4M3" else 15
    exponent = (bits & 0x7F) >> mantissa_bits
    mantissa = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    normal = (1 + mantissa) * np.exp2(exponent - bias)
    values = np.where(exponent == 0, mantissa * np.exp2(1.0 - bias), normal)
    if code == "F8_E4M3":
        values[(bits & 0x7F) == 0x7F] = np.nan
    else:
        values[exponent == 31] = np.where(mantissa[exponent == 31] == 0, np.inf, np.nan)
    return np.asarray(np.where(bits & 0x80, -values, values), dtype=np.float32)
