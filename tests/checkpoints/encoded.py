"""Encoded weights made on purpose: for each format stored tensors, a config, and the truth.

Numbers are drawn, packed by the slowest code that is plainly right, and written down in float64 as
well. Nothing here is shared with the readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from stockpot.checkpoints import write_checkpoint

ROWS, COLUMNS = 48, 64
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


@dataclass
class Stored:
    """``tensors`` and their types as they are stored, ``config``, and ``truth`` in float64."""

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    def put(self, name: str, values: np.ndarray, code: str | None = None) -> None:
        self.tensors[name] = values
        if code is not None:
            self.codes[name] = code

    def write(self, folder: Path, *, model_type: str = "bert") -> Path:
        folder.mkdir(parents=True)
        write_checkpoint(folder / "model.safetensors", self.tensors, dtypes=self.codes)
        config: dict[str, Any] = {"model_type": model_type, "dtype": "bfloat16"}
        if self.config:
            config["quantization_config"] = self.config
        (folder / "config.json").write_text(json.dumps(config))
        return folder


Make = Callable[[np.random.Generator, np.ndarray], Stored]
FORMATS: dict[str, Make] = {}


def encoding(make: Make) -> Make:
    FORMATS[make.__name__] = make
    return make


def e4m3(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits and float64 values of 8-bit floats."""
    rounded = values.astype(ml_dtypes.float8_e4m3fn)
    return rounded.view(np.uint8), rounded.astype(np.float64)


