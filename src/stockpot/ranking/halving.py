"""Select: fine-tunings that stop early (the second phase of arXiv 2404.00069).

All models are trained a little, the worse half goes, and so on until one is left (successive
halving, Jamieson and Talwalkar 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stockpot.errors import InputError


@dataclass(frozen=True)
class Rung:
    """One round: steps trained so far, what was measured, what it predicts, and who stays."""

    steps: int
    measured: dict[str, float]
    predicted: dict[str, float]
    kept: tuple[str, ...]


def successive_halving(
    models: Sequence[str],
    train: Callable[[Sequence[str], int], Mapping[str, float]],
    steps: int,
    *,
    rate: int = 2,
    least: int = 1,
    predict: Callable[[str, int, float], float] = lambda model, step, value: value,
    afford: Callable[[Sequence[str], int], bool] = lambda models, step: True,
) -> list[Rung]:
    """Train all, keep the best ``1 / rate`` by predicted final value, train those on, until done.

    ``train(models, until)`` trains each to step ``until``, going on from where it is, and measures.
    The last rung ends at ``steps``, with ``least`` models; before it each rung has ``1 / rate`` of
    the steps of the next. ``predict(model, step, value)`` turns an early value into the final one.
    ``afford(models, until)`` may end it early.
    """
    if rate < 2:
        raise InputError(f"successive halving: rate must be 2 or more, got {rate}")
    sizes = [len(models)]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // rate))
    rungs: list[Rung] = []
    alive = list(models)
    for index, size in enumerate([*sizes[1:], sizes[-1]]):
        until = max(1, round(steps / rate ** (len(sizes) - 1 - index)))
        if rungs and until <= rungs[-1].steps:
            until = min(steps, rungs[-1].steps + 1)
        if not afford(alive, until):
            break
        measured = dict(train(alive, until))
        predicted = {name: predict(name, until, measured[name]) for name in alive}
        order = sorted(alive, key=lambda name: -predicted[name])
        alive = order[:size]
        rungs.append(Rung(until, measured, predicted, tuple(alive)))
        if until == steps:
            break
    return rungs
