"""The verb: check everything, plan, run the jobs, and say what came out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.execution import Backend, in_order, make_backend, run_all
from stockpot.extras import require_wanted, wanting
from stockpot.files import output_error, write_json
from stockpot.outputs import check_output, recipe_digest
from stockpot.recycling.recipe import AUTO, Recipe
from stockpot.recycling.schema import RecycleResults
from stockpot.tasks.specs import data_paths


@dataclass(frozen=True)
class Recycled:
    """What a run left behind.

    Attributes:
        folder: holds ``model/``, ``results.json`` and ``models.json`` (what the model was made of);
            ``work/`` is what a rerun reuses.
        results: the content of ``results.json``.
    """

    folder: Path
    results: RecycleResults

    @property
    def model(self) -> Path:
        """Folder of the final model."""
        return self.folder / "model"

    def summary(self) -> str:
        """What was kept, why, and how it compares with the simplest things, in one line."""
        from stockpot.recycling.kept import kept_line

        return kept_line(self.results)


@wanting("torch")
def recycle(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    output: str | Path,
    *,
    backend: str | Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_job: float | None = None,
    seed: int | None = None,
    skip_corrupt: bool = False,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
    overwrite: bool = False,
    quiet: bool = False,
) -> Recycled:
    """Fine-tune from every init in parallel, average, compare the protocols, keep the model.

    Args:
        recipe: a YAML file, or its content as plain data.
        output: folder for the results; the same call goes on after an interruption.
        backend: ``"serial"``, ``"local"``, ``"ray"`` or a ready ``Backend``; the bytes do not
            depend on it.
        jobs: how many at a time (default: one per core and thread of a job, or what a cluster has
            room for).
        address, gpus_per_job: of the Ray cluster and on it, see ``execution.Ray``.
        seed: replaces the recipe's.
        skip_corrupt: leave out unreadable images instead of refusing; the results list them.
        root: where relative paths start (default: the recipe's folder, or here).
        changes: ``"training.steps=100"`` and the like, put over what the file says.
        overwrite: replace the results of another recipe in ``output``; jobs that have not changed
            are not run again.
        quiet: no progress bar.

    Raises:
        InputError: the recipe, data or weights are wrong; found before anything runs.
        OutputError: the output cannot be written, or holds the results of another recipe.
        JobError: a job failed on the way; the next call goes on from there.
    """
    checked, root = _read(recipe, root, seed, changes, remote=backend == "ray")
    output = Path(output)
    identity = recipe_digest(checked.model_dump(mode="json"))
    tasks = [checked.task, *(one.task for one in checked.auxiliaries if one.task is not None)]
    check_output(
        output,
        "results.json",
        identity,
        overwrite=overwrite,
        writes=("model", "models.json"),
        data=[path for task in tasks for path in data_paths(task, root)],
    )
    cache = (output / "work" / "cache").resolve()
    from stockpot.recycling.choice import choose
    from stockpot.recycling.examine import examine
    from stockpot.recycling.final import save_final
    from stockpot.recycling.judging import check_metrics
    from stockpot.recycling.plan import add_final, make_plan
    from stockpot.recycling.results import collect, limited

    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        # Decoded images are kept, but nothing is written to the output until everything is right.
        keep = cache if cache.exists() else Path(scratch)
        with checked.placed():
            examined = examine(checked, root, keep, skip_corrupt=skip_corrupt)
            facts = examined.facts.at(str(cache))
            plan = make_plan(checked, facts)
            check_metrics(checked, examined.task, plan)
        if keep != cache:
            _move(Path(scratch), cache)
    backend = make_backend(
        backend, jobs, threads=checked.threads, address=address, gpus_per_job=gpus_per_job
    )
    folders = run_all("recycling", plan.jobs(), output / "work", backend, quiet=quiet)
    choice = choose(checked, limited(examined.task, plan), plan, folders)
    plan = add_final(plan, checked, facts, choice.protocol)
    if plan.final_cell not in plan.cells:
        folders |= run_all("recycling", plan.jobs(), output / "work", backend, quiet=quiet)
    results = collect(checked, examined, plan, folders, choice, identity)
    save_final(output, checked, examined, plan, folders, results)
    write_json(output / "results.json", results.to_json())
    return Recycled(output, results)


def _move(scratch: Path, cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for file in scratch.iterdir():
            shutil.move(file, cache / file.name)
    except OSError as error:
        raise output_error(cache, error) from error


@wanting("torch")
def plan_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    seed: int | None = None,
    skip_corrupt: bool = False,
    root: str | Path | None = None,
    changes: Sequence[str] = (),
    remote: bool = False,
) -> list[str]:
    """Check everything as :func:`recycle` does and name the jobs it would run; writes nothing.

    ``remote``: they will run on other machines, whose devices are not known here.
    """
    checked, root = _read(recipe, root, seed, changes, remote=remote)
    from stockpot.recycling.examine import examine
    from stockpot.recycling.judging import check_metrics
    from stockpot.recycling.plan import add_final, make_plan

    with checked.placed():
        examined = examine(checked, root, None, skip_corrupt=skip_corrupt)
        facts = examined.facts
        plan, final = make_plan(checked, facts), checked.final
        check_metrics(checked, examined.task, plan)
    later = []
    if final.protocol != AUTO:
        plan = add_final(plan, checked, facts, final.protocol)
    elif final.train_on == "all":
        later = ["then the fine-tunings of the chosen protocol, on all domains"]
    return [job.label for job in in_order(plan.jobs())] + later


def _read(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    root: str | Path | None,
    seed: int | None,
    changes: Sequence[str],
    *,
    remote: bool,
) -> tuple[Recipe, Path]:
    checked, root = Recipe.open(recipe, root, changes)
    require_wanted(purpose="this recipe")
    if not remote:
        from stockpot.training.device import check_precision

        with checked.placed():
            check_precision(checked.training.precision)
    if seed is not None:
        checked = checked.model_copy(update={"seed": seed})
    return checked, root
