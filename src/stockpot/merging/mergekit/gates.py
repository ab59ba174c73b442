"""Routers of a mixture of experts, before any training: rows that point at what an expert is for.

A row is the direction of the hidden states (or of the embeddings) of an expert's prompts, less that
of its negative ones. Source: mergekit's ``moe/router.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.compat import import_transformers
from stockpot.errors import CheckpointError
from stockpot.extras import require
from stockpot.merging.random import uniform

RANDOM = ("random", "uniform_random")
MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", *RANDOM)
_EMBEDDINGS = "model.embed_tokens.weight"
_DEGENERATE = 5.0
"""Condition number above which rows are too much alike; mergekit's."""


class Prompted(Protocol):
    """What an expert is for, and what not."""

    @property
    def prompts(self) -> tuple[str, ...]: ...

    @property
    def against(self) -> tuple[str, ...]: ...


def gates(
    base: Checkpoint, experts: Sequence[Prompted], mode: str, layers: int
) -> tuple[Array, list[str]]:
    """(rows of the routers, shape (layers, experts, width), float32; notes)."""
    width = base.info(_EMBEDDINGS).shape[1]
    if mode in RANDOM:
        shape = (layers, len(experts), width)
        return _random(mode, shape), ["router: random numbers, drawn by stockpot and not by torch"]
    read = _Reading(base, mode, layers)
    rows = []
    for expert in experts:
        vector = read(expert.prompts)
        if expert.against:
            vector = vector - read(expert.against)
        rows.append(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-8))
    routers = np.stack(rows, axis=1).astype(np.float32)
    notes = []
    alike = [n for n, layer in enumerate(routers) if np.linalg.cond(layer) > _DEGENERATE]
    if alike:
        notes.append(f"router: prompts are too much alike in {len(alike)} of {layers} layers")
    if mode != "cheap_embed":
        notes.append("router: hidden states in the type of the base's file; mergekit's in bfloat16")
    return routers, notes


def _random(mode: str, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    first = uniform(0, mode, 0, 0, count).astype(np.float64).reshape(shape)
    if mode == "uniform_random":
        return ((2 * first - 1) / math.sqrt(shape[-1])).astype(np.float32)
    angle = uniform(0, mode, 1, 0, count).reshape(shape)
    # Box and Muller 1958.
    normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * angle)
    return np.asarray(normal, np.float32)


class _Reading:
    """Texts -> a vector for each layer, shape (layers, width)."""

    def __init__(self, base: Checkpoint, mode: str, layers: int) -> None:
        require("transformers", f"{mode} gates")
        if base.home is None:
            raise CheckpointError(f"{base.label} has no tokenizer", hint="or gate_mode: random")
        transformers = import_transformers()
        self._mode, self._layers = mode, layers
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(base.home)
        self._tokenizer.padding_side = "left"
        self._tokenizer.pad_token = self._tokenizer.bos_token or self._tokenizer.eos_token
        if mode == "cheap_embed":
            self._embeddings = base.read(_EMBEDDINGS)
            return
        if base.path is None or base.base is not None:
            raise CheckpointError(
                f"{base.label}: hidden states are those of a model in a folder",
                hint="gate_mode: cheap_embed",
            )
        model = transformers.AutoModelForCausalLM
        self._model = model.from_pretrained(base.home, dtype="auto").eval()

    def __call__(self, prompts: Sequence[str]) -> Array:
        begin = self._tokenizer.bos_token or ""
        tokens = self._tokenizer(
            [begin + prompt for prompt in prompts],
            return_tensors="np",
            padding=True,
            add_special_tokens=False,
        )
        if self._mode == "cheap_embed":
            rows = self._embeddings[tokens["input_ids"]] * tokens["attention_mask"][..., None]
            total = rows.sum(axis=(0, 1))
            vector = total / max(float(np.linalg.norm(total)), 1e-8)
            return np.repeat(vector[None], self._layers, axis=0)
        return self._hidden(tokens)

    def _hidden(self, tokens: Any) -> Array:
        import torch

        inputs = {name: torch.from_numpy(np.asarray(value)) for name, value in tokens.items()}
        with torch.no_grad():
            output = self._model(**inputs, output_hidden_states=True)
        states = np.stack([state.float().numpy() for state in output.hidden_states[:-1]])
        pooled = states.mean(axis=2) if self._mode == "hidden_avg" else states[:, :, -1]
        return np.asarray(pooled.mean(axis=1))
