"""The models that the final one was made of, each with where it came from in turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stockpot.backbones.backbone import State
from stockpot.backbones.folder import BUFFERS, joined, place_base
from stockpot.backbones.layout import HEAD, WEIGHTS
from stockpot.backbones.library import Expression
from stockpot.backbones.model import BUFFER, PREFIX, backbone_part
from stockpot.checkpoints import MemoryCheckpoint
from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation.metrics import METRICS
from stockpot.execution import Job
from stockpot.provenance import Parent, Record, RunModel
from stockpot.recycling.cells import tested_as
from stockpot.recycling.contents import content_of
from stockpot.recycling.examine import Examined
from stockpot.recycling.judging import measured
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.plan import BASE, Plan, Run
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import Recipe


@dataclass(frozen=True)
class Ingredients:
    """``models``: base, auxiliaries, intermediate weights and runs, parents before children.

    ``parents`` are those of the final model: the base, the auxiliaries that its runs started from,
    and the runs with their weights in the average.
    """

    models: tuple[RunModel, ...]
    parents: tuple[Parent, ...]


def find_ingredients(
    recipe: Recipe,
    examined: Examined,
    plan: Plan,
    folders: Mapping[Job, Path],
    versions: Mapping[str, str],
    output: Path,
    final: str,
    expression: Expression | None,
) -> Ingredients:
    """Follow the final model back to the base; every edge is named by the parent's content hash.

    Runs keep only what they trained: in a list of models they are overlays on the final folder,
    ``output/model``, whose weights file has the layout of ``expression``. ``final``: the protocol
    that made the final model.
    """
    return _Finder(recipe, examined, plan, folders, versions, output, final, expression).find()


@dataclass
class _Finder:
    recipe: Recipe
    examined: Examined
    plan: Plan
    folders: Mapping[Job, Path]
    versions: Mapping[str, str]
    output: Path
    final: str
    expression: Expression | None

    def __post_init__(self) -> None:
        self.state = MemoryCheckpoint(self._laid_out(self.examined.backbone.state(), None))
        self.kept = {name: self.state.tensor_digest(name) for name in self.state.names}
        root = Path(self.examined.facts.root)
        self.base = place_base(self.examined.backbone, root, self.output)
        self.found: dict[str, tuple[RunModel, Parent]] = {}

    def find(self) -> Ingredients:
        protocol, final_cell = PROTOCOLS[self.final], self.plan.final_cell
        assert final_cell is not None
        self.held_out = final_cell.domains
        job = final_cell.models[protocol.name]
        # An overlay can replace what the final folder has, and it has only buffers that changed.
        made = backbone_part(load_state(self.folders[job] / "model.safetensors"))
        self.has_buffers = bool(self.examined.backbone.changed_buffers(made))
        shares = content_of(protocol.name, final_cell, self.folders).shares
        runs = {
            run.job: run for cell in self.plan.cells for run in cell.runs.get(protocol.pool, [])
        }
        runs |= {run.job: run for run in final_cell.runs.get(protocol.pool, [])}
        for name, share in shares.items():
            self._run(name, runs[job.inputs[f"run:{name}"]], protocol.take, share)
        parents = [parent for _, parent in self.found.values()]
        roles = ("auxiliary", "wild", "run")
        own = sorted((p for p in parents if p.role in roles), key=lambda p: p.role == "run")
        models = [each for each, _ in self.found.values()]
        return Ingredients((self.base, *models), (self._base("base"), *own))

    def _base(self, role: str, weight: float | None = None) -> Parent:
        assert self.base.digest is not None
        assert self.base.name is not None
        return Parent(self.base.name, self.base.digest, role, weight)

    def _run(self, name: str, run: Run, take: str, weight: float) -> None:
        parents = tuple(self._starts(run))
        folder = self.folders[run.job]
        metrics = read_metrics(folder).of(take)
        record = Record(
            kind="finetune",
            name=f"{self.recipe.title}: {name}",
            parents=parents,
            recipe=dict(run.job.arguments),
            data=self.examined.facts.task,
            metrics=measured(
                metrics, METRICS[self.examined.facts.metric], tested_as(self.held_out)
            ),
            versions=self.versions,
        )
        self._add(name, folder / f"{take}.safetensors", record, Parent(name, "", "run", weight))

    def _starts(self, run: Run) -> list[Parent]:
        """What a run started from, as its parents."""
        if run.init == BASE:
            return [self._base("base")]
        needs, init = run.job.inputs, run.job.arguments["init"]
        if init["kind"] == "fusing":
            shares = init["coefficients"]
            others = [
                self._auxiliary(each.name, needs[f"init{i}"], shares[i])
                for i, each in enumerate(self.recipe.auxiliaries, 1)
            ]
            return [self._base("init", shares[0]), *others]
        if init["kind"] == "trajectory":
            return [self._snapshot(needs["init"], init["snapshot"])]
        return [self._auxiliary(run.init, needs["init"])]

    def _auxiliary(self, name: str, job: Job, weight: float | None = None) -> Parent:
        auxiliary = next(each for each in self.recipe.auxiliaries if each.name == name)
        content = self.examined.facts.auxiliaries[name]
        if auxiliary.weights is not None:
            place = Path(self.examined.facts.root) / Path(auxiliary.weights).expanduser()
            source = os.path.relpath(place.absolute(), self.output)
            made = RunModel(source, name, digest=content, base=self.base.digest)
            self.found.setdefault(name, (made, Parent(name, content, "wild")))
        elif name not in self.found:
            record = Record(
                kind="finetune",
                name=f"{self.recipe.title}: {name}",
                parents=(self._base("base"),),
                recipe=dict(job.arguments),
                data=content,
                versions=self.versions,
            )
            file = self.folders[job] / "featurizer.safetensors"
            self._add(name, file, record, Parent(name, "", "auxiliary"))
        return replace(self.found[name][1], role="init", weight=weight)

    def _snapshot(self, job: Job, step: int) -> Parent:
        name = f"step {step}"
        if name not in self.found:
            record = Record(
                kind="finetune",
                name=f"{self.recipe.title}: {name}",
                parents=(self._base("base"),),
                recipe={**job.arguments, "step": step},
                data=self.examined.facts.task,
                versions=self.versions,
            )
            file = self.folders[job] / f"step-{step}.safetensors"
            self._add(name, file, record, Parent(name, "", "init"))
        return self.found[name][1]

    def _laid_out(self, weights: State, head: State | None) -> State:
        """Tensors under the names that they have in the final folder's weights file."""
        if self.expression is None:
            return weights
        return joined(self.expression.layout, weights, head, self.expression.names)

    def _add(self, name: str, file: Path, record: Record, parent: Parent) -> None:
        state = load_state(file)
        weights = {n.removeprefix(PREFIX): t for n, t in state.items() if n.startswith(PREFIX)}
        head = {n.removeprefix("head."): t for n, t in state.items() if n.startswith("head.")}
        has_buffers = self.has_buffers and any(name.startswith(BUFFER) for name in state)
        own = MemoryCheckpoint(self._laid_out(weights, head or None))
        parts = self.kept | {each: own.tensor_digest(each) for each in own.names}
        whole = join_digests({**self.state.tensors, **own.tensors}, parts)
        made = RunModel(
            "model",
            record=replace(record, digest=whole),
            overlay=os.path.relpath(file, self.output),
            parts={
                WEIGHTS: PREFIX,
                **({HEAD: "head."} if head else {}),
                **({BUFFERS: BUFFER} if has_buffers else {}),
            },
        )
        self.found[name] = made, replace(parent, digest=whole)
