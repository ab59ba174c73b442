"""The encodings of weights that are known: which are decoded, and which are refused, because.

The one declaration that detection, error messages and docs/formats.md are made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightFormat:
    """One way to store weights in fewer bits.

    Attributes:
        title: what people call it.
        stored: names of the tensors that it is known by.
        arithmetic: what a weight is, in terms of what is stored; empty for one that is refused.
        refused: why it is not decoded; empty for one that is.
    """

    title: str
    stored: str
    arithmetic: str = ""
    refused: str = ""


FORMATS: Mapping[str, WeightFormat] = {
    "float8": WeightFormat(
        "float8 without scales", "`weight` (F8_E4M3, F8_E5M2)", "the stored floats themselves"
    ),
    "fp8": WeightFormat(
        "FP8 with scales (DeepSeek, FBGEMM, compressed-tensors, ModelOpt, ComfyUI)",
        "`weight` (F8) with `weight_scale_inv`, `weight_scale` or `scale_weight`; scales as "
        "floats or as powers of two (E8M0)",
        "q · scale; one scale for the tensor, a row, a block of rows and columns, or a group",
    ),
    "int8": WeightFormat(
        "int8 with scales (compressed-tensors int-quantized, naive-quantized)",
        "`weight` (I8) with `weight_scale`, `weight_zero_point`",
        "(q − zero) · scale",
    ),
    "packed": WeightFormat(
        "compressed-tensors pack-quantized (4 and 8 bits)",
        "`weight_packed` (I32), `weight_scale`, `weight_shape`, `weight_zero_point`, "
        "`weight_g_idx`",
        "(q − 2^(bits−1) − zero) · scale of the group",
    ),
    "nvfp4": WeightFormat(
        "NVFP4 (compressed-tensors, ModelOpt)",
        "`weight_packed` with `weight_global_scale`, or `weight` (U8) with `weight_scale_2`; "
        "`weight_scale` (F8)",
        "e2m1 · scale of 16 elements, divided by the first or times the second global scale",
    ),
    "mxfp4": WeightFormat(
        "MXFP4 (gpt-oss, compressed-tensors)",
        "`_blocks` and `_scales`, or `weight_packed` and `weight_scale` (U8)",
        "e2m1 · 2^(scale − 127) of 32 elements; gpt-oss: transposed afterwards",
    ),
    "bnb4": WeightFormat(
        "bitsandbytes 4 bit (nf4, fp4, double quantisation, any storage type)",
        "`weight.absmax`, `weight.quant_map`, `weight.quant_state.bitsandbytes__*`",
        "quant_map[q] · absmax of the block",
    ),
    "bnb8": WeightFormat(
        "bitsandbytes 8 bit (LLM.int8)", "`weight` (I8) with `SCB`", "q · SCB / 127 by row"
    ),
    "gptq": WeightFormat(
        "GPTQ (2, 4, 8 bits; `gptq` and `gptq_v2`; AutoRound in this layout)",
        "`qweight` (inputs · bits / 32, outputs), `qzeros`, `scales`, `g_idx`",
        "(q − zero) · scale of the input's group; `gptq` stores zero − 1",
    ),
    "awq": WeightFormat(
        "AWQ (gemm, 4 bits; AutoRound in this layout)",
        "`qweight` (inputs, outputs / 8), `qzeros`, `scales`",
        "(q − zero) · scale of the input's group, columns in the order 0 2 4 6 1 3 5 7",
    ),
    "gguf": WeightFormat(
        "GGUF, every type that the package `gguf` decodes (extra `gguf`)",
        "a file *.gguf",
        "as `gguf.quants.dequantize`; names stay GGUF's, so the result is a file",
    ),
    "torchao": WeightFormat(
        "torchao",
        "`_weight_qdata`, `weight:qdata`",
        refused="its layouts change with its versions",
    ),
    "quanto": WeightFormat(
        "Quanto", "`weight._data`, `weight._scale`", refused="packed layouts are not documented"
    ),
    "hqq": WeightFormat("HQQ", "`W_q`, `meta`", refused="its metadata lie in a pickle"),
    "aqlm": WeightFormat("AQLM", "`codes`, `codebooks`", refused="additive codebooks"),
    "vptq": WeightFormat("VPTQ", "`centroids`, `indices`", refused="vector codebooks"),
    "quip": WeightFormat("QuIP#", "`Qidxs`", refused="lattice codebooks and rotations"),
    "exl": WeightFormat(
        "EXL2, EXL3", "`q_weight`, `trellis`", refused="mixed widths in an own permutation"
    ),
    "marlin": WeightFormat(
        "Marlin", "`B` and `s`, `workspace`", refused="packed for one kernel, not documented"
    ),
    "eetq": WeightFormat("EETQ", "`weight_scales`", refused="packed for one kernel"),
    "bitnet": WeightFormat(
        "BitNet", "`weight` (U8, a quarter of the rows)", refused="its activations are ternary too"
    ),
    "sparse": WeightFormat(
        "sparse compressed-tensors", "`bitmask`, `compressed`", refused="sparse layouts"
    ),
    "spqr": WeightFormat("SpQR", "`dense_weights`", refused="a sparse part beside codes"),
    "higgs": WeightFormat("HIGGS", "`tensor_scale`, `grid`", refused="vector codebooks"),
    "quark": WeightFormat("Quark", "`weight_quantizer`", refused="several layouts in one name"),
    "fp_quant": WeightFormat(
        "FP-Quant", "`forward_hadamard_matrix`", refused="weights are rotated"
    ),
}

SIGNS: Mapping[str, tuple[str, ...]] = {
    "torchao": ("_weight_qdata", ":qdata", "weight:_data", "_weight_int_data"),
    "quanto": ("weight._data", "weight._scale"),
    "hqq": (".W_q",),
    "aqlm": (".codebooks", ".codes"),
    "vptq": (".centroids", ".centroids.weight"),
    "quip": (".Qidxs",),
    "exl": (".q_weight", ".trellis"),
    "marlin": (".B", ".B_24", ".workspace"),
    "eetq": (".weight_scales",),
    "sparse": (".bitmask", ".compressed"),
    "spqr": (".dense_weights",),
    "higgs": (".tensor_scale", ".tables2"),
    "quark": (".weight_quantizer.scale", ".weight_quantizer.zero_point"),
    "fp_quant": (".forward_hadamard_matrix",),
}
"""Ends of names that only one refused format has; integers beside them make it sure."""

METHODS: Mapping[str, str] = {
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FBGEMM FP8",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    **{
        method: FORMATS[method].title
        for method in (
            *("torchao", "quanto", "hqq", "aqlm", "vptq", "eetq", "bitnet", "spqr", "higgs"),
            *("quark", "fp_quant", "marlin"),
        )
    },
}
"""What a config's ``quant_method`` is called in messages."""
