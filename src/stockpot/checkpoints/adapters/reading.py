"""A PEFT folder as updates of modules: every tensor of its file has a part in one, or is refused.

Sources: Hu et al. 2021, LoRA, arXiv 2106.09685: ``W = W_0 + (alpha / r) B A``; rank-stabilised
adapters (Kalajdzievski 2023, arXiv 2312.03732) use ``alpha / sqrt(r)``; AdaLoRA, arXiv 2303.10512;
IA3, arXiv 2205.05638; VeRA, arXiv 2310.11454. The names are those of PEFT 0.21.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.adapters.changes import Delta, Factors, Hadamard, Kronecker
from stockpot.checkpoints.adapters.config import (
    LONGEST_PATTERN,
    AdapterConfig,
    read_config,
)
from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.errors import CheckpointError, NonFiniteError

# Parts that act while training only: VeLoRA's compression.
_UNUSED = ("lora_velora_embed",)

# The parts that an update of each kind is made of.
PARTS: dict[str, tuple[str, ...]] = {
    "LORA": (
        *("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"),
        *("lora_magnitude_vector", "lora_B.bias", *_UNUSED),
    ),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "LOHA": tuple(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    "LOKR": tuple(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    "IA3": ("ia3_l",),
    "VERA": ("vera_lambda_b", "vera_lambda_d"),
    "TRAINABLE_TOKENS": ("trainable_tokens_delta",),
    "LN_TUNING": (),
}
_TOKENS = "token_adapter.trainable_tokens_delta"
_ROOT = "base_model.model."
_WRAPPERS = re.compile(
    r"\.modules_to_save\.default|\.ln_tuning_layers(\.default)?|\.base_layer|\.token_adapter"
)
_PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")
MOST = 2**28
"""Values of a part that is a product of two."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Update:
    """What an adapter holds for one module: tensors by the name of their part.

    ``depth`` counts how often PEFT wrapped the module below this update, which orders the updates
    of several parameters of one module.
    """

    module: str
    depth: int
    parts: Mapping[str, Array] = field(repr=False)


