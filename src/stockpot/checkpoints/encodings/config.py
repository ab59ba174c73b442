"""What the files beside the weights say about their quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.errors import CheckpointError
from stockpot.reading import read_json

# Older tools write a file of their own; the name says which.
FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_KEYS = ("quantization_config", "compression_config")
_PARTS = ("text_config", "llm_config")
_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp")
"""Model types of transformers whose linear layers are ``Conv1D``: weights are (inputs, outputs)."""


@dataclass(frozen=True)
class QuantConfig:
    """The parts of a quantisation's config that change what its tensors mean.

    ``method`` is "" where no config declares one.
    """

    method: str = ""
    bits: int = 0
    group_size: int = -1
    zeros_less_one: bool | None = None
    awq_version: str = "gemm"
    block: tuple[int, int] | None = None
    transformed: bool = False


def read_quantization(stored: Checkpoint) -> QuantConfig:
    """What is declared beside a checkpoint. Raises ``CheckpointError`` for a damaged config."""
    content = declared(stored)
    if not content:
        return QuantConfig()
    try:
        return _parsed(content)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise CheckpointError(
            f"{stored.label}: its quantization_config cannot be read: {error}"
        ) from None


def declared(stored: Checkpoint) -> dict[str, Any]:
    """The quantisation config as it stands; empty where there is none."""
    home = stored.home or (stored.path.parent if stored.path and stored.path.is_file() else None)
    return {} if home is None else _declared(home)


def declares(folder: Path) -> bool:
    """Whether the files of a folder declare a quantisation."""
    return bool(_declared(folder))


def _declared(home: Path) -> dict[str, Any]:
    config = _json(home / "config.json")
    for part in (config, *(config.get(key) for key in _PARTS)):
        if isinstance(part, dict):
            value = next((part[key] for key in _KEYS if isinstance(part.get(key), dict)), None)
            if value:
                return dict(value)
    for file, method in FILES.items():
        value = _json(home / file)
        if value:
            return {"quant_method": method, **value.get("quantization", value)}
    return {}


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config without what it says about quantisation, in its parts as well."""
    kept = {key: value for key, value in config.items() if key not in _KEYS}
    for key in _PARTS:
        if isinstance(kept.get(key), dict):
            kept[key] = {k: v for k, v in kept[key].items() if k not in _KEYS}
    return kept


def is_transposed(stored: Checkpoint) -> bool:
    """Whether the architecture keeps the weights of its linear layers as (inputs, outputs)."""
    home = stored.home
    return home is not None and _json(home / "config.json").get("model_type") in _CONV1D


def _parsed(content: dict[str, Any]) -> QuantConfig:
    method = str(content.get("quant_method") or "").lower()
    layout = str(content.get("packing_format") or "")
    weights: dict[str, Any] = {}
    if method == "compressed-tensors":
        groups = list((content.get("config_groups") or {}).values())
        schemes = [group.get("weights") or {} for group in groups if isinstance(group, dict)]
        weights = schemes[0] if len(schemes) == 1 else {}
    bits = content.get("bits", content.get("w_bit", weights.get("num_bits", 0)))
    size = content.get("group_size", content.get("q_group_size", weights.get("group_size")))
    block = content.get("weight_block_size") or weights.get("block_structure")
    layouts = str(content.get("checkpoint_format") or "gptq")
    gptq = method == "gptq" or (method == "auto-round" and "awq" not in layout)
    if content.get("is_marlin_format") or "marlin" in layouts:
        method, gptq = "marlin", False
    return QuantConfig(
        method=method or ("bitsandbytes" if content.get("load_in_8bit") else "unnamed"),
        bits=int(bits or 0),
        group_size=int(size or -1),
        zeros_less_one={"gptq": True, "gptq_v2": False}.get(layouts) if gptq else None,
        awq_version=str(content.get("version") or "gemm").lower(),
        block=(int(block[0]), int(block[1])) if block else None,
        transformed=bool(content.get("transform_config")),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path, "a config", error=CheckpointError)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return value if isinstance(value, dict) else {}
