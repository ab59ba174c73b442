"""Models in a bowl: minus the squared distance to weights whose coefficients are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.evaluators import FunctionEvaluator
from stockpot.evaluators.store import ScoreStore
from stockpot.soups.blend import Blends
from stockpot.soups.budget import Budget
from stockpot.soups.candidates import CandidateMaker
from stockpot.soups.engine import SoupEngine
from stockpot.soups.measuring import Evaluations
from stockpot.soups.rows import RowSplit

SHAPES = {
    "embed.weight": (12, 8),
    "layers.0.weight": (8, 8),
    "layers.1.weight": (8, 8),
    "layers.2.bias": (8,),
    "head.weight": (4, 8),
}
State = dict[str, np.ndarray]


def states(
    count: int, *, std: float = 0.02, seed: int = 0, dtype: type = np.float64
) -> list[State]:
    """A base and ``count`` models near it."""
    rng = np.random.default_rng(seed)
    base = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    models = [base]
    for _ in range(count):
        models.append({n: v + std * rng.standard_normal(v.shape) for n, v in base.items()})
    return [{n: v.astype(dtype) for n, v in state.items()} for state in models]


def mixed(base: State, models: Sequence[State], coefficients: Any) -> State:
    """``base + sum_i c_i (model_i - base)``; c (K,), or by tensor."""

    def own(name: str, i: int) -> float:
        return coefficients[name][i] if isinstance(coefficients, dict) else coefficients[i]

    return {
        name: base[name] + sum(own(name, i) * (m[name] - base[name]) for i, m in enumerate(models))
        for name in base
    }


def bowl(target: State, noise: np.ndarray | float = 0.0) -> Callable[[State], Any]:
    """Minus the squared distance to ``target``, the same for every row but for ``noise``."""

    def score(state: State) -> Any:
        total = sum(((state[n].astype(float) - target[n]) ** 2).sum() for n in target)
        return noise - total

    return score


def maker(
    models: Sequence[Any],
    function: Callable[..., Any],
    *,
    base: Any = None,
    budget: float = 1000,
    size: int | None = None,
    racing: bool = True,
) -> CandidateMaker:
    """A maker over states in memory."""
    opened = [open_checkpoint(one) for one in models]
    engine = SoupEngine(opened, None if base is None else open_checkpoint(base))
    evaluator = FunctionEvaluator(function, size=size)
    evaluations = Evaluations(
        engine, evaluator, ScoreStore(), RowSplit(), Budget(evaluations=budget), racing=racing
    )
    names = [f"m{i}" for i in range(len(models))]
    blends = Blends(names, len(engine.changes), has_base=base is not None)
    return CandidateMaker(engine, blends, evaluations)


def write_models(folder: Path, count: int = 3) -> tuple[list[Path], Path, State]:
    """Folders with models, a base file, and the state in the middle of the bowl."""
    base, *models = states(count, dtype=np.float32)
    paths = []
    for index, state in enumerate(models):
        path = folder / f"m{index}"
        path.mkdir()
        write_checkpoint(path / "model.safetensors", state)
        (path / "config.json").write_text('{"model_type": "bowl"}')
        paths.append(path)
    write_checkpoint(folder / "base.safetensors", base)
    target = mixed(base, models, np.linspace(0.6, 0.2, count))
    write_checkpoint(folder / "target.safetensors", target)
    return paths, folder / "base.safetensors", target
