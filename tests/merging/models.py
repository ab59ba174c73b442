"""Small models to merge: a base and fine-tunings of it, as numpy states and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stockpot.checkpoints import write_checkpoint
from stockpot.checkpoints.dtypes import narrow, widen

SHAPES = {
    "embed.weight": (37, 16),
    "layers.0.attn.weight": (16, 16),
    "layers.0.norm.bias": (16,),
    "layers.1.attn.weight": (16, 16),
    "layers.1.norm.bias": (16,),
    "scale": (),
    "empty": (0, 4),
    "head.weight": (5, 16),
}


def numpy_states(count: int, *, std: float = 0.02, code: str = "F32", seed: int = 0, shapes=None):
    """A base and ``count`` models near it; values are exact in type ``code``."""
    rng = np.random.default_rng(seed)
    states = []
    base: dict[str, np.ndarray] = {}
    for model in range(count + 1):
        state = {}
        for name, shape in (shapes or SHAPES).items():
            noise = rng.standard_normal(shape)
            values = noise if model == 0 else base[name] + std * noise
            state[name] = widen(narrow(np.asarray(values, np.float32), code), code)
        states.append(state)
        base = states[0]
    return states[0], states[1:]


def torch_states(count: int, dtype: torch.dtype, **options):
    base, models = numpy_states(count, **options)
    convert = lambda state: {k: torch.from_numpy(np.array(v)).to(dtype) for k, v in state.items()}  # noqa: E731
    return convert(base), [convert(model) for model in models]


def write_states(folder: Path, base, models, code: str = "F32") -> tuple[Path, list[Path]]:
    paths = [folder / "base.safetensors"]
    paths += [folder / f"model{i}.safetensors" for i in range(len(models))]
    for path, state in zip(paths, (base, *models), strict=True):
        write_checkpoint(
            path, state, dtypes={n: code for n, v in state.items() if v.dtype.kind == "f"}
        )
    return paths[0], paths[1:]
