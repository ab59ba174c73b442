"""The verb: check everything, plan, run the jobs, and say what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.backbones import Backbone, Model, load_backbone
from stockpot.continual.plan import ContinualCell, ContinualFacts, make_plan
from stockpot.continual.recipe import ContinualRecipe
from stockpot.continual.results import collect_results
from stockpot.continual.schema import ContinualResults
from stockpot.execution import Backend, in_order, make_backend, run_all
from stockpot.files import write_json
from stockpot.outputs import check_output, recipe_digest
from stockpot.tangent.linear import TangentModel
from stockpot.tasks import load_task
from stockpot.tasks.specs import data_paths


@dataclass(frozen=True)
class Compared:
    """A finished comparison. ``results`` is the content of ``folder/results.json``."""

    folder: Path
    results: ContinualResults


def compare(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path,
    *,
    backend: str | Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_job: float | None = None,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
) -> Compared:
    """Run every method of a recipe on every setting and trial; write ``output/results.json``.

    The same call goes on after an interruption; finished jobs are not repeated, also where the
    recipe has got more methods, settings or trials since.
    Raises ``InputError`` (a subclass) before anything runs, ``JobError`` when a job fails, and
    ``OutputError`` where ``output`` holds results of another recipe, unless ``overwrite``.
    """
    output = Path(output)
    cache = (output / "work" / "cache").resolve()
    checked, folder = ContinualRecipe.open(recipe, root, changes)
    identity = recipe_digest(checked.model_dump(mode="json"))
    data = data_paths(checked.task, folder)
    check_output(output, "results.json", identity, overwrite=overwrite, data=data)
    body, cells = _examine(checked, folder, cache)
    backend = make_backend(
        backend, jobs, threads=checked.threads, address=address, gpus_per_job=gpus_per_job
    )
    wanted = [job for cell in cells for job in cell.evaluations.values()]
    folders = run_all("continual learning", wanted, output / "work", backend, quiet=quiet)
    results = collect_results(checked, body[0], body[1], cells, folders, identity)
    write_json(output / "results.json", results.to_json())
    return Compared(output, results)


def plan_recipe(
    recipe: str | Path | Mapping[str, Any],
    *,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
) -> list[str]:
    """Check everything as :func:`compare` does and name the jobs it would run; writes nothing."""
    checked, folder = ContinualRecipe.open(recipe, root, changes)
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        _, cells = _examine(checked, folder, Path(scratch))
    wanted = [job for cell in cells for job in cell.evaluations.values()]
    return [job.label for job in in_order(wanted)]


def _examine(
    checked: ContinualRecipe, folder: Path, cache: Path
) -> tuple[tuple[Any, Backbone], list[ContinualCell]]:
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        keep = cache if cache.exists() else Path(scratch)
        task = load_task(checked.task, root=folder, cache=keep, seed=checked.seed)
        body = load_backbone(checked.backbone, root=folder, example=task.inputs[:2])
        body.check_takes(task)
        # What cannot be linearised is found here, before any job.
        model = TangentModel(Model(body, len(task.classes)))
        model.probe(body.prepare(task.inputs[:2]))
        facts = ContinualFacts(task, body.fingerprint, str(folder), str(cache))
        return (task, body), make_plan(checked, facts)