@dataclass(frozen=True)
class Adapter:
    """An adapter: updates of modules, tensors that replace or extend the base's, its config."""

    folder: Path
    settings: AdapterConfig
    updates: tuple[Update, ...]
    replaced: Mapping[str, Array] = field(repr=False)
    projections: tuple[Array, ...] = field(default=(), repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """``adapter_config.json`` as it is."""
        return dict(self.settings.values)

    @property
    def factors(self) -> dict[str, Factors]:
        """Low-rank updates by module, as ``W_out,in``; raises ``CheckpointError`` where an update
        is more than that.
        """
        found: dict[str, Factors] = {}
        for update in self.updates:
            delta = self.delta(update)
            plain = isinstance(delta, Factors) and set(update.parts) <= _LOW_RANK
            if not plain or self.settings.initial is not None or update.module in found:
                raise self.error(f"the update of '{update.module}' is no product of two factors")
            assert isinstance(delta, Factors)
            found[update.module] = delta
        return found

    def delta(self, update: Update) -> Delta | None:
        """The delta of an update, rows being outputs; None where the kind has none."""
        if not update.parts.keys() & _ADDED:
            return None
        with self.fitting(update):
            return _DELTAS[self.settings.kind](self, update)

    @contextmanager
    def fitting(self, update: Update) -> Iterator[None]:
        """Raise ``CheckpointError`` for the tensors of an update whose shapes fit nothing."""
        try:
            yield
        except (IndexError, TypeError, ValueError) as error:
            shapes = ", ".join(f"{name} {list(v.shape)}" for name, v in update.parts.items())
            raise self.error(
                f"'{update.module}' has tensors of shapes that do not fit: {shapes:.300}"
            ) from error

    def scale(self, update: Update, rank: int) -> float:
        """``alpha / r`` (or ``alpha / sqrt(r)``) of an update."""
        alpha = _pattern(self, "alpha_pattern", update.module)
        if alpha is None:
            alpha = self.settings.get("lora_alpha", self.settings.get("alpha", rank))
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def error(self, problem: str, hint: str | None = None) -> CheckpointError:
        return CheckpointError(f"{self.folder}: {problem}", hint=hint)


_LOW_RANK = frozenset(("lora_A", "lora_B", "lora_E", "vera_lambda_b", "vera_lambda_d")) | {
    "lora_embedding_A",
    "lora_embedding_B",
}
_ADDED = frozenset(part for parts in PARTS.values() for part in parts) - {
    "ia3_l",
    "trainable_tokens_delta",
    _TOKENS,
}


def read_folder(folder: Path) -> Adapter:
    """Read a PEFT adapter folder.

    Raises ``CheckpointError`` for what changes the weights in a manner that is not computed here,
    and for tensors that its config does not declare; ``NonFiniteError`` for NaN.
    """
    settings = read_config(folder)
    updates: dict[tuple[str, int], dict[str, Array]] = {}
    replaced: dict[str, Array] = {}
    projections: dict[str, Array] = {}
    with _open_weights(folder) as weights:
        for name in weights.names:
            if weights.first_nonfinite(name, 0, weights.info(name).size) is not None:
                raise NonFiniteError(f"{folder}: '{name}' holds NaN or infinity")
            if name in _PROJECTIONS and settings.kind == "VERA":
                projections[name] = weights.read(name).astype(np.float64)
                continue
            module, part = _split(name.removeprefix(_ROOT), settings.kind)
            if part in _UNUSED:
                continue
            if part is not None:
                plain = module.replace(".base_layer", "")
                key = (plain, module.count(".base_layer"))
                updates.setdefault(key, {})[part] = weights.read(name).astype(np.float64)
            elif _declared(module, settings):
                replaced[module] = weights.read(name)
            else:
                raise CheckpointError(
                    f"{folder}: '{name}' is nothing that {settings.path.name} declares",
                    hint="a tensor of another kind of adapter, or of a newer PEFT",
                )
    if settings.kind == "VERA" and len(projections) != len(_PROJECTIONS):
        raise CheckpointError(
            f"{folder} lacks the projections vera_A and vera_B, which PEFT would draw at random",
            hint="save the adapter with save_projection=True",
        )
    read = tuple(Update(module, depth, parts) for (module, depth), parts in updates.items())
    shared = tuple(projections[name] for name in _PROJECTIONS) if projections else ()
    adapter = Adapter(folder, settings, read, replaced, shared)
    for update in adapter.updates:
        adapter.delta(update)
    return adapter


def _open_weights(folder: Path) -> Checkpoint:
    if (folder / "adapter_model.safetensors").is_file():
        from stockpot.checkpoints.safetensors_file import open_file

        return open_file(folder / "adapter_model.safetensors", str(folder))
    if (folder / "adapter_model.bin").is_file():
        from stockpot.checkpoints.pickle_file import open_pickle

        return open_pickle(folder / "adapter_model.bin", str(folder))
    raise CheckpointError(f"{folder} holds no adapter weights (adapter_model.safetensors)")


def _split(name: str, kind: str) -> tuple[str, str | None]:
    """Module and part of a tensor; a tensor that replaces the base's has no part."""
    for part in (*PARTS[kind], *((_TOKENS,) if kind == "LORA" else ())):
        part_pattern = re.escape(part.removesuffix(".bias"))
        end = r"\.bias" if part.endswith(".bias") else r"(?:\.weight)?"
        match = re.fullmatch(rf"(.+)\.{part_pattern}(?:\.default)?{end}", name)
        if match:
            return match[1], part
    return _WRAPPERS.sub("", name), None


def _declared(name: str, settings: AdapterConfig) -> bool:
    """Whether the config says that a tensor replaces the base's."""
    module, _, leaf = name.rpartition(".")
    saved = settings.get("modules_to_save", [])
    if settings.kind == "LN_TUNING" or any(f".{module}.".find(f".{one}.") >= 0 for one in saved):
        return True
    if leaf == "bias":
        return bool(settings.get("bias", "none") != "none")
    # Embeddings are saved whole where tokens were added to them.
    return bool(leaf == "weight" and "lora_" not in name and module.split(".")[-1] in EMBEDDINGS)


EMBEDDINGS = (
    *("embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in", "embed_out"),
    *("tok_embeddings", "output", "tokens_embed", "decoder"),
)
"""Names of embeddings and heads, which PEFT stores whole when a vocabulary was resized."""


def _lora(adapter: Adapter, update: Update) -> Factors:
    parts = update.parts
    prefix = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
    if f"{prefix}A" not in parts or f"{prefix}B" not in parts:
        raise adapter.error(f"'{update.module}' has only one of its two LoRA factors")
    down, up = parts[f"{prefix}A"], parts[f"{prefix}B"]
    rank = len(down)
    _check_rank(adapter, update, rank)
    up, down = up.reshape(len(up), -1), down.reshape(rank, -1)
    if up.shape[1] != rank:
        raise adapter.error(
            f"the LoRA factors of '{update.module}' have different ranks, {rank} and {up.shape[1]}",
            hint="a grouped convolution has no such update"
            if parts[f"{prefix}A"].ndim > 2
            else None,
        )
    return _bounded(adapter, update, Factors(up, down, adapter.scale(update, rank)))


def _check_rank(adapter: Adapter, update: Update, rank: int) -> None:
    """The factors have a rank that the config names; experts share one, AdaLoRA prunes it."""
    settings = adapter.settings
    known = {settings.get("r"), *settings.get("rank_pattern", {}).values()} - {None}
    several = settings.kind != "LORA" or settings.get("target_parameters")
    if not rank or (known and rank not in known and not several):
        raise adapter.error(
            f"the factors of '{update.module}' have rank {rank}, its config says "
            f"{', '.join(map(str, sorted(known))) or 'nothing'}"
        )


def _bounded(adapter: Adapter, update: Update, factors: Factors) -> Factors:
    """The factors, unless their product may have values that no weight has."""
    left, right = np.abs(factors.left).max(initial=0.0), np.abs(factors.right).max(initial=0.0)
    if not float(left) * float(right) * factors.left.shape[1] * factors.scale < _LARGEST:
        raise adapter.error(f"the update of '{update.module}' has values beyond {_LARGEST:.2g}")
    return factors


def _product(adapter: Adapter, update: Update, a: Array, b: Array) -> Array:
    if a.shape[0] * b.shape[1] > MOST:
        raise adapter.error(f"a part of '{update.module}' has more than {MOST:,} values, the limit")
    return a @ b


def _adalora(adapter: Adapter, update: Update) -> Factors:
    plain = _lora(adapter, update)
    values = update.parts.get("lora_E")
    if values is None:
        raise adapter.error(f"'{update.module}' lacks lora_E")
    rank = adapter.settings.get("init_r", 12)
    alpha = adapter.settings.get("lora_alpha", 8)
    scale = (float(alpha) if alpha > 0 else float(rank)) / (rank + 1e-5)
    return Factors(plain.left, plain.right * values.reshape(-1, 1), scale)


def _loha(adapter: Adapter, update: Update) -> Hadamard:
    parts = update.parts
    sides = []
    for side in ("1", "2"):
        try:
            a, b = parts[f"hada_w{side}_a"], parts[f"hada_w{side}_b"]
        except KeyError as missing:
            raise adapter.error(f"'{update.module}' lacks {missing.args[0]}") from None
        kernel = parts.get(f"hada_t{side}")
        if kernel is None:
            sides.append(Factors(a, b.reshape(len(b), -1), 1.0))
        else:
            right = np.einsum("ijkl,jr->irkl", kernel, b)
            sides.append(Factors(a.T, right.reshape(len(right), -1), 1.0))
    rank = len(parts["hada_w1_b"])
    first = Factors(sides[0].left, sides[0].right, adapter.scale(update, rank))
    return Hadamard(first, sides[1])


def _lokr(adapter: Adapter, update: Update) -> Kronecker:
    parts = update.parts
    sides = []
    for side in ("1", "2"):
        whole, a, b = (parts.get(f"lokr_w{side}{end}") for end in ("", "_a", "_b"))
        kernel = parts.get("lokr_t2") if side == "2" else None
        if whole is not None:
            sides.append(whole)
        elif a is None or b is None:
            raise adapter.error(f"'{update.module}' lacks lokr_w{side}")
        elif kernel is not None:
            sides.append(np.einsum("ijkl,ip,jr->prkl", kernel, a, b))
        else:
            sides.append(_product(adapter, update, a, b))
    rank = _pattern(adapter, "rank_pattern", update.module)
    rank = adapter.settings.get("r", 8) if rank is None else rank
    flat = sides[1].reshape(len(sides[1]), -1)
    return Kronecker(sides[0], flat, adapter.scale(update, rank))


def _vera(adapter: Adapter, update: Update) -> Factors:
    try:
        b, d = update.parts["vera_lambda_b"], update.parts["vera_lambda_d"]
    except KeyError as missing:
        raise adapter.error(f"'{update.module}' lacks {missing.args[0]}") from None
    down, up = adapter.projections
    # The projections have the width of the widest layer; the base says how much of them is meant.
    return Factors(b[:, None] * up[: len(b)], d[:, None] * down, 1.0)


_DELTAS = {"LORA": _lora, "ADALORA": _adalora, "LOHA": _loha, "LOKR": _lokr, "VERA": _vera}


def _pattern(adapter: Adapter, key: str, module: str) -> Any:
    """The number that the patterns of a key give a module; None for none."""
    patterns = adapter.settings.get(key, {})
    if patterns and len(module) > LONGEST_PATTERN:
        raise adapter.error(
            f"{key}: the name {module[:40]}... has more than {LONGEST_PATTERN} characters"
        )
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return None
