"""From a recipe with a trainer to jobs. Pure: nothing is read, trained or written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.execution import Job
from stockpot.execution.arguments import JobMaker
from stockpot.recycling.cells import hash_seed
from stockpot.recycling.plan import fusing_coefficients
from stockpot.recycling.protocols import Pool
from stockpot.trainers.recipe import OtherStart, TrainerRecipe, choices, first_values
from stockpot.training.hyperparameters import draw_values


@dataclass(frozen=True)
class TrainerFacts:
    """What names the content of the inputs in the jobs.

    ``base``: its content hash; ``folder``: where it lies; ``contents``: hash of each data path that
    exists, and of each auxiliary's weights; ``trainer``: the trainer's identity.
    """

    base: str
    folder: str
    root: str
    trainer: str
    contents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerRun:
    """One training of the target. ``init``: what it starts from."""

    name: str
    init: str
    hyperparameters: Mapping[str, Any]
    job: Job


@dataclass
class TrainerPlan:
    """``runs`` by name, names of runs by ``pool``, the job of the shared ``head``, if there is one,
    that of the init which stands for the base, and those of ``auxiliaries``."""

    runs: dict[str, TrainerRun] = field(default_factory=dict)
    pools: dict[Pool, tuple[str, ...]] = field(default_factory=dict)
    head: Job | None = None
    start: Job | None = None
    auxiliaries: dict[str, Job] = field(default_factory=dict)
    starts: dict[str, Job] = field(default_factory=dict)

    def jobs(self) -> list[Job]:
        """Those that nothing else leads to: their inputs come with them."""
        return [run.job for run in self.runs.values()]


def make_trainer_plan(recipe: TrainerRecipe, facts: TrainerFacts) -> TrainerPlan:
    """Expand a recipe: run h of the auxiliary pool starts from init h mod their number, as in
    Model Ratatouille (2212.10445), and is the plain pool's where that is the base."""
    return _TrainerPlanner(recipe, facts).plan()


class _TrainerPlanner:
    def __init__(self, recipe: TrainerRecipe, facts: TrainerFacts) -> None:
        self.recipe, self.facts = recipe, facts
        places = {"root": facts.root, "base": facts.folder}
        self._job = JobMaker(
            places, recipe.threads, "stockpot.trainers.jobs:", {"base_digest": facts.base}
        )
        self.first = first_values(recipe.hyperparameters)
        self.made = TrainerPlan()

    def plan(self) -> TrainerPlan:
        """The whole of it."""
        recipe, made = self.recipe, self.made
        if recipe.head is not None:
            values = {**self.first, **recipe.head}
            made.head = self._train("head", "head", recipe.data, values, None, "head")
            made.start = self._start("base", [{"name": "base", "weights": None, "share": 1.0}], {})
        pools = {one.pool for one in recipe.table}
        wanted: list[Pool] = [pool for pool in ("plain", "auxiliary", "fusing") if pool in pools]
        for pool in wanted:
            made.pools[pool] = tuple(run.name for run in self._pool(pool))
        made.pools["seeds"] = made.pools["plain"]
        return made

    def _pool(self, pool: Pool) -> Iterator[TrainerRun]:
        others = self.recipe.auxiliaries if pool != "plain" else []
        side = self.recipe.side_runs or self.recipe.runs
        for index in range(side if pool == "fusing" else self.recipe.runs):
            place = index % (1 + len(others))
            job: Job | None
            if pool == "fusing":
                init, job = "mixture", self._mixture(index)
            elif place == 0:
                init, job = "base", self.made.start
            else:
                init, job = others[place - 1].name, self._init(others[place - 1])
            values = self._draw(index)
            seed = hash_seed("run", self.recipe.seed, index)
            name = f"{init}-{index}"
            if name not in self.made.runs:
                done = self._train("run", name, self.recipe.data, values, job, name, seed)
                self.made.runs[name] = TrainerRun(name, init, values, done)
            yield self.made.runs[name]

    def _draw(self, index: int) -> dict[str, Any]:
        if index == 0:
            return dict(self.first)
        space = choices(self.recipe.hyperparameters)
        return draw_values(space, name="run", seed=self.recipe.seed, index=index)

    def _source(self, other: OtherStart, share: float) -> tuple[dict[str, Any], dict[str, Job]]:
        source = {"name": other.name, "weights": other.weights, "share": share}
        if other.weights is not None:
            return {**source, "content": self.facts.contents[other.weights]}, {}
        if other.name not in self.made.auxiliaries:
            values = {**self.first, **other.hyperparameters}
            self.made.auxiliaries[other.name] = self._train(
                "auxiliary", other.name, other.data, values, None, f"auxiliary {other.name}"
            )
        return source, {other.name: self.made.auxiliaries[other.name]}

    def _init(self, other: OtherStart) -> Job:
        source, inputs = self._source(other, 1.0)
        return self._start(other.name, [source], inputs)

    def _mixture(self, index: int) -> Job:
        count = 1 + len(self.recipe.auxiliaries)
        shares = fusing_coefficients(count, hash_seed("fusing", self.recipe.seed, index))
        sources: list[dict[str, Any]] = [{"name": "base", "weights": None, "share": shares[0]}]
        inputs: dict[str, Job] = {}
        for other, share in zip(self.recipe.auxiliaries, shares[1:], strict=True):
            source, more = self._source(other, share)
            sources.append(source)
            inputs |= more
        return self._start(f"mixture-{index}", sources, inputs)

    def _start(self, name: str, sources: list[dict[str, Any]], inputs: Mapping[str, Job]) -> Job:
        arguments = {"sources": sources, "head_tensors": self.recipe.head_tensors}
        head = {} if self.made.head is None else {"head": self.made.head}
        job = self._job("start", arguments, {**inputs, **head}, f"init {name}", weight=0.1)
        return self.made.starts.setdefault(name, job)

    def _train(
        self,
        role: str,
        name: str,
        data: str | None,
        values: Mapping[str, Any],
        init: Job | None,
        label: str,
        seed: int | None = None,
    ) -> Job:
        arguments = {
            "trainer": self.recipe.trainer.model_dump(mode="json"),
            "identity": self.facts.trainer,
            "role": role,
            "name": name,
            "data": data,
            "content": self.facts.contents.get(data or "", ""),
            "hyperparameters": dict(values),
            "seed": hash_seed(role, self.recipe.seed, name) if seed is None else seed,
            "threads": self.recipe.threads,
        }
        inputs = {} if init is None else {"init": init}
        return self._job("train", arguments, inputs, f"train {label}", weight=3.0)
