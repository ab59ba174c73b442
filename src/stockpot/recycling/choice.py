"""Which protocol's model is kept: chosen on validation rows, where they can tell.

Candidates are all rows of the comparison that give one set of weights. Each has a *validation
score*: the mean over cells (held-out domain, trial) of the mean over the training domains of the
scores of their validation rows. Where a protocol used validation rows to choose runs or
coefficients, every row is scored by a model that was chosen on the other half of the rows
(cross-fitting), so that whoever chooses most does not look best.

The rule: a candidate is *level* with the best where the 95 % interval of their distance holds 0,
and where it has at least half of the best one's lead over a constant answer (accuracy or R2): on
few rows that interval holds nearly everything. Of the level ones is kept the one that chose least
by validation, then an average of weights before one run or none, then the average of more runs,
then of runs from more starts, then the one that takes the fewest training steps, then the first in
the table. What validation cannot tell apart, a choice made by validation cannot have improved. All
are trained already and cost the same to run; an average has less variance the more runs it holds
and the less alike they are (Rame et al. 2022, arXiv:2205.09739, and 2023, arXiv:2212.10445: on five
sets, averages of runs from different starts held up best on domains that nothing had seen).

A row *came to nothing* where its weights are the linear probe's to the bit: its runs diverged, or
none got better than its start. It is no choice of its own then, and the linear probe stands for it:
in the cell whose weights are handed over, or where they are trained anew on all domains, in any.

The interval is that of these very weights on other validation rows: of the handed-over model it is
asked what it is, not what another training would be. (With the scatter of trainings in it, a rule
becomes lenient exactly where runs are far apart and averaging destroys them.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stockpot.errors import StockpotError
from stockpot.evaluation.claims import VALIDATION, Claim, compare_all
from stockpot.evaluation.collapse import Start, measure_start
from stockpot.evaluation.crossed import Cell as Where
from stockpot.evaluation.crossed import crossed_difference, numbered
from stockpot.evaluation.selection import LEVEL, Shortfall
from stockpot.evaluation.wording import in_sentence
from stockpot.execution import Job
from stockpot.recycling.contents import content_of
from stockpot.recycling.cost import training_cost
from stockpot.recycling.jobs import ROWS, UNSEEN
from stockpot.recycling.judging import selection_metric
from stockpot.recycling.plan import Cell, Plan
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import AUTO, Recipe
from stockpot.tasks import Task
from stockpot.training.rows import read_outputs, score_rows

Scores = dict[Where, dict[str, np.ndarray]]
"""By (held-out domain, trial) and validation domain: the score of every validation row."""

PROBE = "linear_probe"
LOWEST = {"probe": PROBE, "best_run": "erm"}


@dataclass(frozen=True)
class CandidateRow:
    """One row that could be kept.

    ``validation``: its validation score; ``behind``: the best score minus its own;
    ``cross_fitted``: each row was scored by a model that was not chosen on it (also where nothing
    was chosen); ``decisions``: how many things it chose by validation; ``is_averaged``: it is the
    mean of different weights; ``runs``: how many different runs it holds, ``starts``: from how many
    different weights they started; ``steps``: training steps; all of them means over cells.
    ``came_to_nothing``: its weights are the linear probe's. ``lost``: more than half of the best
    one's lead over a constant answer.
    """

    protocol: str
    label: str
    validation: float
    behind: Shortfall
    cross_fitted: bool
    decisions: int
    is_averaged: bool
    runs: float
    starts: float
    steps: float
    came_to_nothing: bool = False
    lost: bool = False

    @property
    def is_told_apart(self) -> bool:
        """Whether validation rows can tell it from the best."""
        return self.behind.mean > self.behind.margin + 1e-12

    @property
    def is_level(self) -> bool:
        """Whether it is something, has not lost what the best has, and cannot be told from it."""
        return not (self.came_to_nothing or self.lost or self.is_told_apart)


Rule = Callable[[CandidateRow], float]
RULES: tuple[tuple[Rule, str], ...] = (
    (lambda one: one.decisions, "one that chose least"),
    (lambda one: not one.is_averaged, "one that averages weights"),
    (lambda one: -one.runs, "one of the most runs"),
    (lambda one: -one.starts, "one from the most different starts"),
    (lambda one: one.steps, "one of the fewest training steps"),
    (lambda one: list(PROTOCOLS).index(one.protocol), "the first in the table"),
)
"""What decides between level candidates, one after the other: the least is kept, and in words."""


@dataclass(frozen=True)
class KeptModel:
    """The protocol that is kept, and what it was chosen from.

    ``best``: the protocol with the best validation score; ``auto``: the one that the rule keeps, ""
    where validation can choose none. ``against``: the kept protocol against
    the linear probe and the best run, on validation rows.
    """

    protocol: str
    chosen: Literal["auto", "named"]
    best: str
    auto: str
    candidates: tuple[CandidateRow, ...]
    against: tuple[Claim, ...]

    @property
    def below(self) -> tuple[Claim, ...]:
        """The simple alternatives that these very weights are worse than: other rows would most
        likely say so, too. Nothing is said of other trainings."""
        return tuple(claim for claim in self.against if claim.high < 0)

    @property
    def came_to_nothing(self) -> bool:
        """Whether its weights are known to be the linear probe's."""
        return any(one.came_to_nothing for one in self.candidates if one.protocol == self.protocol)

    def reason(self) -> str:
        """Why this one, in a sentence: every rule that had to decide, in turn."""
        if self.chosen == "named":
            return "named by the recipe"
        level = [candidate for candidate in self.candidates if candidate.is_level]
        real = sum(not candidate.came_to_nothing for candidate in self.candidates)
        if real == 1:
            return "the only candidate" + " left" * (len(self.candidates) > 1)
        if len(level) == 1:
            return f"best of {real} by validation"
        best = "the best"
        if self.protocol != self.best:
            best += f", {in_sentence(PROTOCOLS[self.best].label)}"
        near = [one for one in self.candidates if not (one.came_to_nothing or one.is_told_apart)]
        if len(near) > len(level):
            best += " and that have half of its lead over a constant answer"
        among = f"one of {len(level)} (of {real})"
        ruled = ", of these ".join(words for words, _ in narrowed(level))
        return f"{among} that validation cannot tell from {best}, and of those {ruled}"


