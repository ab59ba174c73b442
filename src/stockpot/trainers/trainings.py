"""The trainings of a recipe: done as far as that can be, and what became of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from stockpot.errors import InputError, JobError
from stockpot.execution import Backend, Job, in_order, run_all
from stockpot.execution.run import DONE
from stockpot.provenance import RunModel
from stockpot.reading import read_json
from stockpot.soups.collect import SoupTrainings
from stockpot.soups.schema import SoupTraining
from stockpot.trainers.jobs import MODEL, left_out, notes_of
from stockpot.trainers.plan import TrainerPlan
from stockpot.trainers.recipe import TrainerRecipe

_FIRST = 3
"""After so many failures and no success the trainer is what fails."""
_AGAIN = "the same command tries again"


@dataclass
class Trainings:
    """Trains what ``plan`` says in ``work``. ``folders``: of the jobs that are done; ``failed``:
    those that are not, and why."""

    plan: TrainerPlan
    work: Path
    folders: dict[Job, Path] = field(default_factory=dict)
    failed: dict[Job, JobError] = field(default_factory=dict)

    def train(self, workers: Backend, *, quiet: bool) -> None:
        """Do all that can be done; a training that fails is left out.

        Raises ``JobError`` where the head's training fails, or every one does.
        """
        self.folders = run_all(
            "training",
            self.plan.jobs(),
            self.work,
            workers,
            may_fail=self._may_fail,
            quiet=quiet,
        )

    def model(self, job: Job) -> Path:
        """The model folder of a job that is done."""
        return self.folders[job] / MODEL

    def models(self) -> dict[str, Path]:
        """Those of the runs that can be used, by name.

        Raises ``InputError`` for less than two, ``JobError`` where that is since some failed.
        """
        runs = self.plan.runs
        models = {n: self.model(run.job) for n, run in runs.items() if not self.lost(run.job)}
        if len(models) < 2:
            lost = [f"{name}: {why}" for name, run in runs.items() if (why := self.lost(run.job))]
            problem = f"fewer than two trainings can be used: {'; '.join(lost)}"
            raise JobError(problem, hint=_AGAIN) if self.failed else InputError(problem)
        return models

    def lost(self, job: Job) -> str:
        """Why a job's model cannot be used, "" where it can."""
        if job in self.folders:
            return left_out(self.folders[job])
        error = next(self.failed[one] for one in in_order([job]) if one in self.failed)
        return f"{error.message} ({error.hint}; {_AGAIN})"

    def collect(self, recipe: TrainerRecipe, root: Path, output: Path) -> SoupTrainings:
        """What results say of them."""
        plan = self.plan
        listed = [("head", "base", plan.head)] if plan.head is not None else []
        listed += [(name, "base", job) for name, job in plan.auxiliaries.items()]
        listed += [(name, run.init, run.job) for name, run in plan.runs.items()]
        trainings = tuple(
            SoupTraining(
                name=name,
                init=init,
                data=job.arguments["data"],
                hyperparameters=dict(job.arguments["hyperparameters"]),
                seconds=self._seconds(job),
                left_out=self.lost(job),
            )
            for name, init, job in listed
        )
        # Parents before children; what the jobs made says itself where it comes from.
        jobs = {"head": plan.head, **plan.auxiliaries}
        jobs |= {f"init {name}": job for name, job in plan.starts.items()}
        given = {"base": recipe.base}
        given |= {one.name: one.weights for one in recipe.auxiliaries if one.weights}
        starts = [RunModel(_source(source, root, output), name) for name, source in given.items()]
        starts += [
            RunModel(_source(self.model(job).absolute(), root, output), name)
            for name, job in jobs.items()
            if job is not None and not self.lost(job)
        ]
        notes = [note for folder in self.folders.values() for note in notes_of(folder)]
        return SoupTrainings(recipe.title, trainings, tuple(starts), tuple(dict.fromkeys(notes)))

    def _seconds(self, job: Job) -> float:
        if job not in self.folders:
            return 0.0
        return float(read_json(self.folders[job] / DONE, "a finished job")["seconds"])

    def _may_fail(self, job: Job, error: JobError) -> bool:
        """Whether the rest may go on without a job that failed."""
        runs = [run.job for run in self.plan.runs.values()]
        if job not in (*runs, *self.plan.auxiliaries.values()):
            return False
        self.failed[job] = error
        if len(self.failed) < _FIRST:
            return True
        if any((self.work / "jobs" / run.key / DONE).exists() for run in runs):
            return True
        first = next(iter(self.failed.values()))
        raise JobError(
            f"the first {len(self.failed)} trainings failed: {first.message}", hint=first.hint
        )


def _source(source: str | Path, root: Path, output: Path) -> str:
    """A path from ``output`` on, or a hub id as it is."""
    path = root / source
    return os.path.relpath(path, output.absolute()) if path.exists() else str(source)
