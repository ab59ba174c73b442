"""Runs of a trainer on disk: weights that walk from step to step."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stockpot.checkpoints import write_checkpoint

State = dict[str, np.ndarray]


def walk(count: int, *, seed: int = 0, dtype: type = np.float64) -> list[State]:
    """Weights after every step of a run, the oldest first, with a counter of steps."""
    rng = np.random.default_rng(seed)
    state = {"layer.weight": rng.standard_normal((6, 4)), "layer.bias": rng.standard_normal(6)}
    states = []
    for step in range(1, count + 1):
        state = {n: v + 0.1 * rng.standard_normal(v.shape) for n, v in state.items()}
        whole = {"steps": np.array([step], dtype=np.int64)}
        states.append({n: v.astype(dtype) for n, v in state.items()} | whole)
    return states


def write_run(folder: Path, states: list[State], steps: list[int] | None = None) -> Path:
    """A folder as transformers' Trainer leaves it, optimizer state and all."""
    for number, state in enumerate(states, 1):
        step = 100 * number if steps is None else steps[number - 1]
        home = folder / f"checkpoint-{step}"
        write_checkpoint(home / "model.safetensors", state)
        (home / "config.json").write_text('{"model_type": "walk"}')
        (home / "tokenizer.json").write_text("{}")
        (home / "generation_config.json").write_text(f'{{"step": {step}}}')
        (home / "trainer_state.json").write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (home / name).write_bytes(b"not to be read")
    return folder


def mixed(states: list[State], weights: list[float]) -> State:
    """The weighted mean in float64; the counter of steps is the newest one's."""
    total = {
        name: sum(w * s[name].astype(np.float64) for w, s in zip(weights, states, strict=True))
        for name in states[0]
    }
    return {**total, "steps": states[-1]["steps"]}
