"""Which tensors of a checkpoint are encoded weights: by its config, and by what is stored.

Each reader takes the stored tensors of one weight and says what they stand for, from headers
alone (tables of shapes aside). What belongs to an encoding and to no reader is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import FLOATS, Array, decode, is_float
from stockpot.checkpoints.encodings.config import (
    QuantConfig,
    is_transposed,
    read_quantization,
)
from stockpot.checkpoints.encodings.formats import FORMATS, METHODS, SIGNS
from stockpot.checkpoints.encodings.scales import ScaleGrid, scale_values
from stockpot.checkpoints.encodings.values import (
    CodedBlocks,
    ScaledRows,
    Values,
    power_of_two,
    unpack_bits,
    unpack_fp4,
)
from stockpot.checkpoints.gguf_file import GgufCheckpoint
from stockpot.errors import CheckpointError
from stockpot.reading import parse_json

_F8 = ("F8_E4M3", "F8_E5M2")
# Scales of activations and caches: they belong to the arithmetic of a quantised model.
_ACTIVATIONS = (
    *(".input_scale", ".output_scale", ".input_zero_point", ".output_zero_point"),
    *(".k_scale", ".v_scale", ".q_scale", ".activation_scale", ".scale_input"),
    *(".input_global_scale", ".k_zero_point", ".v_zero_point"),
)
# What is left of a weight's encoding where no reader took it.
_REMAINS = (
    *("weight_scale_inv", "weight_scale", "weight_scale_2", "weight_packed", "weight_zero_point"),
    *("absmax", "quant_map", "qweight", "qzeros", "g_idx", "SCB", "scale_weight", "_blocks"),
    *("pre_quant_scale", "weight_shape", "scale_packed", "weight_global_scale", "weight_g_idx"),
)
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Nibble of a 32-bit word in which each of eight columns lies."""