def choose(recipe: Recipe, task: Task, plan: Plan, folders: Mapping[Job, Path]) -> KeptModel:
    """Choose among the finished protocols of a plan's cells.

    Raises ``StockpotError`` where the model is worse than ``final.at_least`` asks.
    """
    rows = _Validation(recipe, task, plan, folders)
    names = [name for name in recipe.protocol_names if PROTOCOLS[name].can_be_final]
    if names and all(map(rows.came_to_nothing, names)):
        names.append(PROBE)
    candidates, best = _candidates(rows, names) if names else ((), "")
    kept = recipe.final.protocol
    auto = preferred(candidates).protocol if candidates else ""
    chosen: Literal["auto", "named"] = "named"
    if kept == AUTO:
        kept, chosen = auto, "auto"
    against: tuple[Claim, ...] = ()
    if PROTOCOLS[kept].can_be_final:
        against = rows.against(PROBE if rows.came_to_nothing(kept) else kept)
    choice = KeptModel(kept, chosen, best, auto, candidates, against)
    if recipe.final.at_least is not None:
        lowest = LOWEST[recipe.final.at_least]
        for claim in choice.below:
            if claim.against == lowest:
                raise StockpotError(
                    f"no model is kept, as final.at_least asks. {claim.sentence()}",
                    hint=f"set final.protocol to '{AUTO}' or '{best}'; what is trained is reused",
                )
    return choice


def preferred(candidates: Sequence[CandidateRow]) -> CandidateRow:
    """Of those that validation cannot tell from the best, the one that the rules keep."""
    level = [candidate for candidate in candidates if candidate.is_level]
    return next((left[0] for _, left in reversed(narrowed(level))), level[0])


def narrowed(
    candidates: Sequence[CandidateRow],
) -> list[tuple[str, list[CandidateRow]]]:
    """The rules that left out some of these candidates, in words, with those that they left in."""
    steps = []
    left = list(candidates)
    for rule, words in RULES:
        least = min(map(rule, left))
        kept = [one for one in left if rule(one) == least]
        if len(kept) < len(left):
            steps.append((words, kept))
        left = kept
    return steps


def _candidates(rows: _Validation, names: Sequence[str]) -> tuple[tuple[CandidateRow, ...], str]:
    means = {name: _mean(rows.scores(name)) for name in names}
    nothing = {name: rows.came_to_nothing(name) for name in names}
    best = max((name for name in names if not nothing[name]), key=lambda name: means[name])
    start = rows.standing(best)
    candidates = [
        CandidateRow(
            protocol=name,
            label=PROTOCOLS[name].label,
            validation=means[name],
            behind=shortfall(rows.scores(best), rows.scores(name), rows.identities),
            cross_fitted=rows.is_cross_fitted(name),
            decisions=PROTOCOLS[name].decisions,
            is_averaged=rows.is_averaged(name),
            runs=rows.runs(name),
            starts=rows.starts(name),
            steps=rows.steps(name),
            came_to_nothing=nothing[name],
            lost=start.halved(rows.standing(name).score),
        )
        for name in names
    ]
    return tuple(sorted(candidates, key=lambda candidate: -candidate.validation)), best


