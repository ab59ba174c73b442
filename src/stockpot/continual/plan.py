"""From a recipe to jobs; pure. Equal parts of different settings and methods are the same job."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stockpot.continual.methods import METHODS, Strategy
from stockpot.continual.recipe import ContinualRecipe, Setting
from stockpot.continual.splits import Stream, deal
from stockpot.execution import Arguments, Job
from stockpot.execution.arguments import JobMaker, backbone_argument, data_argument
from stockpot.tangent.statistics import FeatureMap
from stockpot.tasks import Task

_TANGENT, _HERE = "stockpot.tangent.jobs", "stockpot.continual.jobs"


@dataclass(frozen=True)
class ContinualFacts:
    """What was found out about the inputs before planning."""

    task: Task
    backbone: str
    root: str
    cache: str


@dataclass
class ContinualCell:
    """One trial of one setting: its tasks, and by method what evaluates and what was trained."""

    setting: Setting
    trial: int
    stream: Stream
    evaluations: dict[str, Job] = field(default_factory=dict)
    trained: dict[str, list[Job]] = field(default_factory=dict)


def make_plan(recipe: ContinualRecipe, facts: ContinualFacts) -> list[ContinualCell]:
    """All cells, setting by setting, with their jobs."""
    builder = _Builder(recipe, facts)
    cells = [
        ContinualCell(setting, trial, deal(facts.task, recipe.data, setting, recipe.seed + trial))
        for setting in recipe.settings
        for trial in range(recipe.trials)
    ]
    rows = [np.concatenate([cell.stream.rows, cell.stream.test]) for cell in cells]
    builder.rows = np.unique(np.concatenate(rows)).tolist()
    for cell in cells:
        for name in recipe.method_names:
            builder.add(cell, METHODS[name])
    return cells


class _Builder:
    rows: list[int]

    def __init__(self, recipe: ContinualRecipe, facts: ContinualFacts) -> None:
        self.recipe, self.facts = recipe, facts
        places = {"root": facts.root, "cache": facts.cache}
        common = {
            "data": data_argument(recipe.task, facts.task.fingerprint, seed=recipe.seed),
            "backbone": backbone_argument(recipe.backbone, facts.backbone),
        }
        self._job = JobMaker(places, recipe.threads, common=common)
        arguments = {"augmentation": False, "seed": recipe.seed}
        self.features = self._job(f"{_TANGENT}:features", arguments, {}, "frozen blocks")

    def add(self, cell: ContinualCell, method: Strategy) -> None:
        """The jobs of one method in one trial."""
        seed = self.recipe.seed + cell.trial
        stream, where = cell.stream, f"{cell.setting.name} · trial {cell.trial + 1}"
        inputs = {"head": self.head(seed), "features": self.features}
        features = None
        if method.combine == "first":
            features = self._feature_map(METHODS["ranpac"]).to_json()
        if method.trains.endswith(" map"):
            made = self._feature_map(method)
            inputs["phi"], features = self.phi(made), made.to_json()
            trained: list[Job] = []
        elif method.combine == "joint":
            trained = [self._train(method, cell, seed, "joint", stream.rows, None)]
            inputs["joint"] = trained[0]
        else:
            trained = []
            parts = stream.parts[:1] if method.combine == "first" else stream.parts
            for index, part in enumerate(parts):
                previous = trained[-1] if method.combine == "last" and trained else None
                job = self._train(method, cell, seed, part.name, part.rows, previous)
                trained.append(job)
                inputs[f"task-{index}"] = job
        cell.trained[method.name] = trained
        cell.evaluations[method.name] = self._job(
            f"{_HERE}:evaluate",
            {
                "method": method.name,
                "mode": cell.setting.mode,
                "tasks": [list(part.classes) for part in stream.parts],
                "rows": [part.rows.tolist() for part in stream.parts],
                "test": stream.test.tolist(),
                "features": features,
            },
            inputs,
            f"{method.label} · {where}",
            1.0,
        )

    def head(self, seed: int) -> Job:
        """The head that everything in a trial starts from."""
        arguments = {
            "backbone": self._job.common["backbone"],
            "classes": list(self.facts.task.classes),
            "seed": seed,
            "file": None,
            "content": None,
        }
        threads = self.recipe.threads
        return Job(f"{_TANGENT}:head", arguments, {}, self._job.places, "head", threads, 0.1)

    def phi(self, features: FeatureMap) -> Job:
        """Feature vectors of every row that any trial uses."""
        weight = 1 + len(self.rows) / 1000 * (3 if "tangent" in features.parts else 0.1)
        return self._job(
            f"{_HERE}:phi",
            {"features": features.to_json(), "rows": self.rows},
            {"features": self.features},
            f"features, {features.kind}",
            weight,
        )

    def _feature_map(self, method: Strategy) -> FeatureMap:
        sizes = self.recipe.features
        if method.trains == "tangent map":
            return FeatureMap(
                "joined", sizes.dimension, sizes.directions, sizes.seed, sizes.random_dimension
            )
        if method.trains == "random map":
            return FeatureMap("random", seed=sizes.seed, random_dimension=sizes.random_dimension)
        return FeatureMap("plain")

    def _train(
        self,
        method: Strategy,
        cell: ContinualCell,
        seed: int,
        name: str,
        rows: np.ndarray,
        previous: Job | None,
    ) -> Job:
        kappa = self.recipe.kappa.get("data" if name == "joint" else cell.setting.mode, 5.0)
        base = self.recipe.tangent
        if method.trains != "tangent":
            square = method.trains == "square"
            base = self.recipe.square_settings() if square else self.recipe.nonlinear
        if base.solver == "least_squares" and "kappa" not in self.recipe.model_fields_set:
            kappa = base.kappa
        arguments: Arguments = {
            "name": name,
            "rows": rows.tolist(),
            "settings": base.model_copy(update={"kappa": kappa}).model_dump(mode="json"),
            "seed": seed,
        }
        if base.loss == "cross_entropy":
            arguments["settings"]["kappa"] = 5.0  # unused: equal runs of two settings are one job
        inputs = {"head": self.head(seed), "features": self.features}
        weight = 0.2 + base.steps(len(rows)) / 200
        label = f"{method.trains} {name} · trial {cell.trial + 1}"
        if method.trains == "tangent":
            more = {
                "parameters": "all",
                "precision": "float32",
                "fingerprint": self.facts.task.fingerprint,
                "validation": [],
            }
            return self._job(f"{_TANGENT}:component", {**arguments, **more}, inputs, label, weight)
        if previous is not None:
            inputs["previous"] = previous
        return self._job(f"{_HERE}:finetune", arguments, inputs, label, weight)
