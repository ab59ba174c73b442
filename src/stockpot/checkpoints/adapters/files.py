"""A lone file of LoRA factors, as diffusers and kohya's scripts write them, without a config.

diffusers: ``unet.down_blocks.0.attn.to_q.lora_A.weight`` (or ``lora.down``), with PEFT's config
of each component in the header's ``lora_adapter_metadata`` or alpha = rank. kohya:
``lora_unet_down_blocks_0_attn_to_q.lora_down.weight`` with ``.alpha`` beside it; its module names
have "_" for ".", which the base's names undo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.adapters.config import AdapterConfig, check_values
from stockpot.checkpoints.adapters.reading import Adapter, Update, read_folder
from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.matching import is_adapter
from stockpot.checkpoints.safetensors_file import open_file
from stockpot.errors import CheckpointError, NonFiniteError
from stockpot.reading import parse_json

_KOHYA = re.compile(r"lora_([a-z]+\d?)_(.+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_DIFFUSERS = re.compile(
    r"(unet|transformer|text_encoder(?:_\d)?|prior)\.(.+?)"
    r"(?:\.(?:lora|lora_linear_layer)\.(down|up)|\.lora_(A|B)|_lora\.(down|up)|\.(alpha))(?:\.weight)?"
)
_SIDES = {"down": "lora_A", "up": "lora_B", "A": "lora_A", "B": "lora_B"}


def read_adapter(path: Path) -> Adapter:
    """Read PEFT's folder, or a LoRA file of diffusers' or kohya's.

    Raises ``CheckpointError`` for what changes the weights in a manner that is not computed here,
    names of other tools, and a file with the factors of several models; ``NonFiniteError`` for NaN.
    """
    if not path.is_file():
        return read_folder(path)
    with open_file(path, str(path)) as weights:
        return _read_file(path, weights)


def _read_file(path: Path, weights: Checkpoint) -> Adapter:
    if not is_adapter(weights.names):
        raise CheckpointError(
            f"{path} holds no adapter", hint="for the change of a model as an adapter, add --base"
        )
    updates: dict[str, dict[str, Array]] = {}
    components: set[str] = set()
    for name in weights.names:
        if weights.first_nonfinite(name, 0, weights.info(name).size) is not None:
            raise NonFiniteError(f"{path}: '{name}' holds NaN or infinity")
        component, module, part = _parse(path, name)
        components.add(component)
        updates.setdefault(module, {})[part] = weights.read(name).astype(np.float64)
    if len(components) != 1:
        raise CheckpointError(
            f"{path} holds the factors of several models: {', '.join(sorted(components))}",
            hint="split the file, one for each model",
        )
    (component,) = components
    values = _values(path, weights.metadata, component)
    alphas = {
        re.escape(module): float(parts.pop("alpha").reshape(()))
        for module, parts in updates.items()
        if "alpha" in parts
    }
    values["alpha_pattern"] = {**values.get("alpha_pattern", {}), **alphas}
    settings = AdapterConfig(path, values)
    read = tuple(Update(module, 0, parts) for module, parts in updates.items())
    adapter = Adapter(path, settings, read, {})
    for update in read:
        adapter.delta(update)
    return adapter


def _parse(path: Path, name: str) -> tuple[str, str, str]:
    """Component, module and part of a tensor."""
    if match := _KOHYA.fullmatch(name):
        component, module, end = match.groups()
        part = "alpha" if end == "alpha" else _SIDES[end.split(".")[0].removeprefix("lora_")]
        return component, module, part
    if match := _DIFFUSERS.fullmatch(name):
        component, module, *ends = match.groups()
        end = next(end for end in ends if end is not None)
        # Older files name the attention's processor, and the first layer of an output by its list.
        module = module.replace(".processor.", ".")
        module = module.removesuffix("to_out") + "to_out.0" if module.endswith("to_out") else module
        return component, module, "alpha" if end == "alpha" else _SIDES[end]
    raise CheckpointError(
        f"{path}: '{name}' is neither a LoRA factor of diffusers' nor one of kohya's",
        hint="other kinds (LyCORIS, DoRA of kohya's) are not read from such files",
    )


def _values(path: Path, metadata: Mapping[str, str], component: str) -> dict[str, Any]:
    """The config of a component, from the header where it is there."""
    try:
        stored = parse_json(metadata.get("lora_adapter_metadata", "{}")).items()
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its lora_adapter_metadata is no table: {error}") from error
    own = {
        key.removeprefix(f"{component}."): value
        for key, value in stored
        if key.startswith(f"{component}.")
    }
    values = {**own, "peft_type": "LORA"}
    check_values(path, values)
    return values
