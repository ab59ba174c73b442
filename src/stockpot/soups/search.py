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
_RATE = 0.1  # of the first step of a gradient
_SEPARABLE = 60  # dimensions from which a full covariance matrix learns too slowly
_PATIENCE = 10  # generations without the gain that was asked for


def search(
    objective: Objective,
    start: Vector,
    tried: Sequence[tuple[Vector, float]],
    method: str,
    seed: int,
    gain: float,
    *,
    ends: tuple[float, float] = (LOW, HIGH),
) -> Iterator[None]:
    """Try coefficients for as long as the caller asks; ``objective`` may end it by raising.

    ``start``: where to begin; ``tried``: vectors whose scores are known. Ends by itself where the
    search has converged, or ``gain`` was not reached for a while. Higher scores are better.
    ``ends``: of what is tried.
    """
    if method == "optuna":
        yield from _parzen(objective, start, tried, seed, ends)
    elif len(start) == 1:
        yield from _golden(objective, start, ends)
    else:
        yield from _evolution(objective, start, seed, gain, ends)


def climb(
    objective: Objective,
    slope: Callable[[Vector, int], Vector],
    start: Vector,
    steps: int,
    *,
    ends: tuple[float, float] = (LOW, HIGH),
) -> Iterator[None]:
    """Adam (arXiv 1412.6980) up the slope that ``slope`` gives of a vector at a step, from a rate
    of ``_RATE`` down to 0 as a cosine; half of the way and the end are scored."""
    vector, mean, square = np.clip(start, *ends), np.zeros(len(start)), np.zeros(len(start))
    for step in range(steps):
        given = slope(vector, step)
        mean = 0.9 * mean + 0.1 * given
        square = 0.99 * square + 0.01 * given**2
        size = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.99 ** (step + 1))
        rate = _RATE * (1 + np.cos(np.pi * step / steps)) / 2
        vector = np.clip(vector + rate * size[0] / (np.sqrt(size[1]) + 1e-30), *ends)
        yield
        if step + 1 in (steps // 2, steps):
            objective(vector)
            yield


def _golden(objective: Objective, start: Vector, ends: tuple[float, float]) -> Iterator[None]:
    """One number: the golden section (Kiefer 1953) between its ends, until 1e-4 of them is left."""
    ratio, (low, high) = (np.sqrt(5.0) - 1) / 2, ends
    objective(start)
    yield
    scores: dict[float, float] = {}  # by point, to nine digits
    while high - low > 1e-4 * (ends[1] - ends[0]):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        for point in (first, second):
            if round(point, 9) not in scores:  # one of the two is known from the step before
                scores[round(point, 9)] = objective(np.array([point]))
                yield
        low, high = (
            (low, second) if scores[round(first, 9)] >= scores[round(second, 9)] else (first, high)
        )


def _evolution(
    objective: Objective, start: Vector, seed: int, gain: float, ends: tuple[float, float]
) -> Iterator[None]:
    import cmaes

    size = len(start)
    kind = cmaes.SepCMA if size >= _SEPARABLE else cmaes.CMA
    bounds = np.tile(ends, (size, 1))
    mean = np.clip(start, *ends)
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
    objective(np.clip(strategy.mean, *ends))
    yield


def _parzen(
    objective: Objective,
    start: Vector,
    tried: Sequence[tuple[Vector, float]],
    seed: int,
    ends: tuple[float, float],
) -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, Any] = {
        f"c{i}": optuna.distributions.FloatDistribution(*ends) for i in range(len(start))
    }

    def named(vector: Vector) -> dict[str, float]:
        inside = np.clip(vector, *ends).tolist()
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
