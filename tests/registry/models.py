"""Small model folders with known parents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stockpot.checkpoints import write_checkpoint
from tests.inspection.models import State, fresh, tuned

BASE = fresh(0)


def write_model(folder: Path, state: State, **companions: str) -> Path:
    """A model folder like those of the Hub: weights, configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "model.safetensors", state, {"note": folder.name})
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    (folder / "vocab.txt").write_text("a\nb\n")
    for name, text in companions.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def moved(state: State, seed: int, far: float = 0.02) -> State:
    """A fine-tuning of ``state``."""
    return tuned(state, seed, far)


def mean(*states: State) -> State:
    """The average of models."""
    return {
        name: np.mean([state[name] for state in states], axis=0, dtype=np.float64).astype("f4")
        for name in states[0]
    }


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
