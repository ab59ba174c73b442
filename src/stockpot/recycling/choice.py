"""Which protocol's model is kept: chosen on validation rows, by the rule of one standard error.

Candidates are all rows of the comparison that give one set of weights. Each has a *validation
score*: the mean over cells (held-out domain, trial) of the mean over the training domains of the
scores of their validation rows. Where a protocol used validation rows to choose runs or
coefficients, every row is scored by a model that was chosen on the other half of the rows
(cross-fitting), so that whoever chooses most does not look best.

The rule (Breiman et al. 1984, section 3.4.3): among the candidates whose distance to the best is at
most one standard error of that distance, the *simplest* is taken: the one that chose least by
validation, then the one that takes the fewest training steps, then the first in the table. What
validation cannot tell apart, a choice made by validation cannot have improved.

The standard error of a paired difference is the larger one of two: from rows (a row counts once,
though several cells validate on it), and from the scatter of the difference over cells, each of
which was trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.errors import StockpotError
from stockpot.execution import Job
from stockpot.recycling.cost import training_cost
from stockpot.recycling.jobs import ROWS, UNSEEN
from stockpot.recycling.plan import Cell, Plan
from stockpot.recycling.protocols import PROTOCOLS, Protocol
from stockpot.recycling.recipe import AUTO, Recipe
from stockpot.tasks import Task
from stockpot.training.rows import read_outputs, score_rows

Array = np.ndarray
Scores = list[dict[str, Array]]
"""By cell and validation domain: the score of every validation row."""

_LOWEST = {"probe": "linear_probe", "best_run": "erm"}


@dataclass(frozen=True)
class Gap:
    """A validation score minus another on the same rows, and its standard error."""

    mean: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - 1.96 * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + 1.96 * self.error


@dataclass(frozen=True)
class Candidate:
    """One row that could be kept.

    ``validation``: its validation score; ``behind``: the best score minus its own;
    ``cross_fitted``: each row was scored by a model that was not chosen on it (also where nothing
    was chosen); ``decisions``: how many things it chose by validation; ``steps``: training steps.
    """

    protocol: str
    label: str
    validation: float
    behind: Gap
    cross_fitted: bool
    decisions: int
    steps: float

    @property
    def is_level(self) -> bool:
        """Whether one standard error spans its distance to the best."""
        return self.behind.mean <= self.behind.error


@dataclass(frozen=True)
class Choice:
    """The protocol that is kept, and what it was chosen from.

    ``best``: the protocol with the best validation score. ``against``: the kept protocol's
    validation score minus those of the linear probe and of the best run, by protocol.
    """

    protocol: str
    chosen: Literal["auto", "named"]
    best: str
    candidates: tuple[Candidate, ...]
    against: Mapping[str, Gap]

    @property
    def below(self) -> tuple[str, ...]:
        """The simple alternatives that validation says are better, with 95 % confidence."""
        return tuple(name for name, gap in self.against.items() if gap.high < 0)

    def reason(self) -> str:
        """Why this one, in a sentence."""
        if self.chosen == "named":
            return "named by the recipe"
        kept = next(each for each in self.candidates if each.protocol == self.protocol)
        count = len(self.candidates)
        if self.protocol == self.best:
            return f"best of {count} by validation"
        best = next(each for each in self.candidates if each.protocol == self.best)
        simpler = "stands first in the table"
        if kept.decisions < best.decisions:
            simpler = "chooses less"
        elif kept.steps < best.steps:
            simpler = "takes less training"
        return (
            f"within one standard error of the best of {count} by validation "
            f"({best.label}), and {simpler}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``results.json``."""
        return {
            "protocol": self.protocol,
            "chosen": self.chosen,
            "best": self.best,
            "candidates": [
                {**asdict(candidate), "level": candidate.is_level} for candidate in self.candidates
            ],
            "against": {
                name: {"mean": gap.mean, "low": gap.low, "high": gap.high}
                for name, gap in self.against.items()
            },
            "below": list(self.below),
        }


def choose(recipe: Recipe, task: Task, plan: Plan, folders: Mapping[Job, Path]) -> Choice:
    """Choose among the finished protocols of a plan's cells.

    Raises ``StockpotError`` where the model is worse than ``final.at_least`` asks.
    """
    rows = _Validation(recipe, task, plan, folders)
    names = [name for name in recipe.protocol_names if PROTOCOLS[name].can_be_final]
    candidates, best = _candidates(rows, names) if names else ((), "")
    kept = recipe.final.protocol
    if kept == AUTO:
        kept = simplest(candidates).protocol
    against = {}
    if PROTOCOLS[kept].can_be_final:
        own, _ = rows.scores(kept)
        for name in _LOWEST.values():
            if name != kept and rows.has(name):
                against[name] = gap(own, rows.scores(name)[0], rows.identities)
    auto = recipe.final.protocol == AUTO
    choice = Choice(kept, "auto" if auto else "named", best, tuple(candidates), against)
    lowest = recipe.final.at_least
    if lowest is not None and _LOWEST[lowest] in choice.below:
        _refuse(kept, _LOWEST[lowest], against[_LOWEST[lowest]], best)
    return choice


