"""Train all components of a recipe, and open what was trained for composing and evaluating."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone, Model, load_backbone
from stockpot.backbones.folder import place_base
from stockpot.errors import InputError
from stockpot.execution import Backend, Job, make_backend, run_all, run_jobs
from stockpot.execution.arguments import backbone_argument, data_argument
from stockpot.files import atomic_file, digest, file_digest, write_json
from stockpot.outputs import check_output, recipe_digest
from stockpot.provenance import RunModel
from stockpot.tangent.checks import Linearisation, check_linearisation
from stockpot.tangent.choice import make_composer, statistics_composer
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Composer
from stockpot.tangent.fitting import SINGLE_CLASS
from stockpot.tangent.head import draw_head, load_head
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.lineage import component_record, find_parents, write_lineage
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.recipe import TangentRecipe, load_recipe
from stockpot.tangent.schema import ComponentEntry, ComponentPlan, TangentResults
from stockpot.tangent.shards import Division, Shard, divide
from stockpot.tasks import Task, load_task
from stockpot.tasks.specs import data_paths
from stockpot.training import Feed
from stockpot.training.device import best_device
from stockpot.training.rows import limit_task, open_feed

_JOBS = "stockpot.tangent.jobs"


@dataclass(frozen=True)
class Trained:
    """A folder of components: ``head.safetensors``, ``components/*.safetensors``, ``results``."""

    folder: Path
    components: tuple[Path, ...]
    results: TangentResults


@dataclass(frozen=True, eq=False)
class Opened:
    """A recipe with its data, base and head, ready to compose and evaluate."""

    recipe: TangentRecipe
    task: Task
    division: Division
    model: TangentModel
    feed: Feed
    composer: Composer


@dataclass(frozen=True, eq=False)
class Planned:
    """A component to be made: its rows, its job, and the job of the head all share."""

    shard: Shard
    job: Job
    head: Job


@dataclass(frozen=True, eq=False)
class _Examined:
    recipe: TangentRecipe
    root: Path
    task: Task
    backbone: Backbone
    division: Division
    skip_corrupt: bool


def train(
    recipe: str | Path,
    output: str | Path,
    *,
    only: Sequence[str] = (),
    backend: str | Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_job: float | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Trained:
    """Train every component of a recipe (or ``only`` some) into ``output``.

    The same call goes on after an interruption; a finished component is not trained again.
    Raises ``InputError`` (a subclass) before anything runs, ``JobError`` when a job fails, and
    ``OutputError`` where ``output`` holds components of another recipe, unless ``overwrite``.
    """
    recipe, output = Path(recipe), Path(output)
    checked = load_recipe(recipe)
    identity = recipe_digest(checked.model_dump(mode="json"))
    check_output(
        output,
        "components.json",
        identity,
        overwrite=overwrite,
        writes=(HEAD, "components", "models.json"),
        data=data_paths(checked.task, recipe.parent),
    )
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        keep = (output / "work" / "cache").resolve()
        examined = _examine(recipe, keep if keep.exists() else Path(scratch), skip_corrupt)
        wanted = plan(examined, str(keep), only)
    threads = examined.recipe.threads
    workers = make_backend(
        backend, jobs, threads=threads, address=address, gpus_per_job=gpus_per_job
    )
    everything = [wanted[0].head, *(planned.job for planned in wanted)]
    folders = run_all("components", everything, output / "work", workers, quiet=quiet)
    _copy(folders[wanted[0].head] / HEAD, output / HEAD)
    base = place_base(examined.backbone, examined.root, output)
    paths, parents, listed = [], find_parents(base, output / HEAD), list[RunModel]()
    for planned in wanted:
        paths.append(output / "components" / f"{file_name(planned.shard.name)}.safetensors")
        component = Component.load(folders[planned.job] / COMPONENT)
        record = component_record(component, parents, planned.job.arguments)
        component.save(paths[-1], record)
        name = f"{examined.recipe.title}: {component.task}"
        listed.append(RunModel(os.path.relpath(paths[-1], output), name, record))
    replaced = {
        f"{note}, because the fused kernel has no forward-mode derivative"
        for planned in wanted
        for note in json.loads((folders[planned.job] / "notes.json").read_text())["notes"]
    }
    notes = [*sorted(replaced), *_single_classes(examined, [one.shard for one in wanted])]
    results = _results(examined, paths, notes, identity)
    write_json(output / "components.json", results.to_json())
    write_lineage(output, examined.recipe, examined.task.fingerprint, base, parents, listed)
    return Trained(output, tuple(paths), results)


def plan_recipe(
    recipe: str | Path, only: Sequence[str] = (), *, skip_corrupt: bool = False
) -> list[ComponentPlan]:
    """Check everything and name the components that ``train`` would make; writes nothing."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        examined = _examine(Path(recipe), Path(scratch), skip_corrupt)
        wanted = plan(examined, scratch, only)
    trained = examined.recipe.composer.kind == "average"
    return [
        ComponentPlan(
            name=one.shard.name,
            examples=len(one.shard.train),
            validation=len(one.shard.validation),
            classes=len(np.unique(examined.task.labels[one.shard.train])),
            steps=examined.recipe.training.steps(len(one.shard.train)) if trained else 0,
        )
        for one in wanted
    ]


def plan(examined: _Examined, cache: str, only: Sequence[str]) -> list[Planned]:
    """One job a component, which needs the trunk's activations and, to be trained, the head."""
    recipe, task = examined.recipe, examined.task
    places = {"root": str(examined.root), "cache": cache}
    data = data_argument(
        recipe.task,
        task.fingerprint,
        seed=recipe.seed,
        limit=recipe.limit_per_domain,
        skip_corrupt=examined.skip_corrupt,
    )
    backbone = backbone_argument(recipe.backbone, examined.backbone.fingerprint)
    fingerprint = digest([task.fingerprint, recipe.limit_per_domain, recipe.seed])
    file = recipe.head.file
    head = Job(
        f"{_JOBS}:head",
        {
            "backbone": backbone,
            "classes": list(task.classes),
            "seed": recipe.head.seed,
            "file": file,
            "content": file_digest(examined.root / file) if file else None,
        },
        places=places,
        label="head",
        weight=0.1,
        threads=recipe.threads,
    )
    augmentation = recipe.training.augmentation and task.modality == "image"
    features = Job(
        f"{_JOBS}:features",
        {"data": data, "backbone": backbone, "augmentation": augmentation, "seed": recipe.seed},
        places=places,
        label="frozen blocks",
        threads=recipe.threads,
    )
    known = {shard.name: shard for shard in examined.division.shards}
    for name in only:
        if name not in known:
            raise InputError(
                f"the recipe has no component '{name}'", hint=f"it has {', '.join(known)}"
            )
    common = {"data": data, "backbone": backbone, "fingerprint": fingerprint}
    return [
        Planned(shard, _component(recipe, shard, common, features, head), head)
        for shard in (known[name] for name in only or known)
    ]


def _component(
    recipe: TangentRecipe, shard: Shard, common: Mapping[str, Any], features: Job, head: Job
) -> Job:
    """The job that makes one component; statistics need no head."""
    arguments = {**common, "name": shard.name, "rows": shard.train.tolist()}
    inputs = {"features": features}
    if recipe.composer.kind == "statistics":
        function = "statistics"
        # Solver and penalty are for the sum, not for what is summed.
        arguments["composer"] = recipe.composer.model_dump(exclude={"solver", "penalty"})
    else:
        function = "component"
        inputs["head"] = head
        arguments |= {
            "parameters": recipe.parameters,
            "precision": recipe.precision,
            "validation": shard.validation.tolist(),
            "settings": recipe.training.model_dump(mode="json"),
            "seed": recipe.seed,
        }
    places, label = features.places, f"component {shard.name}"
    return Job(f"{_JOBS}:{function}", arguments, inputs, places, label, recipe.threads, 3)


def check(recipe: str | Path, rows: int = 8) -> tuple[TangentModel, Linearisation]:
    """The recipe's model with the head it would get, and how good its derivative is on its data."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        examined = _examine(Path(recipe), Path(scratch), False)
    asked = examined.recipe
    network = Model(examined.backbone, len(examined.task.classes))
    if asked.head.file is not None:
        load_head(examined.root / asked.head.file, network)
    else:
        draw_head(network, seed=asked.head.seed)
    model = TangentModel(network, parameters=asked.parameters, precision=asked.precision)
    batch = examined.backbone.prepare(examined.task.inputs[:rows])
    return model, check_linearisation(model, batch)


def open_run(recipe: Path, folder: Path, *, skip_corrupt: bool = False) -> Opened:
    """Data, base and head of components that ``train`` wrote to ``folder``.

    Raises ``InputError`` where the folder holds no components.
    """
    if not (folder / HEAD).is_file():
        raise InputError(f"{folder} holds no components", hint="run `stockpot tangent train` first")
    cache = folder / "work" / "cache"
    examined = _examine(recipe, cache, skip_corrupt)
    network = Model(examined.backbone, len(examined.task.classes))
    load_head(folder / HEAD, network)
    model = TangentModel(
        network, parameters=examined.recipe.parameters, precision=examined.recipe.precision
    )
    features = plan(examined, str(cache), ())[0].job.inputs["features"]
    prepared = folder / "work" / "jobs" / features.key
    feed = run_features(features, folder) if not prepared.exists() else prepared
    return Opened(
        examined.recipe,
        examined.task,
        examined.division,
        model.to(best_device()),
        open_feed(examined.task, examined.backbone, feed),
        make_composer(examined.recipe.composer, model, examined.backbone, examined.task.classes),
    )


def run_features(job: Job, folder: Path) -> Path:
    """The trunk's activations, computed where ``train`` has not left them."""
    return run_jobs([job], folder / "work", make_backend("serial", 1))[job]


def load_components(paths: Sequence[Path]) -> list[Component]:
    """Components of files, or of all files in a folder (``folder/components`` or itself)."""
    files: list[Path] = []
    for path in paths:
        inner = path / "components" if (path / "components").is_dir() else path
        found = sorted(inner.glob("*.safetensors")) if inner.is_dir() else [inner]
        if not found:
            raise InputError(f"{path} holds no components")
        files += found
    return [Component.load(file) for file in files]


def keep_components(components: Sequence[Component], without: Sequence[str]) -> list[Component]:
    """All but those whose name (or digest, 12 digits or more) is in ``without``."""
    kept = list(components)
    for name in without:
        rest = [
            c
            for c in kept
            if c.task != name and not (len(name) >= 12 and c.digest.startswith(name))
        ]
        if len(rest) == len(kept):
            known = ", ".join(component.task for component in kept)
            raise InputError(f"there is no component '{name}'", hint=f"there are {known}")
        kept = rest
    return kept


def _examine(path: Path, cache: Path, skip_corrupt: bool) -> _Examined:
    recipe, root = load_recipe(path), path.parent.resolve()
    task = load_task(
        recipe.task, root=root, skip_corrupt=skip_corrupt, cache=cache, seed=recipe.seed
    )
    if recipe.limit_per_domain is not None:
        task = limit_task(task, recipe.limit_per_domain, recipe.seed)
    division = divide(task, recipe)
    backbone = load_backbone(recipe.backbone, root=root, example=task.inputs[:2])
    backbone.check_takes(task)
    if recipe.composer.kind == "statistics":
        statistics_composer(recipe.composer, backbone, task.classes)
        return _Examined(recipe, root, task, backbone, division, skip_corrupt)
    # Everything that can be wrong with the linearisation is found here, before any job.
    model = TangentModel(
        Model(backbone, len(task.classes)),
        parameters=recipe.parameters,
        precision=recipe.precision,
    )
    model.probe(backbone.prepare(task.inputs[:2]))
    return _Examined(recipe, root, task, backbone, division, skip_corrupt)


def _single_classes(examined: _Examined, shards: Sequence[Shard]) -> list[str]:
    if examined.recipe.composer.kind == "statistics":
        return []
    labels = examined.task.labels
    alone = [shard.name for shard in shards if len(np.unique(labels[shard.train])) < 2]
    return [SINGLE_CLASS.format(name=name) for name in alone]


def _results(
    examined: _Examined, paths: Sequence[Path], notes: Sequence[str], identity: str
) -> TangentResults:
    components = [Component.load(path) for path in paths]
    return TangentResults(
        recipe_digest=identity,
        version=1,
        title=examined.recipe.title,
        base_digest=components[0].base_digest,
        head_digest=components[0].head_digest,
        classes=examined.task.classes,
        skipped=examined.task.skipped,
        notes=tuple(notes),
        components=tuple(
            ComponentEntry(
                name=c.task,
                file=f"components/{path.name}",
                digest=c.digest,
                examples=c.examples,
                classes=c.classes,
                metrics=c.metrics,
            )
            for c, path in zip(components, paths, strict=True)
        ),
    )


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def file_name(name: str) -> str:
    """A component's name as a file's; a long one, or one with other signs than letters, digits,
    '.', '-' and '_', gets part of its hash, so that no two names meet."""
    plain = "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)[:50]
    return plain if plain == name else f"{plain}-{digest(name)[:8]}"
