"""Small models with known family trees."""

from __future__ import annotations

import numpy as np

State = dict[str, np.ndarray]

SHAPES: dict[str, tuple[int, ...]] = {
    "stem.weight": (16, 3, 3, 3),
    "stem.norm.weight": (16,),
    "stem.norm.bias": (16,),
    **{f"blocks.{index}.fc.weight": (32, 32) for index in range(6)},
    **{f"blocks.{index}.fc.bias": (32,) for index in range(6)},
    "depthwise.weight": (32, 1, 3, 3),
    "head.weight": (10, 32),
    "head.bias": (10,),
}


def fresh(seed: int) -> State:
    """A network after some training: norm scales about one, smoothing filters positive."""
    draw = np.random.default_rng(seed)
    state = {}
    for name, shape in SHAPES.items():
        values = draw.normal(size=shape) * 0.1
        if name == "stem.norm.weight":
            values += 1.0
        if name == "depthwise.weight":
            values += 0.1  # smoothing filters: strangers too have a positive cosine here
        state[name] = values.astype(np.float32)
    return state


def tuned(state: State, seed: int, far: float = 0.05) -> State:
    """A fine-tuning: every weight moved by ``far`` times the tensor's own spread."""
    draw = np.random.default_rng(seed)
    return {
        name: (values + far * values.std() * draw.normal(size=values.shape)).astype(np.float32)
        for name, values in state.items()
    }