def simplest(candidates: Sequence[Candidate]) -> Candidate:
    """The simplest of those that one standard error cannot tell from the best."""
    order = list(PROTOCOLS)
    return min(
        (candidate for candidate in candidates if candidate.is_level),
        key=lambda one: (one.decisions, one.steps, order.index(one.protocol)),
    )


def _refuse(kept: str, lowest: str, behind: Gap, best: str) -> None:
    raise StockpotError(
        f"no model is kept: on validation '{PROTOCOLS[kept].label}' is below "
        f"'{PROTOCOLS[lowest].label}' (by {-behind.mean:.3g}, {-behind.high:.3g} to "
        f"{-behind.low:.3g}), and final.at_least asks for no less",
        hint=f"set final.protocol to '{AUTO}' or '{best}'; finished fine-tunings are reused",
    )


def _candidates(rows: _Validation, names: Sequence[str]) -> tuple[tuple[Candidate, ...], str]:
    scores = {name: rows.scores(name) for name in names}
    best = max(names, key=lambda name: _mean(scores[name][0]))
    made = []
    for name in names:
        own, cross_fitted = scores[name]
        protocol = PROTOCOLS[name]
        made.append(
            Candidate(
                name,
                protocol.label,
                _mean(own),
                gap(scores[best][0], own, rows.identities),
                cross_fitted,
                protocol.decisions,
                rows.steps(name),
            )
        )
    return tuple(sorted(made, key=lambda candidate: -candidate.validation)), best


class _Validation:
    """Validation scores of protocols, read when they are asked for."""

    def __init__(self, recipe: Recipe, task: Task, plan: Plan, folders: Mapping[Job, Path]) -> None:
        self.task = task
        self.cells = plan.cells
        self.folders = folders
        self.identities = [self._rows(cell) for cell in plan.cells]
        self._scores: dict[str, tuple[Scores, bool]] = {}

    def has(self, name: str) -> bool:
        """Whether every cell has a model of this protocol."""
        return all(name in cell.models for cell in self.cells)

    def scores(self, name: str) -> tuple[Scores, bool]:
        """A protocol's scores, and whether no row had a part in choosing what it scores."""
        if name not in self._scores:
            self._scores[name] = self._read(PROTOCOLS[name])
        return self._scores[name]

    def steps(self, name: str) -> float:
        """Training steps, mean over cells, of all that the protocol needs."""
        costs = [
            training_cost(PROTOCOLS[name], cell.models[name], self.folders)[0]
            for cell in self.cells
        ]
        return float(np.mean(costs))

    def _read(self, protocol: Protocol) -> tuple[Scores, bool]:
        scores, cross_fitted = [], True
        for cell, identities in zip(self.cells, self.identities, strict=True):
            folder = self.folders[cell.models[protocol.name]]
            file = folder / UNSEEN
            if protocol.decisions and not file.is_file():
                cross_fitted = False
            outputs = read_outputs(file if file.is_file() else folder / "outputs.npz")
            scores.append(
                {
                    name: score_rows(self.task, outputs[name], rows)
                    for name, rows in identities.items()
                }
            )
        return scores, cross_fitted

    def _rows(self, cell: Cell) -> dict[str, Array]:
        stored = read_outputs(self.folders[cell.probe] / ROWS)
        return {name: rows for name, rows in stored.items() if name.startswith("validation/")}


def _mean(scores: Scores) -> float:
    cells = [np.mean([values.mean() for values in cell.values()]) for cell in scores]
    return float(np.mean(cells))


def gap(one: Scores, other: Scores, identities: Sequence[Mapping[str, Array]]) -> Gap:
    """The first's validation score minus the other's, with the standard error of the module.

    ``identities``: by cell and domain, which row of the task each score belongs to.
    """
    influence: dict[int, float] = {}
    cells = []
    for mine, theirs, rows in zip(one, other, identities, strict=True):
        means = []
        for domain, values in mine.items():
            difference = values - theirs[domain]
            means.append(float(difference.mean()))
            share = 1 / (len(one) * len(mine) * len(difference))
            for row, value in zip(rows[domain].tolist(), difference - means[-1], strict=True):
                influence[row] = influence.get(row, 0.0) + share * float(value)
        cells.append(float(np.mean(means)))
    error = float(np.sqrt(sum(value * value for value in influence.values())))
    if len(cells) > 1:
        error = max(error, float(np.std(cells, ddof=1) / np.sqrt(len(cells))))
    return Gap(float(np.mean(cells)), error)
