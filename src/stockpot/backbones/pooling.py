"""How token vectors become one vector, where a recipe leaves that to the base."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones.preparation import TextPreparation
from stockpot.backbones.sources import Source, is_pooler, read_tokens
from stockpot.errors import BackboneError
from stockpot.reading import parse_json, read_bytes

_MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}


def choose_pooling(source: Source, batch: Any) -> str:
    """The pooling of a transformers model, for ``pooling: auto``.

    What the base's sentence-transformers files say; without those the first with which the
    library's own classification class can hold the head, so that the result opens there with it;
    without such a class the mean. ``batch`` is a prepared example.
    Raises ``BackboneError`` for a base that is pooled in a way of its own.
    """
    said = None if source.folder is None else _sentence_pooling(source.folder)
    if said is not None:
        return said
    texts = isinstance(source.preparation, TextPreparation)
    pooled = not texts and not any(map(is_pooler, source.missing))
    for pooling in ("cls", "mean", *(["pooler"] if pooled else [])):
        if _opens_elsewhere(source, pooling, batch):
            return pooling
    return "mean"


def _opens_elsewhere(source: Source, pooling: str, batch: Any) -> bool:
    from stockpot.backbones.library import express

    readout = functools.partial(read_tokens, pooling=pooling)
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    try:
        with torch.no_grad():
            features: Tensor = readout(source.run(source.network, batch), mask)
    except BackboneError:
        return False
    if features.ndim != 2:
        return False
    weight = np.random.default_rng(0).normal(size=(2, features.shape[1])).astype(np.float32)
    head = weight, np.array([0.5, -0.5], dtype=np.float32)
    return express(source.network, source.run, readout, head, batch) is not None


def _sentence_pooling(folder: Path) -> str | None:
    """What sentence-transformers' ``N_Pooling/config.json`` says; None where there is none."""
    files = sorted(folder.glob("*_Pooling/config.json"))
    if not files:
        return None
    try:
        values = parse_json(read_bytes(files[0]))
        modes = [key.removeprefix("pooling_mode_") for key, on in values.items() if on is True]
        modes = [mode for mode in modes if f"pooling_mode_{mode}" in values]
        if isinstance(values.get("pooling_mode"), str):
            modes = [values["pooling_mode"]]
    except (OSError, ValueError, AttributeError) as error:
        raise BackboneError(f"{files[0]} cannot be read: {error}") from error
    if len(modes) != 1 or modes[0] not in _MODES:
        raise BackboneError(
            f"{files[0]}: the base is pooled by '{', '.join(modes) or 'nothing'}'",
            hint="set pooling: mean, or pooling: cls",
        )
    return _MODES[modes[0]]
