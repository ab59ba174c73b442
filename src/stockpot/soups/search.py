"""Look for better coefficients by evaluation: CMA-ES, or a tree-structured Parzen estimator.

CMA-ES: Hansen and Ostermeier 2001; the package ``cmaes``. TPE: Bergstra et al. 2011; the package
``optuna``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Objective = Callable[[Vector], float]
METHODS = ("cmaes", "optuna", "none")
"""The packages that search, or none."""

LOW, HIGH = -0.5, 1.5
"""Coefficients that are tried."""
_SPREAD = 0.2
_SEPARABLE = 60  # dimensions from which a full covariance matrix learns too slowly
_PATIENCE = 10  # generations without the gain that was asked for


def search(
    objective: Objective,
    start: Vector,
    tried: Sequence[tuple[Vector, float]],
    method: str,
    seed: int,
    gain: float,
) -> Iterator[None]:
    """Try coefficients for as long as the caller asks; ``objective`` may end it by raising.

    ``start``: where to begin; ``tried``: vectors whose scores are known. Ends by itself where the
    search has converged, or ``gain`` was not reached for a while. Higher scores are better.
    """
    if method == "optuna":
        yield from _parzen(objective, start, tried, seed)
    else:
        yield from _evolution(objective, start, seed, gain)


def _evolution(objective: Objective, start: Vector, seed: int, gain: float) -> Iterator[None]:
    import cmaes

    size = len(start)
    kind = cmaes.SepCMA if size >= _SEPARABLE else cmaes.CMA
    bounds = np.tile([LOW, HIGH], (size, 1))
    mean = np.clip(start, LOW, HIGH)
    strategy = kind(mean, _SPREAD, bounds=bounds, seed=seed)
    best: list[float] = []
    while not strategy.should_stop():
        generation = []
        for _ in range(strategy.population_size):
            vector = strategy.ask()
            generation.append((vector, -objective(vector)))
            yield
        worst = max((loss for _, loss in generation if np.isfinite(loss)), default=0.0)
        strategy.tell([(v, loss if np.isfinite(loss) else worst + 1.0) for v, loss in generation])
        best.append(-min(loss for _, loss in generation))
        late, early = best[-_PATIENCE:], best[:-_PATIENCE]
        if gain > 0 and early and max(late) < max(early) + gain:
            break
    objective(np.clip(strategy.mean, LOW, HIGH))
    yield


def _parzen(
    objective: Objective, start: Vector, tried: Sequence[tuple[Vector, float]], seed: int
) -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, Any] = {
        f"c{i}": optuna.distributions.FloatDistribution(LOW, HIGH) for i in range(len(start))
    }

    def named(vector: Vector) -> dict[str, float]:
        inside = np.clip(vector, LOW, HIGH).tolist()
        return dict(zip(space, inside, strict=True))

    for vector, score in tried:
        if np.isfinite(score):
            study.add_trial(
                optuna.trial.create_trial(params=named(vector), distributions=space, value=score)
            )
    study.enqueue_trial(named(start))
    while True:
        trial = study.ask(space)
        score = objective(np.array([trial.params[name] for name in space]))
        study.tell(trial, score if np.isfinite(score) else None, state=_state(optuna, score))
        yield


def _state(optuna: Any, score: float) -> Any:
    states = optuna.trial.TrialState
    return states.COMPLETE if np.isfinite(score) else states.FAIL


def random_vectors(size: int, seed: int) -> Iterator[Vector]:
    """Shares drawn evenly from all that add up to 1: what a search has to beat."""
    generator = np.random.default_rng([seed, 3])
    while True:
        yield generator.dirichlet(np.ones(size))