@dataclass(frozen=True)
class Encoded:
    """A weight that is stored in another form.

    ``parts`` are the stored tensors that it is made of; ``build`` reads their small tables.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    parts: tuple[str, ...]
    build: Callable[[], Values]


@dataclass(frozen=True)
class Detected:
    """All encoded weights of a checkpoint, and stored tensors that mean nothing without them."""

    weights: tuple[Encoded, ...]
    left_out: tuple[str, ...]


def detect(stored: Checkpoint) -> Detected:
    """What is encoded in a checkpoint. Raises ``CheckpointError`` naming what is not decoded."""
    if isinstance(stored, GgufCheckpoint):
        return _of_gguf(stored)
    return _Detector(stored, read_quantization(stored)).run()


def _of_gguf(stored: GgufCheckpoint) -> Detected:
    weights = []
    for name, (_, shape) in stored.encoded.items():
        stored.values(name)  # an unknown type is refused now, not when its turn comes
        weights.append(Encoded(name, shape, "gguf", (name,), partial(stored.values, name)))
    return Detected(tuple(weights), ())


@contextmanager
def fitting(label: str, name: str) -> Iterator[None]:
    """Raise ``CheckpointError`` where tables of an encoding turn out not to fit each other."""
    try:
        yield
    except (IndexError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{label}: the encoding of '{name}' is damaged: {error}",
            hint="take the model before its quantisation, or another copy of it",
        ) from error


class _Detector:
    def __init__(self, stored: Checkpoint, config: QuantConfig) -> None:
        self.stored, self.config = stored, config
        self.left = dict.fromkeys(stored.names)
        self.weights: list[Encoded] = []

    def run(self) -> Detected:
        readers: Mapping[str, Callable[[str, str], Encoded | None]] = {
            ".absmax": self._bnb4,
            ".SCB": self._bnb8,
            ".qweight": self._qweight,
            ".weight_packed": self._packed,
            "_blocks": self._gpt_oss,
            "_scale_inv": self._scaled,
            ".weight_scale": self._scaled,
            "_scale": self._scaled,
            ".scale_weight": self._comfy,
        }
        for end, read in readers.items():
            for name in [name for name in self.stored.names if name.endswith(end)]:
                weight = None
                if name in self.left:
                    with fitting(self.stored.label, name):
                        weight = read(name.removesuffix(end), name)
                if weight is not None:
                    for part in weight.parts:
                        self.left.pop(part, None)
                    self.weights.append(weight)
        left_out = self._activations() if self.weights else ()
        self._refuse_remains()
        return Detected(tuple(self.weights), left_out)

    # ---- what nothing is made of
    def _activations(self) -> tuple[str, ...]:
        names = [name for name in self.left if name.endswith(_ACTIVATIONS) or name == "scaled_fp8"]
        for name in names:
            del self.left[name]
        return tuple(names)

    def _refuse_remains(self) -> None:
        method = self.config.method
        for name in self.left:
            for key, ends in SIGNS.items():
                end = next((end for end in ends if name.endswith(end)), None)
                if end is not None and self._beside_integers(name.removesuffix(end)):
                    raise self._refused(name, FORMATS[key].title, FORMATS[key].refused)
        known = FORMATS.get(method)
        for name in self.left:
            info = self.stored.info(name)
            number = info.dtype not in (*FLOATS, "I64", "BOOL")
            if (
                self._remains(name)
                or (number and len(info.shape) > 1 and name.endswith(("weight", "weights")))
                or (number and known is not None and known.refused)
            ):
                reason = f"it is {info.dtype} {list(info.shape)}"
                if self.config.transformed:
                    reason = "its transform_config rotates weights"
                elif known is not None and known.refused:
                    reason = known.refused
                title = METHODS.get(method, method) or "an unknown format"
                raise self._refused(name, title, reason)
            if info.dtype in _F8 and len(info.shape) > 1 and (method or self.weights):
                raise self._refused(name, METHODS.get(method, "FP8"), "it has no scale")

    def _remains(self, name: str) -> bool:
        """Whether a tensor belongs to an encoding: by its name, and by what lies beside it."""
        last = name.rpartition(".")[2]
        if last in ("weight_scale", "absmax") or last.endswith(("_blocks", "_scales")):
            return self._beside_integers(name.rpartition(".")[0])
        return last in _REMAINS

    def _beside_integers(self, module: str) -> bool:
        """Whether a quantisation is declared, or integers lie in a module."""
        return bool(self.config.method) or any(
            not is_float(info.dtype)
            for other, info in self.stored.tensors.items()
            if other.startswith(module)
        )

    def _refused(self, name: str, title: str, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.stored.label}: '{name}' is encoded as {title}, which is not decoded: {reason}",
            hint="take the model before its quantisation, or dequantise it with its own library",
        )

    # ---- small helpers
    def _info(self, name: str) -> tuple[str, tuple[int, ...]]:
        info = self.stored.tensors.get(name)
        return ("", ()) if info is None else (info.dtype, info.shape)

    def _floats(self, name: str) -> Array:
        """A small tensor, flat, as float32."""
        info = self.stored.info(name)
        raw = self.stored.raw(name)
        if info.dtype == "F8_E8M0":
            return power_of_two(raw)
        return decode(raw, info.dtype, np.empty(info.size, np.float32))

    def _matrix(self, name: str) -> Array:
        return self.stored.raw(name).reshape(self.stored.info(name).shape)

    def _parts(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.stored)

    def _check(self, right: bool, name: str, title: str, reason: str) -> None:
        if not right:
            raise self._refused(name, title, reason)

    def _refuse_transposed(self, name: str, title: str) -> None:
        reason = "its layers keep weights transposed (Conv1D), the encoding does not say how"
        self._check(not is_transposed(self.stored), name, title, reason)

    # ---- one reader a format
    def _bnb4(self, weight: str, name: str) -> Encoded | None:
        states = [n for n in self.left if n.startswith(f"{weight}.quant_state.bitsandbytes__")]
        if weight not in self.stored or len(states) != 1 or f"{weight}.quant_map" not in self.left:
            return None
        title = "bitsandbytes 4 bit"
        self._refuse_transposed(weight, title)
        try:
            state = parse_json(self.stored.raw(states[0]).tobytes())
            shape, block = tuple(int(n) for n in state["shape"]), int(state["blocksize"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._refused(states[0], title, f"its state cannot be read: {error}") from None
        size, absmax = math.prod(shape), self._info(name)[1]
        right = self.stored.info(weight).nbytes == -(-size // 2) and block > 0
        self._check(right, weight, title, f"its bytes are not those of {list(shape)}")
        self._check(math.prod(absmax) == -(-size // block), name, title, "not one scale a block")
        nested = [f"{weight}.nested_absmax", f"{weight}.nested_quant_map"]
        is_nested = self._info(name)[0] == "U8"
        right = "nested_blocksize" in state and "nested_offset" in state
        right = not is_nested or (right and all(part in self.left for part in nested))
        self._check(right, name, title, "its scales are encoded too, and a part of that is missing")

        def build() -> Values:
            scales = self._floats(name)
            if is_nested:
                inner = np.arange(scales.size) // int(state["nested_blocksize"])
                codes = self._floats(nested[1])[scales.astype(np.intp)]
                scales = codes * self._floats(nested[0])[inner]
                scales += np.float32(state["nested_offset"])
            packed = self.stored.raw(weight).view(np.uint8)
            return CodedBlocks(packed, self._floats(f"{weight}.quant_map"), scales, block)

        parts = (weight, *(n for n in self.left if n.startswith(f"{weight}.")))
        return Encoded(weight, shape, "bnb4", parts, build)

    def _bnb8(self, module: str, name: str) -> Encoded | None:
        weight, layout = f"{module}.weight", f"{module}.weight_format"
        dtype, shape = self._info(weight)
        if dtype != "I8" or len(shape) != 2 or self._info(name)[1] != shape[:1]:
            return None
        self._refuse_transposed(weight, "bitsandbytes 8 bit")
        by_row = layout not in self.stored or not self.stored.raw(layout).any()
        self._check(by_row, layout, "bitsandbytes 8 bit", "not stored row by row")
        return self._grid(weight, (weight, name, layout), "bnb8", name, factor=1 / 127)

    def _qweight(self, module: str, name: str) -> Encoded | None:
        zeros, scales = f"{module}.qzeros", f"{module}.scales"
        shape, table = self._info(name)[1], self._info(scales)[1]
        if zeros not in self.stored or len(shape) != 2 or len(table) != 2:
            return None
        self._refuse_transposed(name, "GPTQ or AWQ")
        parts = self._parts(name, zeros, scales, f"{module}.g_idx")
        if self._info(name)[0] != "I32" or self._info(zeros)[0] != "I32":
            return None
        if shape[1] == table[1]:
            return self._gptq(module, parts)
        if shape[1] * 8 == table[1]:
            return self._awq(module, parts)
        return None

    def _gptq(self, module: str, parts: Sequence[str]) -> Encoded:
        name, zeros, scales = parts[:3]
        bits, less = self.config.bits, self.config.zeros_less_one
        title = "GPTQ"
        self._check(bits in (2, 4, 8), name, title, "no config says that it has 2, 4 or 8 bits")
        self._check(less is not None, name, title, "no config says how zeros are stored")
        rows, outputs = self.stored.info(name).shape
        inputs, groups = rows * 32 // bits, self.stored.info(scales).shape[0]
        right = self._info(zeros)[1] == (groups, -(-outputs * bits // 32))
        self._check(right, zeros, title, f"its shape does not fit '{scales}'")
        order = parts[3] if len(parts) > 3 else None
        if order is not None:
            self._check(self._info(order)[1] == (inputs,), order, title, "not one group an input")

        def build() -> Values:
            words = self._matrix(name)

            def unpack(first: int, last: int) -> Array:
                columns = np.ascontiguousarray(words[:, first:last].T)
                return unpack_bits(columns, bits).astype(np.float32)

            zero = unpack_bits(self._matrix(zeros), bits)[:, :outputs].T
            if less:
                zero = (zero + 1) & (2**bits - 1)
            return self._by_input(unpack, scales, zero, self._groups(order, inputs, groups))

        return Encoded(f"{module}.weight", (outputs, inputs), "gptq", tuple(parts), build)

    def _awq(self, module: str, parts: Sequence[str]) -> Encoded:
        name, zeros, scales = parts[:3]
        version = self.config.awq_version
        self._check(version == "gemm", name, "AWQ", f"its version is {version}, not gemm")
        inputs, (groups, outputs) = self.stored.info(name).shape[0], self._info(scales)[1]
        right = self._info(zeros)[1] == (groups, outputs // 8)
        self._check(right, zeros, "AWQ", f"its shape does not fit '{scales}'")

        def columns(words: Array) -> Array:
            numbers = unpack_bits(np.ascontiguousarray(words), 4).reshape(*words.shape, 8)
            return numbers[..., _AWQ_ORDER].reshape(len(words), -1)

        def build() -> Values:
            words = self._matrix(name)

            def unpack(first: int, last: int) -> Array:
                start = first // 8
                numbers = columns(words[:, start : -(-last // 8)])
                wanted = numbers[:, first - start * 8 : last - start * 8].T
                return np.ascontiguousarray(wanted, np.float32)

            zero = columns(self._matrix(zeros)).T
            return self._by_input(unpack, scales, zero, self._groups(None, inputs, groups))

        return Encoded(f"{module}.weight", (outputs, inputs), "awq", tuple(parts), build)

    def _groups(self, order: str | None, inputs: int, groups: int) -> Array:
        """Group of each input."""
        if order is None:
            size = self.config.group_size
            size = size if size > 0 and -(-inputs // size) == groups else -(-inputs // groups)
            return np.arange(inputs) // size
        numbers = self.stored.raw(order).astype(np.intp)
        right = bool(numbers.size) and numbers.min() >= 0 and numbers.max() < groups
        self._check(bool(right), order, "GPTQ", f"it names a group beyond the {groups} there are")
        return numbers

    def _by_input(self, unpack: Any, scales: str, zeros: Array, groups: Array) -> ScaledRows:
        table = self._floats(scales).reshape(self.stored.info(scales).shape).T
        rows = np.arange(len(table))
        zero = zeros.astype(np.float32)
        return ScaledRows(len(groups), unpack, np.ascontiguousarray(table), rows, groups, zero)

    def _packed(self, module: str, name: str) -> Encoded | None:
        dtype, stored = self._info(name)
        scale, shared = f"{module}.weight_scale", f"{module}.weight_global_scale"
        if scale not in self.stored or len(stored) < 2 or self.config.transformed:
            return None
        if dtype == "I32":
            return self._packed_integers(module, name, scale)
        if dtype != "U8":
            return None
        weight, parts = f"{module}.weight", self._parts(name, scale, shared)
        if shared in self.stored:
            return self._fp4(weight, name, parts, "nvfp4", scale, shared=shared, inverse=True)
        return self._fp4(weight, name, parts, "mxfp4", scale)

    def _packed_integers(self, module: str, name: str, scale: str) -> Encoded | None:
        size, zeros, order = (f"{module}.weight_{x}" for x in ("shape", "zero_point", "g_idx"))
        if size not in self.stored or len(self._info(name)[1]) != 2:
            return None
        rows, columns = (int(n) for n in self.stored.raw(size))
        words = self._info(name)[1][1]
        bits = self.config.bits or 32 * words // max(columns, 1)
        title = "compressed-tensors"
        right = bits in (2, 4, 8) and self._info(name)[1] == (rows, -(-columns * bits // 32))
        self._check(right, name, title, f"its shape is not that of {[rows, columns]}")
        groups = self._info(scale)[1][-1]

        def build() -> Values:
            packed, middle = self._matrix(name), 2 ** (bits - 1)

            def unpack(first: int, last: int) -> Array:
                return unpack_bits(packed[first:last], bits)[:, :columns].astype(np.float32)

            zero = np.full((rows, groups), middle, np.float32)
            if zeros in self.stored:
                raw = self._matrix(zeros)
                if self._info(zeros)[0] == "I32":
                    zero = unpack_bits(np.ascontiguousarray(raw.T), bits)[:, :rows].T
                else:
                    zero = zero + raw.reshape(rows, groups)
            table = self._floats(scale).reshape(rows, groups)
            at = self._groups(order if order in self.stored else None, columns, groups)
            return ScaledRows(columns, unpack, table, np.arange(rows), at, zero.astype(np.float32))

        parts = self._parts(name, scale, size, zeros, order)
        return Encoded(f"{module}.weight", (rows, columns), "packed", parts, build)

    def _fp4(
        self,
        weight: str,
        name: str,
        parts: Sequence[str],
        title: str,
        scale: str,
        *,
        shared: str | None = None,
        inverse: bool = False,
    ) -> Encoded:
        """Two e2m1 numbers a byte along the last axis, scales of 16 (nvfp4) or 32 of them."""
        packed = self._info(name)[1]
        shape = (*packed[:-1], packed[-1] * 2)
        group = 16 if title == "nvfp4" else 32
        grid = ScaleGrid(shape, self._info(scale)[1], (1, group))
        self._check(grid.fits, scale, FORMATS[title].title, f"its shape does not fit '{name}'")
        if shared is not None:
            single = math.prod(self._info(shared)[1]) == 1
            self._check(single, shared, FORMATS[title].title, "not one number")

        def build() -> Values:
            raw = self.stored.raw(name).reshape(-1, packed[-1])
            exponents = self._info(scale)[0] == "U8"
            table = power_of_two(self.stored.raw(scale)) if exponents else self._floats(scale)
            if shared is not None:
                whole = self._floats(shared)
                table = table / whole if inverse else table * whole
            return grid.rows(lambda first, last: unpack_fp4(raw[first:last]), table)

        return Encoded(weight, shape, title, tuple(parts), build)

    def _gpt_oss(self, weight: str, name: str) -> Encoded | None:
        scales = f"{weight}_scales"
        dtype, shape = self._info(name)
        if dtype != "U8" or self._info(scales) != ("U8", shape[:-1]) or len(shape) != 4:
            return None
        experts, outputs, groups, half = shape
        inputs = groups * half * 2

        def build() -> Values:
            blocks = self.stored.raw(name).reshape(experts, outputs, groups * half)

            def unpack(first: int, last: int) -> Array:
                pieces = []
                while first < last:
                    expert, start = divmod(first, inputs)
                    stop = min(start + last - first, inputs)
                    numbers = unpack_fp4(blocks[expert][:, start // 2 : -(-stop // 2)])
                    pieces.append(numbers[:, start % 2 :][:, : stop - start].T)
                    first += stop - start
                return np.ascontiguousarray(np.concatenate(pieces))

            grid = power_of_two(self.stored.raw(scales)).reshape(experts, outputs, groups)
            table = grid.transpose(0, 2, 1).reshape(experts * groups, outputs)
            rows = np.arange(experts * inputs) // (half * 2)
            return ScaledRows(outputs, unpack, table, rows, np.arange(outputs))

        return Encoded(weight, (experts, inputs, outputs), "mxfp4", (name, scales), build)

    def _comfy(self, module: str, name: str) -> Encoded | None:
        weight = f"{module}.weight"
        if self._info(weight)[0] not in _F8:
            return None
        return self._grid(weight, (weight, name), "fp8", name)

    def _scaled(self, weight: str, name: str) -> Encoded | None:
        if name.endswith(".weight_scale"):
            weight = name.removesuffix("_scale")
        dtype, shape = self._info(weight)
        shared, zeros = f"{weight}_scale_2", f"{weight}_zero_point"
        if self.config.transformed or not shape:
            return None
        if dtype in _F8:
            return self._grid(weight, (weight, name), "fp8", name)
        if dtype == "U8" and shared in self.stored:
            parts = (weight, name, shared)
            return self._fp4(weight, weight, parts, "nvfp4", name, shared=shared)
        if dtype == "I8" and not name.endswith("_scale_inv") and self.config.method != "eetq":
            return self._grid(weight, (weight, name, zeros), "int8", name, zeros=zeros)
        return None

    def _grid(
        self,
        weight: str,
        parts: Sequence[str],
        title: str,
        scale: str,
        *,
        zeros: str | None = None,
        factor: float = 1.0,
    ) -> Encoded:
        """Stored numbers in the weight's own shape, times a grid of scales."""
        dtype, shape = self._info(weight)
        grid = ScaleGrid(shape, self._info(scale)[1], self.config.block)
        reason = f"{list(grid.scales)} scales do not say their blocks of {list(shape)}"
        self._check(grid.fits, scale, FORMATS[title].title, reason)

        def build() -> Values:
            raw = self.stored.raw(weight)

            def unpack(first: int, last: int) -> Array:
                part = raw[first * grid.columns : last * grid.columns]
                out = np.empty(part.size, np.float32)
                return decode(part, dtype, out).reshape(-1, grid.columns)

            table = scale_values(self.stored, scale) * np.float32(factor)
            zero = None
            if zeros is not None and zeros in self.stored:
                zero = decode(
                    self.stored.raw(zeros), self._info(zeros)[0], np.empty(table.size, np.float32)
                )
            return grid.rows(unpack, table, zero)

        return Encoded(weight, shape, title, self._parts(*parts), build)
