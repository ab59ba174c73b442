"""Continual-learning measures from the predictions after every task.

Notation of Lopez-Paz and Ranzato 2017 and Chaudhry et al. 2018: R[t, k] is the accuracy on task k
after task t (of T).

- A_t: accuracy after task t on all that was seen by then; A_B = A_T, A-bar = mean over t.
- forgetting: mean over k < T of (max over t < T of R[t, k]) - R[T, k].
- BWT (backward transfer): mean over k < T of R[T, k] - R[k, k].
- FWT (forward transfer): mean over k > 1 of R[k - 1, k] minus chance, where classes are told apart
  within their task; elsewhere a class cannot be named before it was seen, and FWT is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.continual.recipe import Mode
from stockpot.tangent.modes import own_task, restrict


@dataclass(frozen=True)
class Measures:
    """Of one method in one trial; accuracies in [0, 1], None where undefined.

    ``steps``: A_t (T,). ``matrix``: R (T, T), None where a task was not seen yet.
    """

    final: float
    incremental: float | None
    forgetting: float | None
    backward: float | None
    forward: float | None
    steps: tuple[float, ...]
    matrix: tuple[tuple[float | None, ...], ...]


def choose(outputs: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The class with the largest output among those allowed: (N, C) and bool (N, C) -> (N,)."""
    chosen: np.ndarray = restrict(outputs, allowed).argmax(1)
    return chosen


def allowed_classes(
    mode: Mode, tasks: Sequence[Sequence[int]], step: int, labels: np.ndarray, classes: int
) -> np.ndarray:
    """Classes among which a prediction chooses after task ``step`` (from 0): bool (N, C).

    data: those of the tasks seen, which is mostly all; class: those seen; task: those of the
    example's own task, whether seen or not.
    """
    if mode == "task":
        return own_task(labels, tasks, classes)
    seen = np.zeros(classes, dtype=bool)
    seen[[number for numbers in tasks[: step + 1] for number in numbers]] = True
    return np.broadcast_to(seen, (len(labels), classes))


def measure(
    mode: Mode, tasks: Sequence[Sequence[int]], predictions: np.ndarray, labels: np.ndarray
) -> Measures:
    """Measures from ``predictions`` (T or 1, N) of the test rows, whose classes are ``labels``.

    ``tasks``: class numbers of each task. One row of predictions is a model at the end only.
    """
    correct = predictions == labels
    if len(predictions) == 1 and len(tasks) > 1:
        return Measures(float(correct[0].mean()), None, None, None, None, (), ())
    if mode == "data":
        over_time = tuple(float(row.mean()) for row in correct)
        mean = float(np.mean(over_time))
        return Measures(over_time[-1], mean, None, None, None, over_time, ())
    members = [np.isin(labels, numbers) for numbers in tasks]
    steps: list[float] = []
    matrix: list[list[float]] = []
    for step, row in enumerate(correct):
        steps.append(float(row[np.logical_or.reduce(members[: step + 1])].mean()))
        matrix.append([float(row[own].mean()) for own in members])
    count, last = len(tasks), matrix[-1]
    best = [max(matrix[t][k] for t in range(k, count - 1)) for k in range(count - 1)]
    forward = None
    if mode == "task":
        gains = [matrix[k - 1][k] - 1 / len(tasks[k]) for k in range(1, count)]
        forward = float(np.mean(gains))
    seen: list[tuple[float | None, ...]] = [
        tuple(value if mode == "task" or k <= t else None for k, value in enumerate(row))
        for t, row in enumerate(matrix)
    ]
    return Measures(
        final=steps[-1],
        incremental=float(np.mean(steps)),
        forgetting=float(np.mean([b - e for b, e in zip(best, last, strict=False)])),
        backward=float(np.mean([last[k] - matrix[k][k] for k in range(count - 1)])),
        forward=forward,
        steps=tuple(steps),
        matrix=tuple(seen),
    )
