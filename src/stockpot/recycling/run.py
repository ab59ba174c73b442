"""The verb: check everything, plan, run the jobs, and say what came out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stockpot.errors import BackboneError, InputError, OutputError, TaskError
from stockpot.execution import Backend, in_order, make_backend, run_jobs
from stockpot.files import atomic_folder, digest, output_error, write_json, write_text
from stockpot.progress import progress
from stockpot.recycling.plan import Facts, Plan, make_plan
from stockpot.recycling.recipe import Auxiliary, Recipe, load_recipe, parse_recipe
from stockpot.tasks import Task


@dataclass(frozen=True)
class Recycled:
    """What a run left behind.

    Attributes:
        folder: holds ``model/``, ``report.html`` and ``results.json``; ``work/`` is what a rerun reuses.
        results: the content of ``results.json``.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def model(self) -> Path:
        """Folder of the final model."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return self.folder / "report.html"


def recycle(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    output: str | Path,
    *,
    backend: str | Backend = "local",
    jobs: int | None = None,
    seed: int | None = None,
    skip_corrupt: bool = False,
    root: str | Path | None = None,
    quiet: bool = False,
) -> Recycled:
    """Fine-tune from every init in parallel, average, compare the protocols, and keep the best use.

    Args:
        recipe: a YAML file, or its content as plain data.
        output: folder for the results; run again with the same recipe it goes on where it stopped.
        backend: ``"serial"``, ``"local"`` or a ready ``Backend``; the bytes do not depend on it.
        jobs: processes of the local backend (default: one per core and recipe thread).
        seed: replaces the recipe's.
        skip_corrupt: leave out unreadable images instead of refusing; they are listed in the report.
        root: where relative paths start (default: the recipe's folder, or here).
        quiet: no progress bar.

    Raises:
        InputError: the recipe, data or weights are wrong; found before anything runs.
        JobError: a job failed on the way; the next call goes on from there.
    """
    output = Path(output)
    if isinstance(recipe, str | Path):
        root = Path(recipe).parent if root is None else Path(root)
        checked = load_recipe(Path(recipe))
    else:
        root = Path.cwd() if root is None else Path(root)
        checked = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    if seed is not None:
        checked = checked.model_copy(update={"seed": seed})
    root = root.resolve()
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file", hint="give a folder for the output")

    cache = (output / "work" / "cache").resolve()
    task, facts = examine(checked, root, cache, skip_corrupt=skip_corrupt)
    plan = make_plan(checked, facts)
    from stockpot.recycling.results import collect, save_final

    wanted = plan.jobs()
    order = list(in_order(wanted))
    made = backend if not isinstance(backend, str) else _backend(backend, jobs, checked)
    with progress("recycling", sum(job.weight for job in order), quiet=quiet) as advance:
        folders = run_jobs(
            wanted,
            output / "work",
            made,
            on_finished=lambda job, reused: advance(job.weight, job.label[:40]),
        )
    results = collect(checked, task, plan, folders)
    with atomic_folder(output / "model", replace=True) as folder:
        save_final(folder, checked, task, plan, folders, results, root)
    write_json(output / "results.json", results)
    from stockpot.report import write_report

    write_report(results, output / "report.html")
    return Recycled(output, results)


def examine(
    recipe: Recipe, root: Path, cache: Path, *, skip_corrupt: bool = False
) -> tuple[Task, Facts]:
    """Look at the data, the backbone and all weights before anything runs.

    Returns the task and the facts that name the inputs' content. Raises ``InputError``.
    """
    from stockpot.backbones import load_backbone
    from stockpot.tasks import load_task

    scratch = cache if cache.exists() else None
    task = load_task(
        recipe.task, root=root, skip_corrupt=skip_corrupt, cache=scratch, seed=recipe.seed
    )
    _check_domains(recipe, task)
    body = load_backbone(recipe.backbone, root=root)
    if body.modality != task.modality:
        raise BackboneError(
            f"backbone '{recipe.backbone.name}' takes {body.modality} inputs, "
            f"task '{task.name}' has {task.modality} inputs"
        )
    contents: dict[str, str] = {}
    for auxiliary in recipe.auxiliaries:
        contents[auxiliary.name] = _examine_auxiliary(
            auxiliary, recipe, task, body, root, scratch, skip_corrupt
        )
    facts = Facts(
        domains=task.domains,
        task=task.fingerprint,
        backbone=body.fingerprint,
        auxiliaries=contents,
        root=str(root),
        cache=str(cache),
        skip_corrupt=skip_corrupt,
    )
    return task, facts


def _check_domains(recipe: Recipe, task: Task) -> None:
    if len(task.domains) < 2 and recipe.held_out:
        raise TaskError(
            f"task '{task.name}' has one domain ('{task.domains[0]}'): holding one out needs two",
            hint="name a domain column or use one folder per domain, or set 'held_out: []'",
        )
    if recipe.held_out != "all":
        for domain in recipe.held_out:
            if domain not in task.domains:
                raise TaskError(
                    f"held_out: unknown domain '{domain}' in task '{task.name}'; "
                    f"it has {', '.join(task.domains)}"
                )


def _examine_auxiliary(
    auxiliary: Auxiliary,
    recipe: Recipe,
    task: Task,
    body: Any,
    root: Path,
    cache: Path | None,
    skip_corrupt: bool,
) -> str:
    """Check one auxiliary and return what names its content."""
    from stockpot.tasks import load_task

    if auxiliary.weights is not None:
        from stockpot.checkpoints.torch_io import load_state
        from stockpot.inspection import check_lineage

        path = root / auxiliary.weights
        state = load_state(path)
        body.reset()
        base = body.state()
        body.load(state)
        names = sorted(body.state())
        candidate = body.state()
        check_lineage(base, {name: candidate[name] for name in names}, name=str(path))
        body.reset()
        from stockpot.checkpoints import open_checkpoint

        with open_checkpoint(path) as checkpoint:
            return checkpoint.digest()
    if auxiliary.rotation:
        if task.modality != "image":
            raise InputError(
                f"auxiliary '{auxiliary.name}': rotation needs images, "
                f"task '{task.name}' has {task.modality} inputs"
            )
        return task.fingerprint
    assert auxiliary.task is not None
    other = load_task(
        auxiliary.task, root=root, skip_corrupt=skip_corrupt, cache=cache, seed=recipe.seed
    )
    if other.modality != task.modality:
        raise InputError(
            f"auxiliary '{auxiliary.name}' has {other.modality} inputs, "
            f"task '{task.name}' has {task.modality} inputs"
        )
    return other.fingerprint


def _backend(name: str, jobs: int | None, recipe: Recipe) -> Backend:
    import os

    workers = max(1, len(os.sched_getaffinity(0)) // recipe.threads) if jobs is None else jobs
    return make_backend(name, workers)
