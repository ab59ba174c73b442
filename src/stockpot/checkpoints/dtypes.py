"""Element types of stored tensors, and the way to and from the floats one calculates with.

A type is named as in a safetensors header ("F32", "BF16", ...). numpy has no bfloat16 and no 8-bit
floats: their bits are kept as unsigned integers ("storage"), and ml_dtypes widens and rounds them.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
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
    "F8_E8M0": np.dtype(np.uint8),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
_EXTRA: dict[str, np.dtype[Any]] = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
FLOATS = ("F8_E5M2", "F8_E4M3", "BF16", "F16", "F32", "F64")

_BITS = {*_EXTRA, "F8_E8M0"}  # stored under another type's numbers; E8M0 are scales, no weights
_NUMPY_CODES = {storage: code for code, storage in STORAGE.items() if code not in _BITS}


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
    np.copyto(out, stored.view(_EXTRA.get(code, stored.dtype)), casting="unsafe")
    return out


def encode(values: Array, code: str, out: Array) -> Array:
    """Round floats (n,) to type ``code``, to nearest even and once, into storage ``out`` (n,)."""
    if code in ("F8_E4M3", "F8_E5M2"):
        raise ValueError(f"{code} is read, not written")
    if code == "BF16" and values.dtype != np.float32:
        values = _round_to_odd(values)
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(out.view(_EXTRA.get(code, out.dtype)), values, casting="unsafe")
    return out


def widen(stored: Array, code: str) -> Array:
    """Storage as values: float32 for bfloat16 and 8-bit floats, everything else as it is."""
    if code in _EXTRA:
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
    flat = np.asarray(values, dtype=np.float64 if values.dtype == np.float64 else np.float32)
    return encode(flat.reshape(-1), code, np.empty(flat.size, storage)).reshape(values.shape)


def first_nonfinite(stored: Array, code: str) -> int | None:
    """Position of the first NaN or infinity in flat storage, or None. Integers have none."""
    if not is_float(code) or not stored.size:
        return None
    if stored.itemsize == 1:
        bad = ~np.isfinite(stored.view(_EXTRA[code]))
        return int(np.argmax(bad)) if bad.any() else None
    bits = stored.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[stored.itemsize])
    exponent = _EXPONENT[code]
    sign = 1 << (8 * stored.itemsize - 1)
    signed = bits.view(f"i{stored.itemsize}")
    if int(signed.max()) < exponent and int(bits.max()) < exponent + sign:
        return None
    return int(np.argmax((bits & np.array(exponent, bits.dtype)) == exponent))


_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000}


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
