"""From a recipe to jobs. Pure: nothing is read, trained or written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from stockpot.execution import Arguments, Job
from stockpot.execution.arguments import JobMaker, backbone_argument, data_argument
from stockpot.recycling.cells import (
    cell_name,
    hash_seed,
    held_out_sets,
    split_arguments,
)
from stockpot.recycling.protocols import PROTOCOLS, Pool, Protocol
from stockpot.recycling.recipe import Auxiliary, Recipe
from stockpot.recycling.settings import choices, settings, steps_of
from stockpot.training.hyperparameters import draw_hyperparameters

BASE = "base"
REFERENCES = ("linear_probe", "erm")
"""The simplest things that one could have done: no fine-tuning, and the best of some."""


@dataclass(frozen=True)
class Run:
    """One fine-tuning of a pool: where it starts from, and the job that does it."""

    name: str
    pool: Pool
    init: str
    hyperparameters: Mapping[str, Any]
    job: Job


@dataclass
class Cell:
    """All that happens for one set of held-out domains and one split.

    ``held_out`` names it: the domain, several joined by " + ", ``in-distribution`` where it is
    judged on test rows of its own sources; None: train on all domains, judge on none. ``domains``
    are those held out.
    """

    held_out: str | None
    trial: int
    probe: Job
    domains: tuple[str, ...] = ()
    runs: dict[str, list[Run]] = field(default_factory=dict)
    models: dict[str, Job] = field(default_factory=dict)
    connectivity: Job | None = None

    @property
    def name(self) -> str:
        """For labels: what is held out, and the trial."""
        return f"{self.held_out or 'all domains'} · trial {self.trial}"

    def jobs(self) -> Iterator[Job]:
        """The jobs whose results the report shows."""
        yield self.probe
        for runs in self.runs.values():
            yield from (run.job for run in runs)
        yield from self.models.values()
        if self.connectivity is not None:
            yield self.connectivity


@dataclass(frozen=True)
class Facts:
    """What was found out about the inputs before planning; it names their content in the jobs."""

    domains: tuple[str, ...]
    task: str
    backbone: str
    auxiliaries: Mapping[str, str]
    root: str
    cache: str
    skip_corrupt: bool = False
    fixed_splits: bool = False
    metric: str = "accuracy"
    examples: Mapping[str, int] = field(default_factory=dict)
    """How many the task has, by domain."""
    auxiliary_examples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The same of the tasks of auxiliaries, by the auxiliary's name."""

    def at(self, cache: str) -> Facts:
        """The same facts with another place for decoded data."""
        return replace(self, cache=cache)


@dataclass(frozen=True)
class Plan:
    """Cells to compare. ``final_cell``: the one that the final model comes from, once its protocol
    is known."""

    cells: tuple[Cell, ...]
    auxiliaries: Mapping[str, Job]
    final_cell: Cell | None = None

    def jobs(self) -> list[Job]:
        """Every job that has to be done, without their inputs."""
        cells = [*self.cells]
        if self.final_cell is not None and self.final_cell not in cells:
            cells.append(self.final_cell)
        return [job for cell in cells for job in cell.jobs()]


def make_plan(recipe: Recipe, facts: Facts) -> Plan:
    """Expand a recipe into the jobs of the comparison; :func:`add_final` names the final model's.

    Equal parts of different protocols become the same job.
    """
    builder = _Builder(recipe, facts)
    cells = [
        builder.cell(held_out, trial)
        for held_out in held_out_sets(recipe, facts.domains)
        for trial in range(recipe.trials)
    ]
    for protocol in map(PROTOCOLS.__getitem__, _with_references(recipe.protocol_names)):
        for cell in cells:
            if protocol.pool != "probe" and protocol.pool not in cell.runs:
                continue
            same = [other for other in cells if other.held_out == cell.held_out]
            builder.add_model(cell, protocol, same if protocol.over_trials else [cell])
    for cell in cells:
        builder.add_connectivity(cell)
    return Plan(tuple(cells), builder.auxiliaries)


def add_final(plan: Plan, recipe: Recipe, facts: Facts, protocol: str) -> Plan:
    """The plan with the cell whose model of ``protocol`` is kept.

    That is the first cell, or with ``final.train_on: all`` a new one that holds nothing out; where
    the first holds nothing out either, and test rows are fixed, it is the first all the same.
    """
    first = plan.cells[0]
    if recipe.final.train_on == "first" or (facts.fixed_splits and not first.domains):
        return replace(plan, final_cell=first)
    builder = _Builder(recipe, facts, final=protocol)
    cell = builder.cell(None, 0)
    builder.add_model(cell, PROTOCOLS[protocol], [cell])
    return replace(plan, final_cell=cell, auxiliaries={**builder.auxiliaries, **plan.auxiliaries})