class _Validation:
    """Validation scores of protocols, read when they are asked for."""

    def __init__(self, recipe: Recipe, task: Task, plan: Plan, folders: Mapping[Job, Path]) -> None:
        self.metric = selection_metric(recipe, task.kind).name
        self.task = task
        self.cells = {(str(cell.held_out), cell.trial): cell for cell in plan.cells}
        self.folders = folders
        # Weights that are trained anew on all domains may come to what any cell came to.
        self.speaking = plan.cells[: 1 if recipe.final.train_on == "first" else None]
        self.identities = {
            where: _validation(read_outputs(folders[cell.probe] / ROWS))
            for where, cell in self.cells.items()
        }
        self._scores: dict[str, Scores] = {}

    def scores(self, name: str) -> Scores:
        """A protocol's scores."""
        if name not in self._scores:
            self._scores[name] = {where: self._read(name, where) for where in self.cells}
        return self._scores[name]

    def standing(self, name: str) -> Start:
        """Its accuracy or R2 beside a constant answer's, means over cells."""
        measured = [
            measure_start(
                self._outputs(name, where),
                {part: self.task.labels[rows] for part, rows in self.identities[where].items()},
                self.task.kind,
            )
            for where in self.cells
        ]
        return Start(*np.mean([(one.score, one.error, one.constant) for one in measured], axis=0))

    def is_cross_fitted(self, name: str) -> bool:
        """Whether no row had a part in choosing what it scores."""
        folders = [self.folders[cell.models[name]] for cell in self.cells.values()]
        return not PROTOCOLS[name].decisions or all((f / UNSEEN).is_file() for f in folders)

    def came_to_nothing(self, name: str) -> bool:
        """Whether the weights that are handed over are, or may be, the linear probe's own."""
        return any(content_of(name, cell, self.folders).instead for cell in self.speaking)

    def is_averaged(self, name: str) -> bool:
        """Whether the noise of one training is averaged out: over runs (a greedy soup may hold one
        only), along a run, or with the base."""
        return all(content_of(name, cell, self.folders).is_average for cell in self.speaking)

    def runs(self, name: str) -> float:
        """Different runs that its weights are made of, mean over cells."""
        return float(np.mean([len(self._members(name, cell)) for cell in self.cells.values()]))

    def starts(self, name: str) -> float:
        """Different weights that those runs started from, mean over cells."""
        pool = PROTOCOLS[name].pool
        counts = []
        for cell in self.cells.values():
            inits = {run.name: run.init for run in cell.runs.get(pool, [])}
            counts.append(len({inits.get(member) for member in self._members(name, cell)}))
        return float(np.mean(counts))

    def _members(self, name: str, cell: Cell) -> list[str]:
        return list(content_of(name, cell, self.folders).shares)

    def steps(self, name: str) -> float:
        """Training steps, mean over cells, of all that the protocol needs."""
        protocol = PROTOCOLS[name]
        cells = self.cells.values()
        return float(
            np.mean([training_cost(protocol, cell.models[name], self.folders)[0] for cell in cells])
        )

    def against(self, kept: str) -> tuple[Claim, ...]:
        """The kept protocol against the simple ones that every cell has."""
        others = [
            name
            for name in LOWEST.values()
            if name != kept and all(name in cell.models for cell in self.cells.values())
        ]
        return compare_all(
            {name: self.scores(name) for name in (kept, *others)},
            [(kept, other) for other in others],
            rows=VALIDATION,
            metric=self.metric,
            examples=self.identities,
            labels={name: PROTOCOLS[name].label for name in (kept, *others)},
            trainings=False,
        )

    def _outputs(self, name: str, where: Where) -> dict[str, np.ndarray]:
        folder = self.folders[self.cells[where].models[name]]
        file = folder / UNSEEN
        return read_outputs(file if file.is_file() else folder / "outputs.npz")

    def _read(self, name: str, where: Where) -> dict[str, np.ndarray]:
        outputs = self._outputs(name, where)
        return {
            part: score_rows(self.task, outputs[part], rows, self.metric)
            for part, rows in self.identities[where].items()
        }


def _validation(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: rows for name, rows in parts.items() if name.startswith("validation/")}


def _mean(scores: Scores) -> float:
    return float(
        np.mean([np.mean([line.mean() for line in parts.values()]) for parts in scores.values()])
    )


def shortfall(
    one: Scores, other: Scores, identities: Mapping[Where, Mapping[str, np.ndarray]]
) -> Shortfall:
    """The first's validation score minus the other's, and the margin of these very weights.

    ``identities``: by cell and validation domain, which row of the task a score belongs to.
    """
    difference = crossed_difference(one, other, *numbered(one, identities))
    return Shortfall(difference.mean, difference.of_these_trainings().margin(1.0 - LEVEL))
