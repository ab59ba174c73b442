"""What a LoRA adapter is made of: its PEFT folder, its factors, and a base with it applied.

Source: Hu et al. 2021, LoRA, arXiv 2106.09685: ``W = W_0 + (alpha / r) B A``; rank-stabilised
adapters (Kalajdzievski 2023, arXiv 2312.03732) use ``alpha / sqrt(r)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import STORAGE, Array, encode, working_dtype
from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.errors import CheckpointError, NonFiniteError
from stockpot.reading import read_json

# Rows of a product are always computed in the same groups, so that a value does not depend on which
# piece of the tensor was asked for (matrix libraries sum in an order that depends on the shape).
_GROUP = 64


@dataclass(frozen=True)
class Factors:
    """A low-rank update ``scale * left @ right`` of one weight, as rows (tensor[i] flattened) of
    it.

    Shapes: left (rows, r), right (r, columns), float64.
    """

    left: Array
    right: Array
    scale: float

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start ... stop`` of the update."""
        first = start // _GROUP * _GROUP
        last = min(-(-stop // _GROUP) * _GROUP, len(self.left))
        groups = [
            self.left[i : min(i + _GROUP, len(self.left))] @ self.right
            for i in range(first, last, _GROUP)
        ]
        product = np.concatenate(groups)[start - first : stop - first]
        product *= self.scale
        return product


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: factors by module name, tensors that replace or extend the base, its
    config.
    """

    factors: dict[str, Factors]
    replaced: dict[str, Array]
    config: dict[str, Any]
    folder: Path


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT adapter folder. Raises ``CheckpointError`` for what is no plain LoRA."""
    config = _read_config(folder)
    factors: dict[str, dict[str, Array]] = {}
    replaced: dict[str, Array] = {}
    with _open_adapter_weights(folder) as weights:
        for name in weights.names:
            if weights.first_nonfinite(name, 0, weights.info(name).size) is not None:
                raise NonFiniteError(f"{folder}: '{name}' holds NaN or infinity")
            short = name.removeprefix("base_model.model.")
            match = re.fullmatch(
                r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?", short
            )
            if match:
                module, embedding, side = match.groups()
                factors.setdefault(module, {})[side] = weights.read(name).astype(np.float64)
                if embedding:
                    factors[module]["transposed"] = np.ones(())
            elif "lora_" in short:
                raise CheckpointError(f"{folder}: '{name}' belongs to no plain LoRA adapter")
            else:
                replaced[short.replace(".modules_to_save.default", "")] = weights.read(name)
    return Adapter(
        {module: _factors(module, pair, config, folder) for module, pair in factors.items()},
        replaced,
        config,
        folder,
    )


class AdaptedCheckpoint(Checkpoint):
    """A base with an adapter added, computed as it is read. ``decode`` is not rounded in
    between.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter, *, label: str) -> None:
        self._base = base
        self._updates: dict[str, Factors] = {}
        tensors = dict(base.tensors)
        for module, factors in adapter.factors.items():
            name = _weight_name(module, tensors, adapter.folder)
            info = tensors[name]
            rows = (len(factors.left), factors.right.shape[1])
            if math.prod(rows) != info.size or (info.shape and info.shape[0] != rows[0]):
                raise CheckpointError(
                    f"{adapter.folder}: the update of '{name}' has shape {rows}, "
                    f"the base's tensor {info.shape}",
                    hint="the adapter belongs to another base",
                )
            self._updates[name] = factors
        self._replaced = MemoryCheckpoint(
            {_known_name(name, tensors): value for name, value in adapter.replaced.items()}
        )
        tensors |= self._replaced.tensors
        super().__init__(tensors, label=label, path=adapter.folder, metadata=base.metadata)

    @property
    def home(self) -> Path | None:
        """The base's: an adapter has no config of a model."""
        return self._base.home

    def raw(self, name: str) -> Array:
        info = self.info(name)
        if name not in self._updates:
            return (self._replaced if name in self._replaced else self._base).raw(name)
        values = np.empty(info.size, working_dtype([info.dtype]))
        self.decode(name, 0, info.size, values)
        return encode(values, info.dtype, np.empty(info.size, STORAGE[info.dtype]))

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        if name in self._replaced:
            return self._replaced.decode(name, start, stop, out)
        self._base.decode(name, start, stop, out)
        if name in self._updates and stop > start:
            factors = self._updates[name]
            columns = factors.right.shape[1]
            first, last = start // columns, -(-stop // columns)
            update = factors.rows(first, last).reshape(-1)
            out += update[start - first * columns : stop - first * columns].astype(out.dtype)
        return out

    def prefetch(self, name: str) -> None:
        self._base.prefetch(name)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        # The factors were found finite when they were read; what is left are the stored tensors.
        source = self._replaced if name in self._replaced else self._base
        return source.first_nonfinite(name, start, stop)

    def close(self) -> None:
        self._base.close()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = read_json(path, "the config of an adapter", error=CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(
            f"{path} describes a {kind or 'unknown'} adapter", hint="only LoRA adapters are read"
        )
    if config.get("use_dora"):
        raise CheckpointError(
            f"{path}: weight-decomposed adapters (DoRA) are no sum of a base and an update",
            hint="merge it into its base with PEFT first",
        )
    return config


def _open_adapter_weights(folder: Path) -> Checkpoint:
    if (folder / "adapter_model.safetensors").is_file():
        from stockpot.checkpoints.safetensors_file import open_file

        return open_file(folder / "adapter_model.safetensors", str(folder))
    if (folder / "adapter_model.bin").is_file():
        from stockpot.checkpoints.pickle_file import open_pickle

        return open_pickle(folder / "adapter_model.bin", str(folder))
    raise CheckpointError(f"{folder} holds no adapter weights (adapter_model.safetensors)")


def _factors(
    module: str, pair: Mapping[str, Array], config: dict[str, Any], folder: Path
) -> Factors:
    if "A" not in pair or "B" not in pair:
        raise CheckpointError(f"{folder}: '{module}' has only one of its two LoRA factors")
    rank = pair["A"].shape[0]
    down = pair["A"].reshape(rank, -1)
    up = pair["B"].reshape(len(pair["B"]), -1)
    if up.shape[1] != rank:
        raise CheckpointError(f"{folder}: the LoRA factors of '{module}' have different ranks")
    alpha = float(_pattern(config.get("alpha_pattern"), module) or config.get("lora_alpha") or rank)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if "transposed" in pair or config.get("fan_in_fan_out"):
        return Factors(np.ascontiguousarray(down.T), np.ascontiguousarray(up.T), scale)
    return Factors(up, down, scale)


def _pattern(patterns: Any, module: str) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return None


def _weight_name(module: str, tensors: Mapping[str, TensorInfo], folder: Path) -> str:
    name = _known_name(f"{module}.weight", tensors)
    if name not in tensors:
        raise CheckpointError(
            f"{folder} adapts '{module}', which the base lacks",
            hint="the adapter belongs to another base",
        )
    return name


def _known_name(name: str, tensors: Mapping[str, TensorInfo]) -> str:
    """``name`` as the base writes it: with or without the prefix of its task model."""
    if name in tensors:
        return name
    ends = [known for known in tensors if known.endswith("." + name) or name.endswith("." + known)]
    return ends[0] if len(ends) == 1 else name
