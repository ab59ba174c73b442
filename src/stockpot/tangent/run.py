"""Train all components of a recipe into a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockpot.backbones import Model
from stockpot.backbones.folder import place_base
from stockpot.errors import InputError
from stockpot.execution import Backend, Job, make_backend, run_all
from stockpot.execution.job import in_order
from stockpot.files import atomic_file, digest, write_json
from stockpot.outputs import check_output, recipe_digest
from stockpot.provenance import MODELS_NAME, Parent, RunModel
from stockpot.reading import read_json
from stockpot.tangent.checks import Linearisation, check_linearisation
from stockpot.tangent.component import Component
from stockpot.tangent.fitting import SINGLE_CLASS
from stockpot.tangent.forgetting.inventory import Derived, record
from stockpot.tangent.forgetting.tombstones import TOMBSTONES, Tombstones, refusal
from stockpot.tangent.head import draw_head, load_head
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.lineage import component_record, find_parents, write_lineage
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.plan import ExaminedRecipe, Planned, examine, plan
from stockpot.tangent.recipe import load_recipe
from stockpot.tangent.rows import shared_rows
from stockpot.tangent.schema import ComponentEntry, ComponentPlan, TangentResults
from stockpot.tangent.shards import Shard
from stockpot.tasks.specs import data_paths

RESULTS = "components.json"


@dataclass(frozen=True)
class Trained:
    """A folder of components: ``head.safetensors``, ``components/*.safetensors``, ``results``."""

    folder: Path
    components: tuple[Path, ...]
    results: TangentResults


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
    readmit: bool = False,
    quiet: bool = False,
) -> Trained:
    """Train every component of a recipe (or ``only`` some) into ``output``.

    The same call goes on after an interruption; a finished component is not trained again.
    Raises ``InputError`` (a subclass) before anything runs, for rows that were forgotten in
    ``output`` too unless ``readmit`` takes them back; ``JobError`` when a job fails, and
    ``OutputError`` where ``output`` holds components of another recipe, unless ``overwrite``.
    """
    recipe, output = Path(recipe), Path(output)
    checked = load_recipe(recipe)
    check_output(
        output,
        RESULTS,
        recipe_digest(checked.model_dump(mode="json")),
        overwrite=overwrite,
        writes=(HEAD, "components", "models.json"),
        data=data_paths(checked.task, recipe.parent),
    )
    stones = Tombstones.read(output)
    with decoded_images(output, stones) as cache, tempfile.TemporaryDirectory() as scratch:
        first = cache if cache.exists() else Path(scratch)
        examined = examine(recipe, first, skip_corrupt)
        back = stones.returning(examined.division, only)
        if back and not readmit:
            raise refusal(back, output / TOMBSTONES)
        if not back:
            examined = examine(recipe, first, skip_corrupt, stones=stones)
        workers = make_backend(
            backend,
            jobs,
            threads=checked.threads,
            address=address,
            gpus_per_job=gpus_per_job,
        )
        done = train_examined(examined, output, only, workers, cache=cache, quiet=quiet)
    if back:
        stones.without(back).write(output)
    return done


def retrain(
    recipe: Path,
    run: Path,
    output: Path,
    names: Sequence[str],
    stones: Tombstones,
    *,
    quiet: bool,
) -> Trained:
    """Components ``names`` of ``run`` from nothing, on its head and without what was forgotten."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        cache = Path(scratch)
        examined = examine(recipe, cache, stones=stones, head=run / HEAD)
        workers = make_backend("serial", 1, threads=examined.recipe.threads)
        return train_examined(examined, output, names, workers, cache=cache, quiet=quiet)


def train_examined(
    examined: ExaminedRecipe,
    output: Path,
    only: Sequence[str],
    workers: Backend,
    *,
    cache: Path,
    quiet: bool,
) -> Trained:
    """Run the jobs of a recipe and write what they leave, the inventory of it first."""
    wanted = plan(examined, str(cache.resolve()), only)
    record(output, [entry for planned in wanted for entry in derived(planned)])
    everything = [wanted[0].head, *(planned.job for planned in wanted)]
    folders = run_all("components", everything, output / "work", workers, quiet=quiet)
    _copy(folders[wanted[0].head] / HEAD, output / HEAD)
    base = place_base(examined.backbone, examined.root, output)
    parents = find_parents(base, output / HEAD)
    listed = [place_component(examined, output, one, folders, parents) for one in wanted]
    paths = [output / component_file(planned.shard.name) for planned in wanted]
    results = _results(examined, paths, _notes(examined, wanted, folders))
    write_json(output / RESULTS, results.to_json())
    write_lineage(output, examined.recipe, base, parents, listed)
    return Trained(output, tuple(paths), results)


def place_component(
    examined: ExaminedRecipe,
    output: Path,
    planned: Planned,
    folders: Mapping[Job, Path],
    parents: Sequence[Parent],
) -> RunModel:
    """Put what a job made into the folder of the run, with its record; returns the entry of it."""
    path = output / component_file(planned.shard.name)
    component = Component.load(folders[planned.job] / COMPONENT)
    blocks = [job for job in planned.job.inputs.values() if job.function.endswith(":block")]
    arguments = {**(blocks[0].arguments if blocks else {}), **planned.job.arguments}
    about = component_record(component, parents, arguments)
    component.save(path, about)
    name = f"{examined.recipe.title}: {component.task}"
    return RunModel(os.path.relpath(path, output), name, about)


def derived(planned: Planned) -> Iterator[Derived]:
    """What a component's jobs and their result leave in a run's folder."""
    shards = (planned.shard.name,)
    yield Derived(path=component_file(planned.shard.name), kind="component", shards=shards)
    for job in in_order([planned.job]):
        if job != planned.head:
            kind = job.function.partition(":")[2]
            yield Derived(path=f"work/jobs/{job.key}", kind=kind, shards=shards)


def _notes(
    examined: ExaminedRecipe, wanted: Sequence[Planned], folders: dict[Job, Path]
) -> list[str]:
    replaced = {
        f"{note}, because the fused kernel has no forward-mode derivative"
        for planned in wanted
        for note in read_json(folders[planned.job] / "notes.json")["notes"]
    }
    shards = [planned.shard for planned in wanted]
    owners = {one.name: np.concatenate([one.train, one.validation]) for one in shards}
    shared = [
        f"{len(rows)} rows stand under {' and '.join(repr(name) for name in names)}: to forget "
        "them, forget them under every name"
        for names, rows in shared_rows(owners, examined.division.hashes).items()
    ]
    return [*sorted(replaced), *_single_classes(examined, shards), *shared]


@contextmanager
def decoded_images(folder: Path, stones: Tombstones) -> Iterator[Path]:
    """Where a run keeps decoded images of all shards together; once something was forgotten they
    are not kept, because what was forgotten may still be among the data."""
    cache = folder / "work" / "cache"
    try:
        yield cache
    finally:
        if stones:
            shutil.rmtree(cache, ignore_errors=True)


def plan_recipe(
    recipe: str | Path, only: Sequence[str] = (), *, skip_corrupt: bool = False
) -> list[ComponentPlan]:
    """Check everything and name the components that ``train`` would make; writes nothing."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        examined = examine(Path(recipe), Path(scratch), skip_corrupt)
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


def check(recipe: str | Path, rows: int = 8) -> tuple[TangentModel, Linearisation]:
    """The recipe's model with the head it would get, and how good its derivative is on its data."""
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        examined = examine(Path(recipe), Path(scratch))
    asked = examined.recipe
    network = Model(examined.backbone, len(examined.task.classes))
    if asked.head.file is not None:
        load_head(examined.root / asked.head.file, network)
    else:
        draw_head(network, seed=asked.head.seed)
    model = TangentModel(network, parameters=asked.parameters, precision=asked.precision)
    batch = examined.backbone.prepare(examined.task.inputs[:rows])
    return model, check_linearisation(model, batch)


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


def run_of(components: Path) -> Path:
    """The folder that ``train`` wrote these into, which knows their base; else the file itself."""
    near = (components, *components.parents[:2])
    return next((folder for folder in near if (folder / MODELS_NAME).is_file()), components)


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


def _single_classes(examined: ExaminedRecipe, shards: Sequence[Shard]) -> list[str]:
    if examined.recipe.composer.kind == "statistics":
        return []
    labels = examined.task.labels
    alone = [shard.name for shard in shards if len(np.unique(labels[shard.train])) < 2]
    return [SINGLE_CLASS.format(name=name) for name in alone]


def _results(
    examined: ExaminedRecipe, paths: Sequence[Path], notes: Sequence[str]
) -> TangentResults:
    components = [Component.load(path) for path in paths]
    return TangentResults(
        recipe_digest=recipe_digest(examined.recipe.model_dump(mode="json")),
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


def component_file(name: str) -> str:
    """The path of a component's file in the folder of its run."""
    return f"components/{file_name(name)}.safetensors"
