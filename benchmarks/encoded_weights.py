"""Encoded weights against the libraries that encode them.

    pip install gguf bitsandbytes compressed-tensors transformers
    python benchmarks/encoded_weights.py

Each library quantises a random matrix its own way; what it makes of that again is held against
what ``stockpot.open_checkpoint`` reads. Libraries that are not installed are named and left out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stockpot.checkpoints import open_checkpoint, save_state
from stockpot.compat import ensure_torchvision

ROWS, COLUMNS = 256, 512
Case = tuple[str, dict[str, torch.Tensor], dict[str, Any], torch.Tensor]
"""Title, what is stored, the quantisation's config, and the library's own floats."""


def weights() -> torch.Tensor:
    return 0.05 * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


def bitsandbytes_cases() -> Iterator[Case]:
    import bitsandbytes.functional as functional

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            packed, state = functional.quantize_4bit(
                weights(), quant_type=kind, compress_statistics=nested
            )
            stored = {"a.weight": packed}
            stored |= {f"a.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
            name = f"bitsandbytes {kind}{', double' if nested else ''}"
            config = {"quant_method": "bitsandbytes"}
            yield name, stored, config, functional.dequantize_4bit(packed, state)
    numbers, scales, _ = functional.int8_vectorwise_quant(weights().half())
    stored = {"a.weight": numbers, "a.SCB": scales, "a.weight_format": torch.tensor(0).byte()}
    floats = functional.int8_vectorwise_dequant(numbers, scales)
    yield "bitsandbytes int8", stored, {"quant_method": "bitsandbytes"}, floats


def transformers_cases() -> Iterator[Case]:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(ROWS // 64, COLUMNS // 64, generator=generator) / 1000
    numbers = (weights() * 2000).to(torch.float8_e4m3fn)
    floats = Fp8Dequantize(None)._dequantize_one(numbers, scales, torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [64, 64]}
    yield "transformers FP8", {"a.weight": numbers, "a.weight_scale_inv": scales}, config, floats
    shape = (3, ROWS, COLUMNS // 32, 16)
    blocks = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    powers = torch.randint(110, 130, shape[:-1], generator=generator, dtype=torch.uint8)
    floats = convert_moe_packed_tensors(blocks, powers, dtype=torch.float32)
    stored = {"a.weight_blocks": blocks, "a.weight_scales": powers}
    yield "transformers MXFP4", stored, {"quant_method": "mxfp4"}, floats


def compressed_tensors_cases() -> Iterator[Case]:
    import transformers.modeling_utils  # noqa: F401 (first: the two import each other)
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    schemes: dict[str, tuple[str, dict[str, Any]]] = {
        "int4 groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 64}),
        "int4 asymmetric": (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False},
        ),
        "int8 packed": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
        "int8": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
        "nvfp4": (
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        ),
    }
    for title, (layout, arguments) in schemes.items():
        args = QuantizationArgs(**arguments)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        compressor: Any = BaseCompressor.get_value_from_registry(layout)
        groups = weights().reshape(ROWS, -1, args.group_size or COLUMNS)
        extra = {}
        if title == "nvfp4":
            extra["global_scale"] = 448 * 6 / weights().abs().max().reshape(1)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args, **extra)
        state = {"weight": weights(), "weight_scale": scale}
        if arguments.get("symmetric") is False:
            state["weight_zero_point"] = zero
        state |= {f"weight_{k}": v for k, v in extra.items()}
        stored = compressor.compress(state, scheme)
        floats = compressor.decompress(dict(stored), scheme)["weight"]
        config = {
            "quant_method": "compressed-tensors",
            "format": layout,
            "config_groups": {"group_0": {"weights": json.loads(args.model_dump_json())}},
        }
        stored = {f"a.{k}": v for k, v in stored.items() if isinstance(v, torch.Tensor)}
        yield f"compressed-tensors {title}", stored, config, floats


def compare(case: Case) -> tuple[float, str]:
    """Largest difference, relative to the largest weight."""
    _, stored, config, floats = case
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "model.safetensors", stored)
        (Path(folder) / "config.json").write_text(json.dumps({"quantization_config": config}))
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.names == ["a.weight"], checkpoint.names
            own = checkpoint.read("a.weight")
    difference = np.abs(own - floats.float().numpy()).max() / floats.abs().max().item()
    return float(difference), str(floats.dtype)


def gguf_differences() -> Iterator[tuple[str, float]]:
    import gguf

    for kind in gguf.GGMLQuantizationType:
        values = weights().numpy()
        try:
            packed = gguf.quants.quantize(values, kind)
        except NotImplementedError:
            size = gguf.GGML_QUANT_SIZES[kind]
            if kind not in gguf.quants._type_traits:
                continue
            # No code to quantise: small bytes decode to finite numbers.
            rows = ROWS, COLUMNS // size[0] * size[1]
            packed = np.random.default_rng(0).integers(0, 60, rows).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_tensor("a.weight", packed, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            with open_checkpoint(path) as checkpoint:
                own = checkpoint.read("a.weight")
        yield kind.name, float(np.nanmax(np.abs(own - gguf.quants.dequantize(packed, kind))))


def main() -> None:
    ensure_torchvision(quiet=True)
    print(f"{'library and format':40s} largest difference / largest weight")
    makers: list[Callable[[], Iterator[Case]]] = [
        transformers_cases,
        bitsandbytes_cases,
        compressed_tensors_cases,
    ]
    for make in makers:
        try:
            for case in make():
                difference, dtype = compare(case)
                print(f"{case[0]:40s} {difference:.1e} (its own floats: {dtype})")
        except ImportError as error:
            print(f"{make.__name__}: left out, {error}")
    try:
        for kind, difference in gguf_differences():
            print(f"{'GGUF ' + kind:40s} {difference:.1e}")
    except ImportError as error:
        print(f"GGUF: left out, {error}")


if __name__ == "__main__":
    main()