def f32(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


def pack(numbers: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Small numbers into 32-bit words along an axis, the first in the lowest bits."""
    numbers = np.moveaxis(numbers, axis, 0).astype(np.uint64)
    count = 32 // bits
    words = np.zeros((-(-len(numbers) // count), *numbers.shape[1:]), np.uint64)
    for i, row in enumerate(numbers):
        words[i // count] |= row << np.uint64(bits * (i % count))
    packed = np.moveaxis(words, 0, axis).astype(np.uint32).view(np.int32)
    return np.ascontiguousarray(packed)


def nibbles(numbers: np.ndarray, *, low_first: bool) -> np.ndarray:
    """4-bit numbers, two a byte along the last axis."""
    first, second = numbers[..., 0::2].astype(np.uint8), numbers[..., 1::2].astype(np.uint8)
    return first | second << 4 if low_first else first << 4 | second


def nearest(values: np.ndarray, table: list[float] | np.ndarray) -> np.ndarray:
    """Places of the nearest entries of a table."""
    return np.abs(values[..., None] - np.asarray(table)).argmin(-1).astype(np.uint8)


def fp8(
    weights: np.ndarray, blocks: tuple[int, int], end: str, config: dict[str, Any], shape=None
) -> Stored:
    """8-bit floats with one scale for blocks of so many rows and columns."""
    stored = Stored(config=config)
    rows, columns = weights.shape
    grid = np.zeros((-(-rows // blocks[0]), -(-columns // blocks[1])), np.float32)
    wide = np.zeros(weights.shape, np.float64)
    for i in range(rows):
        for j in range(columns):
            at = (i // blocks[0], j // blocks[1])
            grid[at] = max(grid[at], abs(weights[i, j]) / 448)
    for i in range(rows):
        for j in range(columns):
            wide[i, j] = grid[i // blocks[0], j // blocks[1]]
    bits, exact = e4m3(weights / wide)
    stored.put("a.weight", bits, "F8_E4M3")
    stored.put(end, grid.reshape(shape) if shape is not None else grid)
    stored.truth["a.weight"] = exact * wide
    return stored


@encoding
def fp8_blocks(rng, weights):
    config = {"quant_method": "fp8", "weight_block_size": [32, 48]}
    return fp8(weights, (32, 48), "a.weight_scale_inv", config)


@encoding
def fp8_tensor(rng, weights):
    stored = fp8(weights, weights.shape, "a.weight_scale", {"quant_method": "modelopt"}, ())
    stored.put("a.input_scale", f32(0.3))
    return stored


@encoding
def fp8_rows(rng, weights):
    config = {"quant_method": "fbgemm_fp8"}
    return fp8(weights, (1, weights.shape[1]), "a.weight_scale", config)


@encoding
def fp8_comfy(rng, weights):
    stored = fp8(weights, weights.shape, "a.scale_weight", {}, (1,))
    stored.put("scaled_fp8", np.zeros(2, np.uint8), "F8_E4M3")
    return stored


@encoding
def fp8_compressed_tensors(rng, weights):
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
    }
    return fp8(weights, (1, weights.shape[1]), "a.weight_scale", config)


@encoding
def mxfp8(rng, weights):
    stored = Stored(config={"quant_method": "mxfp8"})
    exponents = rng.integers(118, 124, (weights.shape[0], weights.shape[1] // 32)).astype(np.uint8)
    wide = np.repeat(2.0 ** (exponents.astype(np.float64) - 127), 32, axis=1)
    bits, exact = e4m3(weights / wide)
    stored.put("a.weight", bits, "F8_E4M3")
    stored.put("a.weight_scale_inv", exponents)
    stored.truth["a.weight"] = exact * wide
    return stored


@encoding
def float8_alone(rng, weights):
    stored = Stored()
    bits, exact = e4m3(weights)
    stored.put("a.weight", bits, "F8_E4M3")
    stored.truth["a.weight"] = exact
    return stored


@encoding
def int8_compressed_tensors(rng, weights):
    stored = Stored(config={"quant_method": "compressed-tensors", "format": "int-quantized"})
    scales = f32(np.abs(weights).max(axis=1, keepdims=True) / 120)
    zeros = rng.integers(-5, 6, scales.shape).astype(np.int8)
    numbers = np.clip(np.rint(weights / scales) + zeros, -128, 127).astype(np.int8)
    stored.put("a.weight", numbers)
    stored.put("a.weight_scale", scales)
    stored.put("a.weight_zero_point", zeros)
    stored.truth["a.weight"] = (numbers.astype(float) - zeros) * scales.astype(float)
    return stored


def packed_integers(rng, weights, bits: int, group: int, *, symmetric: bool) -> Stored:
    rows = len(weights)
    scheme = {"num_bits": bits, "group_size": group, "symmetric": symmetric}
    stored = Stored(
        config={
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": scheme}},
        }
    )
    grouped = weights.reshape(rows, -1, group)
    half = 2 ** (bits - 1)
    scales = f32(np.abs(grouped).max(axis=2) / (half - 1)).astype(np.float16)
    zeros = np.zeros(scales.shape, int) if symmetric else rng.integers(-half, half, scales.shape)
    wide, zero = (np.repeat(x.astype(float), group, axis=1) for x in (scales, zeros))
    numbers = np.clip(np.rint(weights / wide) + zero, -half, half - 1)
    stored.put("a.weight_packed", pack(numbers + half, bits, 1))
    stored.put("a.weight_scale", scales)
    stored.put("a.weight_shape", np.array(weights.shape, np.int64))
    if not symmetric:
        stored.put("a.weight_zero_point", pack(zeros + half, bits, 0))
    stored.truth["a.weight"] = (numbers - zero) * wide
    return stored


@encoding
def packed_4_bits(rng, weights):
    return packed_integers(rng, weights, 4, 16, symmetric=True)


@encoding
def packed_4_bits_with_zeros(rng, weights):
    return packed_integers(rng, weights, 4, 32, symmetric=False)


@encoding
def packed_8_bits(rng, weights):
    return packed_integers(rng, weights, 8, 64, symmetric=True)


def fp4(weights: np.ndarray, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers = nearest(weights / wide, FP4)
    return nibbles(numbers, low_first=True), np.asarray(FP4)[numbers] * wide


@encoding
def nvfp4_compressed_tensors(rng, weights):
    stored = Stored(config={"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})
    groups = np.abs(weights.reshape(len(weights), -1, 16)).max(axis=2)
    shared = f32([448 * 6 / np.abs(weights).max()])
    bits, scales = e4m3(groups / 6 * shared)
    wide = np.repeat(scales / shared.astype(float), 16, axis=1)
    packed, stored.truth["a.weight"] = fp4(weights, wide)
    stored.put("a.weight_packed", packed)
    stored.put("a.weight_scale", bits, "F8_E4M3")
    stored.put("a.weight_global_scale", shared)
    stored.put("a.input_global_scale", f32([3.0]))
    return stored


@encoding
def nvfp4_modelopt(rng, weights):
    stored = Stored(config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    groups = np.abs(weights.reshape(len(weights), -1, 16)).max(axis=2)
    shared = f32(np.abs(weights).max() / (448 * 6))
    bits, scales = e4m3(groups / 6 / shared)
    packed, exact = fp4(weights, np.repeat(scales * shared.astype(float), 16, axis=1))
    stored.put("a.weight", packed)
    stored.put("a.weight_scale", bits, "F8_E4M3")
    stored.put("a.weight_scale_2", shared)
    stored.truth["a.weight"] = exact
    return stored


@encoding
def mxfp4_compressed_tensors(rng, weights):
    stored = Stored(config={"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"})
    exponents = rng.integers(120, 124, (weights.shape[0], weights.shape[1] // 32)).astype(np.uint8)
    wide = np.repeat(2.0 ** (exponents.astype(float) - 127), 32, axis=1)
    packed, stored.truth["a.weight"] = fp4(weights, wide)
    stored.put("a.weight_packed", packed)
    stored.put("a.weight_scale", exponents)
    return stored


@encoding
def mxfp4_gpt_oss(rng, weights):
    stored = Stored(config={"quant_method": "mxfp4"})
    experts = np.stack([weights, weights[::-1], 2 * weights])
    exponents = rng.integers(118, 124, (3, weights.shape[0], weights.shape[1] // 32))
    wide = np.repeat(2.0 ** (exponents - 127.0), 32, axis=2)
    packed, exact = fp4(experts, wide)
    stored.put("a.experts.gate_up_proj_blocks", packed.reshape(3, weights.shape[0], -1, 16))
    stored.put("a.experts.gate_up_proj_scales", exponents.astype(np.uint8))
    stored.put("a.experts.gate_up_proj_bias", f32(rng.standard_normal((3, weights.shape[0]))))
    stored.truth["a.experts.gate_up_proj"] = exact.transpose(0, 2, 1)
    return stored


def bnb4(rng, weights, kind: str, *, nested: bool, storage: str = "U8") -> Stored:
    stored = Stored(config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    block = 64
    code = f32(np.sort(rng.uniform(-1, 1, 16)))
    flat = weights.reshape(-1, block)
    scales = f32(np.abs(flat).max(axis=1))
    state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16"}
    state["shape"] = list(weights.shape)
    if nested:
        table, offset = f32(np.linspace(-1, 1, 256)), float(f32(scales.mean()))
        groups = (scales - offset).reshape(-1, 8)
        outer = f32(np.abs(groups).max(axis=1))
        numbers = nearest(groups / outer[:, None], table)
        stored.put("a.weight.nested_absmax", outer)
        stored.put("a.weight.nested_quant_map", table)
        stored.put("a.weight.absmax", numbers.reshape(-1))
        state |= {"nested_blocksize": 8, "nested_dtype": "float32", "nested_offset": offset}
        scales = (table[numbers].astype(float) * outer[:, None] + offset).reshape(-1)
    else:
        stored.put("a.weight.absmax", scales)
    numbers = nearest(flat / scales[:, None], code)
    packed = nibbles(numbers.reshape(-1), low_first=False)
    bits = packed if storage == "U8" else packed.view(np.uint16)
    stored.put("a.weight", bits.reshape(-1, 1), storage)
    stored.put("a.weight.quant_map", code)
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    stored.put(f"a.weight.quant_state.bitsandbytes__{kind}", text)
    stored.truth["a.weight"] = (code[numbers].astype(float) * scales[:, None]).reshape(
        weights.shape
    )
    return stored


@encoding
def bitsandbytes_nf4(rng, weights):
    return bnb4(rng, weights, "nf4", nested=False)


@encoding
def bitsandbytes_nf4_double(rng, weights):
    return bnb4(rng, weights, "nf4", nested=True)


@encoding
def bitsandbytes_fp4_in_bfloat16(rng, weights):
    return bnb4(rng, weights, "fp4", nested=False, storage="BF16")


@encoding
def bitsandbytes_8_bit(rng, weights):
    stored = Stored(config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    scales = f32(np.abs(weights).max(axis=1))
    numbers = np.rint(weights / scales[:, None] * 127).astype(np.int8)
    stored.put("a.weight", numbers)
    stored.put("a.SCB", scales)
    stored.put("a.weight_format", np.uint8(0))
    stored.truth["a.weight"] = numbers * scales.astype(float)[:, None] / 127
    return stored


def gptq(rng, weights, bits: int, group: int, layout: str, *, shuffled: bool) -> Stored:
    stored = Stored(
        config={
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "desc_act": shuffled,
            "checkpoint_format": layout,
        }
    )
    rows, columns = weights.shape
    order = np.arange(columns) // group
    if shuffled:
        rng.shuffle(order)
    top = 2**bits - 1
    scales = f32(rng.uniform(0.002, 0.01, (columns // group, rows))).astype(np.float16)
    zeros = rng.integers(1, top + 1, scales.shape)
    wide, zero = scales.astype(float)[order].T, zeros[order].T
    numbers = np.clip(np.rint(weights / wide) + zero, 0, top).astype(int)
    stored.put("a.qweight", pack(numbers.T, bits, 0))
    stored.put("a.qzeros", pack(zeros - (layout == "gptq"), bits, 1))
    stored.put("a.scales", scales)
    stored.put("a.g_idx", order.astype(np.int32))
    stored.put("a.bias", f32(rng.standard_normal(rows)).astype(np.float16))
    stored.truth["a.weight"] = (numbers - zero) * wide
    return stored


@encoding
def gptq_4_bits(rng, weights):
    return gptq(rng, weights, 4, 16, "gptq", shuffled=False)


@encoding
def gptq_8_bits_v2(rng, weights):
    return gptq(rng, weights, 8, 32, "gptq_v2", shuffled=False)


@encoding
def gptq_4_bits_act_order(rng, weights):
    return gptq(rng, weights, 4, 16, "gptq", shuffled=True)


@encoding
def gptq_2_bits(rng, weights):
    return gptq(rng, weights, 2, 64, "gptq", shuffled=False)


@encoding
def awq_gemm(rng, weights):
    group = 32
    stored = Stored(
        config={"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    )
    rows, columns = weights.shape
    scales = f32(rng.uniform(0.002, 0.01, (columns // group, rows))).astype(np.float16)
    zeros = rng.integers(0, 16, scales.shape)
    wide, zero = (np.repeat(x.astype(float), group, axis=0).T for x in (scales, zeros))
    numbers = np.clip(np.rint(weights / wide) + zero, 0, 15).astype(int)

    def interleaved(table: np.ndarray) -> np.ndarray:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        return pack(table.reshape(len(table), -1, 8)[..., order].reshape(table.shape), 4, 1)

    stored.put("a.qweight", interleaved(numbers.T))
    stored.put("a.qzeros", interleaved(zeros))
    stored.put("a.scales", scales)
    stored.truth["a.weight"] = (numbers - zero) * wide
    return stored


def refused_states() -> dict[str, Stored]:
    """Encodings that are refused, by what they store and by their config."""
    byte = np.zeros((8, 8), np.uint8)
    word, table = np.zeros((8, 8), np.int32), np.zeros((8, 8), np.float32)
    states: dict[str, tuple[str, dict[str, np.ndarray]]] = {
        "torchao": ("torchao", {"a._weight_qdata": byte.view(np.int8), "a._weight_scale": table}),
        "Quanto": ("quanto", {"a.weight._data": byte.view(np.int8), "a.weight._scale": table}),
        "HQQ": ("hqq", {"a.W_q": byte, "a.scale": table, "a.zero": table}),
        "AQLM": ("aqlm", {"a.codes": byte.view(np.int8), "a.codebooks": table}),
        "VPTQ": ("vptq", {"a.indices": word, "a.centroids.weight": table}),
        "QuIP#": ("", {"a.Qidxs": word, "a.SU": table}),
        "EXL2, EXL3": ("", {"a.q_weight": word, "a.q_scale": word}),
        "Marlin": ("gptq", {"a.B": word, "a.s": table}),
        "EETQ": ("eetq", {"a.weight": byte.view(np.int8), "a.weight_scales": table[0]}),
        "BitNet": ("bitnet", {"a.weight": byte, "a.weight_scale": table[0, :1]}),
        "sparse compressed-tensors": ("", {"a.bitmask": byte, "a.compressed": table[0]}),
        "an unknown format": ("", {"a.weight": byte}),
        "compressed-tensors": ("compressed-tensors", {"a.weight_packed": word}),
    }
    return {
        title: Stored(
            {**tensors, "norm.weight": table[0]}, {}, {"quant_method": method} if method else {}
        )
        for title, (method, tensors) in states.items()
    }


def draw(seed: int = 0) -> np.ndarray:
    """A weight of the size of trained ones, (ROWS, COLUMNS) float64."""
    return 0.05 * np.random.default_rng(seed).standard_normal((ROWS, COLUMNS))


def write_model(folder: Path, name: str, *, seed: int = 0, step: int = 0) -> Stored:
    """A folder with a model in format ``name``: one encoded weight and a norm beside it.

    Models of one seed are ``step`` times a little away from each other.
    """
    rng = np.random.default_rng([seed, step])
    weights = draw(seed) + 0.004 * step * rng.standard_normal((ROWS, COLUMNS))
    stored = FORMATS[name](rng, weights)
    norm = f32(1 + 0.01 * rng.standard_normal(COLUMNS))
    stored.put("norm.weight", norm)
    stored.truth["norm.weight"] = norm.astype(float)
    for plain, values in stored.tensors.items():
        if plain.endswith("bias"):
            stored.truth[plain] = values.astype(float)
    stored.write(folder)
    return stored
