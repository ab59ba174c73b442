"""The candidates, from the cheapest on: each stage ends where the budget does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stockpot.errors import StockpotError
from stockpot.evaluation.selection import greedy_soup
from stockpot.soups.blend import Blend, Blends, Coefficients
from stockpot.soups.budget import BudgetSpentError
from stockpot.soups.engine import SoupEngine
from stockpot.soups.measuring import BACKWARD, Evaluations, TriedBlend
from stockpot.soups.search import climb, random_vectors, search
from stockpot.soups.stages import SearchStage, coefficient_stage, slope_rows

_CURVE = (0.2, 0.4, 0.6, 0.8)
_JUDGING = 6.0  # evaluations that are left for the judging rows and a control, of a budget of time
_LEAVE_OUT = 3.0  # leave-one-out is evaluated where this many times its cost is left


@dataclass(frozen=True)
class SoupCandidate:
    """One row of the table. ``decisions``: how many things it chose by the rows that choose."""

    name: str
    label: str
    scored: TriedBlend
    decisions: int
    looks: tuple[TriedBlend, ...] = ()


@dataclass
class CandidateMaker:
    """Makes candidates of an engine's ingredients and has them evaluated.

    ``notes``: what was left out, in words; ``left_out``: without each ingredient, the score.
    ``judges_all``: the judging rows score all candidates, not only those that claims are about.
    """

    judges_all: ClassVar[bool] = False

    engine: SoupEngine
    blends: Blends
    evaluations: Evaluations
    seed: int = 0
    rows: list[SoupCandidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[int, TriedBlend] = field(default_factory=dict)
    searched: int = 0
    singles: list[TriedBlend] = field(default_factory=list)

    def cheap(self) -> None:
        """Singles, uniform, base, Model Stock, greedy, WiSE-FT and leave-one-out."""
        for name, stage in (
            ("the evaluation of single models", self._singles),
            ("the uniform soup", self._uniform),
            ("Model Stock", self._stock),
            ("the greedy soup", self._greedy),
            ("the curve to the base", self._curve),
            ("leave-one-out", self._leave_out),
        ):
            try:
                stage()
            except BudgetSpentError:
                if not self.rows:
                    raise StockpotError(
                        "the budget ended before a model was evaluated", hint="give a larger one"
                    ) from None
                self.notes.append(f"the budget ended before {name} was complete")
                return
            if name == "the uniform soup":
                self.evaluations.budget.reserve = _JUDGING

    def search(
        self, method: str, groups: int, gain: float, methods: Sequence[SearchStage] = ()
    ) -> None:
        """Coefficients by gradient, where the evaluator has one, then by search: one a model, then
        one a model and layer group; then the numbers of merge methods.

        A stage has as many evaluations as are left, over the number of stages that are left.
        """
        parts = self.engine.groups(groups)
        whole = [list(range(self.blends.tensors))]
        layers = [("", whole), *([(":layers", parts)] if len(parts) > 1 else [])]
        kinds = ["learnt"] if self.evaluations.evaluator.differentiable else []
        kinds += ["search"] if method != "none" else []
        stages = [
            coefficient_stage(kind + name, self.blends, layer)
            for kind in kinds
            for name, layer in layers
        ]
        stages += methods
        for number, stage in enumerate(stages):
            left = self.evaluations.budget.left()
            if left < 1.0:
                self.notes.append(f"the budget ended before this began: {stage.label}")
                return
            self._search(stage, method, gain, left / (len(stages) - number))

    def _singles(self) -> None:
        try:
            self.score_singles()
        finally:  # also where the time ends between two of them
            self.add_best("best", "best single model", range(len(self.singles)))
        self.need_best()

    def _limit(self) -> None:
        """From here on constraints are asked; a single model that keeps them is a candidate."""
        limits = self.evaluations.limits
        if limits is None or limits.rivals:
            return
        limits.rivals |= {
            "best": self.rows[0].scored.blend,
            "uniform": self.blends.uniform(self.ordinary),
        }
        if self.blends.has_base:
            limits.rivals["base"] = self.blends.blend("base", "", np.zeros(self.blends.count))
        chosen = self.evaluations.best_of(self.singles)
        if chosen is not None and chosen is not self.rows[0].scored:
            label = f"best single model that keeps the constraints, {chosen.blend.label}"
            self._add("best:kept", label, chosen, 1)

    def score_singles(self) -> None:
        """Score every ingredient as it is."""
        for index in range(len(self.singles), self.blends.count):
            single, leader = self.blends.single(index), self.evaluations.best
            self.singles.append(self.evaluations.score(single, "single", against=leader))

    def add_best(self, name: str, label: str, members: Sequence[int]) -> None:
        """The best of some ingredients, where one of them could be scored."""
        scored = [self.singles[index] for index in members]
        usable = [one for one in scored if one.complete and one.failure is None]
        if usable:
            best = max(usable, key=lambda one: one.score)
            self._add(name, f"{label}, {best.blend.label}", best, 1)

    def need_best(self) -> None:
        """What follows a best single model; raises ``StockpotError`` where there is none."""
        if not self.rows:
            raise StockpotError(f"the evaluator failed on every model: {self.singles[0].failure}")
        self._limit()

    def add_mean(self, name: str, label: str, members: Sequence[int] | None = None) -> None:
        """The uniform soup of some ingredients, of all by default."""
        self._add(name, label, self._score(self.blends.uniform(members, name), "uniform"), 0)

    def add_base(self, label: str) -> None:
        """What all were fine-tuned from."""
        blend = self.blends.blend("base", label, np.zeros(self.blends.count))
        self._add("base", label, self._score(blend, "base"), 0)

    @property
    def ordinary(self) -> Sequence[int]:
        """The ingredients of the uniform soup."""
        return range(self.blends.count)

    def _uniform(self) -> None:
        if self.blends.count > 1:
            self.add_mean("uniform", "uniform soup")
        if self.blends.has_base:
            self.add_base("the base")

    def _stock(self) -> None:
        if self.blends.has_base and self.blends.count > 1:
            self.add_stock("stock", "Model Stock", range(self.blends.count))

    def add_stock(self, name: str, label: str, members: Sequence[int]) -> None:
        """Model Stock of some ingredients towards the base."""
        chosen = list(members)
        values = np.zeros((self.blends.count, self.blends.tensors))
        values[chosen] = self.engine.stock_ratios(chosen) / len(chosen)
        blend = self.blends.blend(name, label, values)
        self._add(name, label, self._score(blend, "stock"), 0)

    def _greedy(self) -> None:
        self.add_greedy("greedy", "greedy soup", range(self.blends.count))

    def add_greedy(self, name: str, label: str, members: Sequence[int]) -> None:
        """Recipe 1 of Wortsman et al. 2022 (arXiv 2203.05482): DiWA calls it restricted."""
        singles = {index: self.singles[index] for index in members}
        usable = {str(i): one.score for i, one in singles.items() if np.isfinite(one.score)}
        if len(usable) < 2:
            return
        looks: list[TriedBlend] = []

        def evaluate(members: tuple[str, ...]) -> float:
            chosen = sorted(map(int, members))
            if len(chosen) == 1:
                looks.append(self.singles[chosen[0]])
            else:
                blend = self.blends.uniform(chosen, f"{name}:{len(looks)}")
                accepted = [one for one in looks if one.complete]
                leader = max(accepted, key=lambda one: one.score, default=None)
                looks.append(self.evaluations.score(blend, "greedy", against=leader))
                last = looks[-1]
                leads = last.complete and (leader is None or last.score >= leader.score)
                if leads and self.evaluations.excess(last) > 0:
                    return -np.inf
            return looks[-1].score

        greedy_soup(usable, evaluate)
        complete = [one for one in looks if one.complete and one.failure is None]
        chosen = self.evaluations.best_of(complete)
        assert chosen is not None
        label = f"{label} of {len(chosen.blend.members)}"
        self._add(name, label, chosen, len(usable), complete)

    def _curve(self) -> None:
        if self.blends.has_base:
            for row in [one for one in self.rows if one.name in ("uniform", "best")]:
                self.add_curve(f"wise:{row.name}", f"WiSE-FT towards the {_short(row)}", row)

    def add_curve(
        self, name: str, label: str, row: SoupCandidate, shares: Sequence[float] = _CURVE
    ) -> None:
        """WiSE-FT (arXiv 2109.01903): between the base and a candidate.

        With one of ``shares`` nothing is chosen: it is that point.
        """
        chooses = len(shares) > 1
        looks = [row.scored] if chooses else []
        for share in shares:
            point = f"{share:g} of the way to the {_short(row)}"
            coefficients = share * row.scored.blend.coefficients
            looks.append(
                self._score(self.blends.blend(f"{name}:{share:g}", point, coefficients), "wise")
            )
        chosen = self._best_of(looks)
        self._add(name, label, chosen, row.decisions + chooses, looks if chooses else None)

    def _leave_out(self) -> None:
        count = self.blends.count
        if count < 3:
            return
        if self.evaluations.budget.left() < _LEAVE_OUT * count:
            self.notes.append("leave-one-out was not evaluated: the budget is too small for it")
            return
        for index in range(count):
            members = [i for i in range(count) if i != index]
            blend = self.blends.uniform(members, f"without:{index}")
            # TriedBlend on all rows: it says what an ingredient is worth, however little that is.
            self.left_out[index] = self.evaluations.score(blend, "leave-one-out")
        chosen = self._best_of(list(self.left_out.values()))
        lost = next(index for index, one in self.left_out.items() if one is chosen)
        label = f"uniform soup without {self.blends.names[lost]}"
        self._add("leave-one-out", label, chosen, count, list(self.left_out.values()))

    def _search(self, stage: SearchStage, method: str, gain: float, share: float) -> None:
        budget = self.evaluations.budget
        stop = budget.spent + share
        seen: list[TriedBlend] = []

        def objective(vector: Coefficients) -> float:
            name, label = f"{stage.name}:{len(seen)}", f"{stage.label} {len(seen) + 1}"
            blend = stage.blend(vector, name, label)
            before = self.evaluations.best
            seen.append(last := self._score(blend, stage.name))
            # A blend that would lead is asked for its constraints; one that breaks them is worse
            # than the leader, the more the further it goes.
            if before is not None and last.complete and last.score > before.score:
                excess = self.evaluations.excess(last)
                return last.score if excess == 0.0 else before.score - excess
            return last.score

        leader = self.evaluations.best
        linear = [one for one in self.evaluations.complete if not one.blend.method]
        start = stage.start(max(linear, key=lambda one: one.score).blend)
        assert leader is not None
        ends = (stage.low, stage.high)
        if stage.learns:
            steps = self._climb(stage, objective, start, share)
        else:
            known = [
                (np.tile(one.blend.totals, len(stage.layers)), one.score)
                for one in linear
                if stage.layers
            ]
            steps = search(objective, start, known, method, self.seed, gain, ends=ends)
        try:
            for _ in steps:
                if budget.spent >= stop - 1e-9:
                    break
        except BudgetSpentError:
            pass
        self.searched += len(seen)
        chosen = self.evaluations.best_of(seen)
        if chosen is None:
            self.notes.append(f"{stage.label}: nothing came up to what the cheap candidates reach")
            return
        label = f"{stage.label}: {chosen.blend.label}" if chosen.blend.method else stage.label
        self._add(stage.name, label, chosen, len(seen) + stage.learns * len(start), [*seen, leader])

    def _climb(
        self,
        stage: SearchStage,
        objective: Callable[[Coefficients], float],
        start: Coefficients,
        share: float,
    ) -> Iterator[None]:
        """Steps by gradient for ``share`` evaluations, two of which score what comes out."""
        choose = self.evaluations.choose
        whole = 1.0 if choose is None else len(choose)
        rows = slope_rows(choose, 0)
        cost = BACKWARD * (1.0 if rows is None else len(rows) / whole)

        def slope(vector: Coefficients, step: int) -> Coefficients:
            blend = stage.blend(vector, stage.name, f"{stage.label}, step {step + 1}")
            return self.evaluations.slope(blend, stage.layers, slope_rows(choose, step))

        return climb(objective, slope, start, int((share - 2.0) / cost))

    def draws(self, count: int) -> list[TriedBlend]:
        """Random shares: the control of a search of as many evaluations."""
        vectors = zip(range(count), random_vectors(self.blends.count, self.seed), strict=False)
        return [
            self.evaluations.score(
                self.blends.blend("draw", f"random shares {number + 1}", vector), "control"
            )
            for number, vector in vectors
        ]

    def _best_of(self, looks: Sequence[TriedBlend]) -> TriedBlend:
        return self.evaluations.best_of(looks) or max(looks, key=lambda one: one.score)

    def _score(self, blend: Blend, stage: str) -> TriedBlend:
        return self.evaluations.score(blend, stage, against=self.evaluations.best)

    def _add(
        self,
        name: str,
        label: str,
        scored: TriedBlend,
        decisions: int,
        looks: list[TriedBlend] | None = None,
    ) -> None:
        self.rows.append(SoupCandidate(name, label, scored, decisions, tuple(looks or ())))


def _short(row: SoupCandidate) -> str:
    return "uniform soup" if row.name == "uniform" else "best model"