def _with_references(names: Sequence[str]) -> list[str]:
    """What the final model is compared with is always there: it costs no training of its own."""
    return [name for name in PROTOCOLS if name in (*names, *REFERENCES)]


class _Builder:
    def __init__(self, recipe: Recipe, facts: Facts, final: str = "") -> None:
        self.recipe = recipe
        self.names = [final] if final else recipe.protocol_names
        self.facts = facts
        places = {"root": facts.root, "cache": facts.cache}
        self._job = JobMaker(places, recipe.threads, "stockpot.recycling.jobs:")
        self.auxiliaries: dict[str, Job] = {}
        training = recipe.training
        self.target = self._data(recipe.task, facts.task, training.limit_per_domain)
        self.backbone = backbone_argument(recipe.backbone, facts.backbone)

    def _data(self, spec: BaseModel, content: str, limit: int | None) -> Arguments:
        skip_corrupt, seed = self.facts.skip_corrupt, self.recipe.seed
        return data_argument(spec, content, seed=seed, limit=limit, skip_corrupt=skip_corrupt)

    def features(self, data: Mapping[str, Any], name: str) -> Job:
        """Activations below the frozen cut, kept once for all runs, and the base's features."""
        training = self.recipe.training
        arguments = {
            "data": data,
            "backbone": self.backbone,
            "views": training.views if training.augmentation else 0,
            "seed": self.recipe.seed,
        }
        return self._job("features", arguments, {}, f"features of {name}", weight=0.5)

    def cell(self, held_out: tuple[str, ...] | None, trial: int) -> Cell:
        recipe = self.recipe
        name = None if held_out is None else cell_name(held_out)
        split = split_arguments(recipe, held_out, trial)
        common = {
            "data": self.target,
            "backbone": self.backbone,
            "split": split,
            "metric": self.facts.metric,
        }
        features = self.features(self.target, "the target")
        probe = self._job(
            "probe",
            common,
            {"features": features},
            f"linear probe · {name or 'all domains'} · trial {trial}",
            weight=0.2,
        )
        cell = Cell(name, trial, probe, held_out or ())
        pools: list[Pool] = ["plain", "seeds", "auxiliary", "fusing", "trajectory", "periodic"]
        used = {PROTOCOLS[name].pool for name in self.names}
        if "trajectory" in used:
            used.add("plain")
        for pool in pools:
            if pool in used:
                cell.runs[pool] = list(self._pool(pool, cell, common, features))
        return cell

    def _pool(
        self, pool: Pool, cell: Cell, common: Mapping[str, Any], features: Job
    ) -> Iterator[Run]:
        recipe = self.recipe
        inputs: dict[str, Job] = {"features": features, "probe": cell.probe}
        if pool == "periodic":
            yield self._periodic(cell, common, inputs)
            return
        starts = self._starts(pool, cell)
        for index in range(self._count(pool, len(starts))):
            drawn = self.hyperparameters(cell, self._draw(pool, index))
            plain = drawn == self.hyperparameters(cell, index)
            init, extra = starts[index % len(starts)]
            arguments: Arguments = {
                **common,
                "hyperparameters": drawn,
                "seed": hash_seed("run", recipe.seed, cell.held_out, cell.trial, index),
                "init": {"kind": "base"},
                "snapshots": self._snapshots(cell) if index == 0 else [],
                "swad": self._wants_swad(),
            }
            if pool == "fusing":
                arguments["init"] = {
                    "kind": "fusing",
                    "coefficients": fusing_coefficients(
                        len(starts), hash_seed("fusing", recipe.seed, cell.name, index)
                    ),
                }
                extra = {
                    f"init{i}": job for i, (_, jobs) in enumerate(starts) for job in jobs.values()
                }
                init = "mixture"
            elif init != BASE:
                arguments["init"] = (
                    {"kind": "trajectory", "snapshot": int(init.rpartition(" ")[2])}
                    if pool == "trajectory"
                    else {"kind": "weights"}
                )
            # A run of the auxiliary pool that starts from the base is the plain pool's: same job.
            name = f"{init.replace(' ', '-') if plain else 'seed'}-{index}"
            label = f"fine-tune {name} from {init} · {cell.name}"
            job = self._job("finetune", arguments, {**inputs, **extra}, label, weight=3.0)
            yield Run(name, pool, init, drawn, job)

    def _starts(self, pool: Pool, cell: Cell) -> list[tuple[str, dict[str, Job]]]:
        """Inits in turn: the base first, as in the paper (run h takes init h mod their number)."""
        starts: list[tuple[str, dict[str, Job]]] = [(BASE, {})]
        if pool in ("auxiliary", "fusing"):
            for auxiliary in self.recipe.auxiliaries:
                starts.append((auxiliary.name, {"init": self.auxiliary(auxiliary, cell)}))
        elif pool == "trajectory":
            first = cell.runs["plain"][0].job
            starts += [(f"step {step}", {"init": first}) for step in self._snapshots(cell)]
        return starts

    def _count(self, pool: Pool, inits: int) -> int:
        """Runs of a pool: at least one for every init, and two where Model Stock needs them."""
        side = self.recipe.side_runs or self.recipe.runs
        if pool == "seeds":
            return max(2, side) if "stock_all" in self.names else 2
        if pool == "trajectory":
            return max(side, inits)
        return side if pool == "fusing" else self.recipe.runs

    def _draw(self, pool: Pool, index: int) -> int:
        """Which draw a run takes. The theory of Model Stock wants the same for all that it merges:
        of equal settings and other seeds, weights lie equally far from their centre (2403.19522).
        """
        stock = pool in ("seeds", "periodic")
        return 0 if stock and self.recipe.stock_runs == "seeds" else index

    def auxiliary(self, auxiliary: Auxiliary, cell: Cell) -> Job:
        """The job that brings an auxiliary's weights; one for all cells, but for rotation."""
        content = self.facts.auxiliaries[auxiliary.name]
        training = self.recipe.training
        if auxiliary.weights is not None:
            arguments: Arguments = {
                "backbone": self.backbone,
                "weights": auxiliary.weights,
                "content": content,
            }
            job = self._job("wild", arguments, {}, f"weights from the wild: {auxiliary.name}", 0.1)
        else:
            limit = auxiliary.training.limit_per_domain or training.limit_per_domain
            if auxiliary.rotation:
                split = cell.probe.arguments["split"]
                drawn = ("test_fraction", "test_seed", "unseen_groups")
                rotation = {
                    "exclude": list(cell.domains),
                    **{key: split[key] for key in drawn if key in split},
                }
                data = {**self.target, "limit": limit, "rotation": rotation}
            else:
                assert auxiliary.task is not None
                data = self._data(auxiliary.task, content, limit)
            arguments = {
                "data": data,
                "backbone": self.backbone,
                "hyperparameters": self._auxiliary_settings(auxiliary, cell, limit),
                "validation_fraction": training.validation_fraction,
                "seed": hash_seed("auxiliary", self.recipe.seed, auxiliary.name),
            }
            features = self.features(data, f"auxiliary {auxiliary.name}")
            label = f"train auxiliary {auxiliary.name}"
            job = self._job("auxiliary", arguments, {"features": features}, label, weight=3.0)
        self.auxiliaries.setdefault(auxiliary.name, job)
        return job

    def hyperparameters(self, cell: Cell, index: int) -> Arguments:
        """Draw ``index`` of a trial, whatever is held out. Draw 0 takes the first values."""
        drawn = draw_hyperparameters(
            choices(self.recipe.training),
            name=f"trial {cell.trial}",
            seed=self.recipe.seed,
            index=index,
            defaults=settings(self.recipe.training, self._steps(cell)),
        )
        return asdict(drawn)

    def _steps(self, cell: Cell) -> int:
        return steps_of(self.recipe.training, self._trained(cell))

    def _trained(self, cell: Cell) -> dict[str, int]:
        """Examples of the domains that a cell trains on."""
        split = cell.probe.arguments["split"]
        kept = 1.0 - split.get("test_fraction", 0.0)
        return {
            name: int(count * kept)
            for name, count in self.facts.examples.items()
            if name not in split["held_out"]
        }

    def _auxiliary_settings(self, auxiliary: Auxiliary, cell: Cell, limit: int | None) -> Arguments:
        """Those of run 0 with the auxiliary's own over them, and the loss of any task."""
        changes = auxiliary.training.model_dump(exclude_none=True)
        if "steps" in changes or "epochs" in changes:
            changes = {"steps": None, "epochs": None, **changes}
        training = self.recipe.training.model_copy(update={**changes, "limit_per_domain": limit})
        examples = self.facts.auxiliary_examples.get(auxiliary.name, {})
        if auxiliary.rotation:
            examples = self._trained(cell)
        own = settings(training, steps_of(training, examples))
        return asdict(own.replace(head_only_steps=0, class_weights=None, label_smoothing=0.0))

    def _snapshots(self, cell: Cell) -> list[int]:
        if not any(PROTOCOLS[name].pool == "trajectory" for name in self.recipe.protocol_names):
            return []
        steps = self._steps(cell)
        return sorted({max(1, round(part * steps)) for part in self.recipe.trajectory})

    def _wants_swad(self) -> bool:
        return any(PROTOCOLS[name].take == "swad" for name in self.recipe.protocol_names)

    def _periodic(self, cell: Cell, common: Mapping[str, Any], inputs: Mapping[str, Job]) -> Run:
        periodic = self.recipe.periodic
        arguments = {
            **common,
            "hyperparameters": [
                self.hyperparameters(cell, self._draw("periodic", i))
                for i in range(periodic.models)
            ],
            "seeds": [
                hash_seed("run", self.recipe.seed, cell.held_out, cell.trial, i)
                for i in range(periodic.models)
            ],
            "every": periodic.every,
            "optimizer_state": periodic.optimizer_state,
        }
        label = f"Model Stock during training · {cell.name}"
        job = self._job("periodic", arguments, inputs, label, weight=3.0 * periodic.models)
        return Run("periodic", "periodic", BASE, self.hyperparameters(cell, 0), job)

    def add_model(self, cell: Cell, protocol: Protocol, sources: Sequence[Cell]) -> None:
        """The job that selects and combines for one protocol."""
        if protocol.combine == "each":
            return
        inputs = {"features": self.features(self.target, "the target"), "probe": cell.probe}
        members: list[str] = []
        if protocol.pool != "probe":
            for source in sources:
                for run in source.runs[protocol.pool]:
                    name = run.name if len(sources) == 1 else f"{run.name}/{source.trial}"
                    members.append(name)
                    inputs[f"run:{name}"] = run.job
        arguments = {
            "data": self.target,
            "backbone": self.backbone,
            "split": cell.probe.arguments["split"],
            "members": members,
            "take": protocol.take,
            "select": protocol.select,
            "combine": protocol.combine,
            "greedy_on": self.recipe.greedy_on,
            "metric": self.facts.metric,
        }
        label = f"{protocol.label} · {cell.name}"
        weight = 1.0 if protocol.select == "greedy" else 0.4
        cell.models[protocol.name] = self._job("combine", arguments, inputs, label, weight)

    def add_connectivity(self, cell: Cell) -> None:
        """Paths: two plain runs, a plain run and one of each other init, base to average."""
        inputs = {"features": self.features(self.target, "the target"), "probe": cell.probe}
        pairs: list[dict[str, str]] = []
        plain = cell.runs.get("plain", [])
        if len(plain) >= 2:
            pairs.append({"a": plain[0].name, "b": plain[1].name, "kind": "same init"})
        seen = {BASE}
        for run in cell.runs.get("auxiliary", []):
            if run.init not in seen and plain:
                seen.add(run.init)
                pairs.append(
                    {"a": plain[0].name, "b": run.name, "kind": "different init", "init": run.init}
                )
        for runs in (plain, cell.runs.get("auxiliary", [])):
            inputs.update({f"run:{run.name}": run.job for run in runs})
        for name in ("ratatouille_uniform", "soup_uniform"):
            if name in cell.models:
                inputs["average"] = cell.models[name]
                pairs.append({"a": BASE, "b": name, "kind": "base to average"})
                break
        if not pairs:
            return
        arguments = {
            "data": self.target,
            "backbone": self.backbone,
            "split": cell.probe.arguments["split"],
            "pairs": pairs,
            "metric": self.facts.metric,
            **self.recipe.connectivity.model_dump(),
        }
        label = f"paths between weights · {cell.name}"
        cell.connectivity = self._job("connectivity", arguments, inputs, label, weight=1.0)


def fusing_coefficients(count: int, seed: int) -> list[float]:
    """Random convex coefficients exp(r U) / sum exp(r U), U uniform on (0, 1), r = 4.

    Source: the fusing baseline of the released code of Model Ratatouille (2212.10445).
    """
    import numpy as np

    raw = np.exp(4.0 * np.random.default_rng(seed).uniform(size=count))
    return [float(value) for value in raw / raw.sum()]
