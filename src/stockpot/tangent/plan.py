"""From a recipe to jobs: what is trained, on which rows, each shard apart from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone, Model, load_backbone
from stockpot.errors import InputError
from stockpot.execution import Arguments, Job
from stockpot.execution.arguments import backbone_argument, data_argument
from stockpot.files import file_digest
from stockpot.tangent.choice import statistics_composer
from stockpot.tangent.forgetting.tombstones import Tombstones
from stockpot.tangent.head import head_classes
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.probing import refuse_random
from stockpot.tangent.recipe import TangentRecipe, load_recipe
from stockpot.tangent.rows import Portion, align_classes, make_portion, row_hashes
from stockpot.tangent.shards import Division, Shard, divide, portions
from stockpot.tasks import Task, load_task

_JOBS = "stockpot.tangent.jobs"


@dataclass(frozen=True, eq=False)
class ExaminedRecipe:
    """A recipe whose data and base were read and found to fit.

    ``data``: the task as a job's argument. ``forgotten``: mask (N,) of rows that were forgotten and
    that nothing is trained on.
    """

    recipe: TangentRecipe
    root: Path
    task: Task
    backbone: Backbone
    division: Division
    data: Mapping[str, Any]
    forgotten: np.ndarray

    @property
    def backbone_argument(self) -> Arguments:
        """The base as a job's argument."""
        return backbone_argument(self.recipe.backbone, self.backbone.fingerprint)


@dataclass(frozen=True, eq=False)
class Planned:
    """A component to be made: its rows, its job, and the job of the head all share."""

    shard: Shard
    job: Job
    head: Job


def examine(
    path: Path,
    cache: Path,
    skip_corrupt: bool = False,
    *,
    stones: Tombstones = Tombstones(),
    head: Path | None = None,
) -> ExaminedRecipe:
    """Read a recipe with its data and its base; everything that can be wrong is found here.

    ``cache``: for decoded images. ``stones``: rows that these name are left out. ``head``: a saved
    head instead of the recipe's own.
    """
    recipe, root = load_recipe(path), path.parent.resolve()
    if head is not None:
        changed = recipe.head.model_copy(update={"file": str(head.resolve()), "classes": None})
        recipe = recipe.model_copy(update={"head": changed})
    task = load_task(
        recipe.task, root=root, skip_corrupt=skip_corrupt, cache=cache, seed=recipe.seed
    )
    data = data_argument(recipe.task, task.fingerprint, seed=recipe.seed, skip_corrupt=skip_corrupt)
    columns = recipe.head.classes or task.classes
    if recipe.head.file is not None:
        columns = head_classes(root / recipe.head.file)
        if recipe.head.classes is not None and tuple(recipe.head.classes) != columns:
            raise InputError(f"{recipe.head.file} is a head for {', '.join(columns)}")
    task = align_classes(task, columns)
    forgotten = stones.mask(row_hashes(task))
    division = divide(task, recipe, forgotten if forgotten.any() else None)
    backbone = load_backbone(recipe.backbone, root=root, example=task.inputs[:2])
    backbone.check_takes(task)
    batch = backbone.prepare(task.inputs[:2])
    refuse_random(lambda: backbone.module(batch), f"backbone '{backbone.spec.name}'")
    examined = ExaminedRecipe(recipe, root, task, backbone, division, data, forgotten)
    if recipe.composer.kind == "statistics":
        statistics_composer(recipe.composer, backbone, task.classes)
        return examined
    # Everything that can be wrong with the linearisation is found here, before any job.
    model = TangentModel(
        Model(backbone, len(task.classes)),
        parameters=recipe.parameters,
        precision=recipe.precision,
    )
    model.probe(batch)
    return examined


def plan(examined: ExaminedRecipe, cache: str, only: Sequence[str]) -> list[Planned]:
    """One job a component, which needs its rows' activations and, to be trained, the head."""
    recipe = examined.recipe
    places = {"root": str(examined.root), "cache": cache}
    head = Job(
        f"{_JOBS}:head",
        {
            "backbone": examined.backbone_argument,
            "classes": list(examined.task.classes),
            "seed": recipe.head.seed,
            "file": recipe.head.file,
            "content": file_digest(examined.root / recipe.head.file) if recipe.head.file else None,
        },
        places=places,
        label="head",
        weight=0.1,
        threads=recipe.threads,
    )
    known = {shard.name: shard for shard in examined.division.shards}
    for name in only:
        if name not in known:
            raise InputError(
                f"the recipe has no component '{name}'", hint=f"it has {', '.join(known)}"
            )
    return [
        Planned(shard, _component(examined, shard, places, head), head)
        for shard in (known[name] for name in only or known)
    ]


def _component(examined: ExaminedRecipe, shard: Shard, places: Mapping[str, str], head: Job) -> Job:
    """The job that makes one component; statistics need no head."""
    recipe, task, hashes = examined.recipe, examined.task, examined.division.hashes
    fingerprint = make_portion(task, hashes, shard.train).content
    label, threads = f"component {shard.name}", recipe.threads
    arguments: Arguments = {"name": shard.name, "fingerprint": fingerprint}
    backbone = {"backbone": examined.backbone_argument}
    if recipe.composer.kind == "statistics":
        # Solver and penalty are for the sum, not for what is summed.
        composer = recipe.composer.model_dump(exclude={"solver", "penalty"})
        blocks: dict[str, Job] = {}
        for portion in portions(task, examined.division, shard, recipe.composer.blocks):
            inputs, where = rows_of(examined, portion, places, shard.name)
            more = {"name": shard.name, "composer": composer, "content": portion.content}
            function = f"{_JOBS}:block"
            job = Job(function, more | backbone, inputs, where, f"sums {shard.name}", threads, 3)
            blocks[f"{len(blocks):03}"] = job
        return Job(f"{_JOBS}:statistics", arguments, blocks, places, label, threads, 0.1)
    (portion,) = portions(task, examined.division, shard)
    inputs, where = rows_of(examined, portion, places, shard.name)
    size = len(shard.train)
    arguments |= backbone | {
        "parameters": recipe.parameters,
        "precision": recipe.precision,
        "content": portion.content,
        "rows": list(range(size)),
        "validation": list(range(size, len(portion.rows))),
        "settings": recipe.training.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    inputs["head"] = head
    return Job(f"{_JOBS}:component", arguments, inputs, where, label, threads, 3)


def rows_of(
    examined: ExaminedRecipe, portion: Portion, places: Mapping[str, str], name: str
) -> tuple[dict[str, Job], dict[str, str]]:
    """What a job on some rows needs: the job of their activations, if something runs below a cut,
    and the places, with the rows' positions, which do not name it."""
    part = {
        "data": examined.data,
        "rows": portion.rows.tolist(),
        "classes": list(examined.task.classes),
        "content": portion.content,
    }
    where = {**places, "part": json.dumps(part)}
    if examined.backbone.trunk is None:
        return {}, where
    recipe = examined.recipe
    arguments = {
        "content": portion.content,
        "backbone": examined.backbone_argument,
        "augmentation": recipe.training.augmentation and examined.task.modality == "image",
        "seed": recipe.seed,
    }
    label = f"frozen blocks {name}"
    job = Job(f"{_JOBS}:features", arguments, {}, where, label, recipe.threads)
    return {"features": job}, where
