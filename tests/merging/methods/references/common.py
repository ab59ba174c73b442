"""What the references share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

State = dict[str, np.ndarray]
Reference = Callable[..., State]


def per_tensor(function: Callable[..., np.ndarray]) -> Reference:
    """A reference on states, from one on the tensors of one name: ``(theta_0, thetas, **p)``."""

    def on_states(base: State | None, models: list[State], **parameters: object) -> State:
        return {
            name: function(
                None if base is None else base[name],
                [model[name] for model in models],
                **parameters,
            )
            for name in models[0]
        }

    return on_states


def flat(state: State) -> np.ndarray:
    return np.concatenate([state[name].ravel() for name in sorted(state)])


def unflat(vector: np.ndarray, like: State) -> State:
    state, start = {}, 0
    for name in sorted(like):
        state[name] = vector[start : start + like[name].size].reshape(like[name].shape)
        start += like[name].size
    return state


def count_of(density: float, size: int) -> int:
    return max(1, int(np.floor(density * size + 0.5)))


def nth_largest(values: np.ndarray, n: int) -> float:
    return float(np.sort(values)[len(values) - n])
