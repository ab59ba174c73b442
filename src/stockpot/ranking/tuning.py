"""Really fine-tuning some models: what it will cost, the jobs, and what they found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.execution import Backend, Job, run_jobs
from stockpot.execution.arguments import backbone_argument
from stockpot.execution.run import DONE
from stockpot.ranking.request import Request
from stockpot.ranking.schema import TunedResult
from stockpot.ranking.zoo import ModelEntry
from stockpot.reading import read_json
from stockpot.tasks import Split, Task

_JOB = "stockpot.ranking.jobs:fine_tune"
# A training step costs about a forward pass and two backward ones per example, and the optimizer.
_BACKWARD = 3.5
_RATES = {"transformers": 5e-5}
_RATE = 1e-4


class Tuned(TunedResult):
    """A fine-tuning that was done; ``folder`` is that of the job, which keeps the model of a whole
    one.
    """

    folder: Path | None = None


class Tuner:
    """Fine-tunes models of a zoo on one task, as resumable jobs in ``workplace``.

    A fine-tuning is named by everything that determines it, so asking again costs nothing, and one
    that was stopped early goes on where it stopped.
    """

    def __init__(
        self,
        request: Request,
        task: Task,
        split: Split,
        entries: Mapping[str, ModelEntry],
        fingerprints: Mapping[str, str],
        *,
        root: Path,
        zoo: Path,
        workplace: Path,
        cache: Path,
        skip_corrupt: bool = False,
    ) -> None:
        self.request, self.task, self.split = request, task, split
        self.entries, self.fingerprints = entries, fingerprints
        self.workplace = workplace
        self.places = {"root": str(root), "zoo": str(zoo), "cache": str(cache)}
        self.skip_corrupt = skip_corrupt
        self.steps = request.training.steps

    def job(self, model: str, until: int | None = None, before: Job | None = None) -> Job:
        """The job that trains ``model`` to step ``until`` (default: the last)."""
        entry, training = self.entries[model], self.request.training
        until = until or self.steps
        rate = entry.learning_rate or training.learning_rate or _RATES.get(entry.kind, _RATE)
        settings = training.model_dump(exclude={"augmentation"})
        arguments = {
            **self.request.rows_of(self.task.fingerprint, skip_corrupt=self.skip_corrupt),
            "backbone": backbone_argument(entry.spec, self.fingerprints[model]),
            "hyperparameters": {
                **settings,
                "learning_rate": rate,
                "evaluate_every": max(1, self.steps // 3),
            },
            "augmentation": training.augmentation,
            "seed": self.request.seed,
            "until": until,
        }
        return Job(
            _JOB,
            arguments,
            {} if before is None else {"before": before},
            places=self.places,
            label=f"fine-tune {model}" + ("" if until == self.steps else f" to step {until}"),
            threads=self.request.threads,
            weight=until,
        )

    def estimate(self, facts: Mapping[str, Any], steps: int | None = None) -> float | None:
        """Seconds that fine-tuning will take, from the time of a forward pass; None if unknown."""
        forward = facts.get("seconds_per_example")
        if forward is None:
            return None
        steps = steps or self.steps
        train = sum(map(len, self.split.train.values()))
        judged = sum(map(len, (self.split.test or self.split.validation).values()))
        seen = steps * self.request.training.batch_size * len(self.split.train)
        return float(forward) * (train + 3 * judged + _BACKWARD * seen)

    def done(self, models: Iterable[str]) -> list[Tuned]:
        """Whole fine-tunings that an earlier run has left, in the order of ``models``."""
        found = []
        for model in models:
            folder = self.workplace / "jobs" / self.job(model).key
            if (folder / DONE).exists():
                found.append(self._read(model, folder, reused=True))
        return found

    def run(self, models: Sequence[str], backend: Backend) -> list[Tuned]:
        """Fine-tune ``models`` to the end. Raises ``JobError`` where one fails."""
        return self.run_jobs({model: self.job(model) for model in models}, backend)

    def run_jobs(self, jobs: Mapping[str, Job], backend: Backend) -> list[Tuned]:
        """Run one job per model and read what they found."""
        reused: dict[Job, bool] = {}
        folders = run_jobs(
            list(jobs.values()),
            self.workplace,
            backend,
            on_finished=lambda job, old: reused.__setitem__(job, old),
        )
        return [self._read(model, folders[job], reused[job]) for model, job in jobs.items()]

    def _read(self, model: str, folder: Path, reused: bool) -> Tuned:
        metrics = read_json(folder / "metrics.json")
        done = read_json(folder / DONE)
        return Tuned(
            model=model,
            value=metrics["value"],
            probe=metrics["probe"],
            examples=metrics["examples"],
            steps=metrics["steps"],
            of=self.steps,
            seconds=float(done["seconds"]),
            reused=reused,
            folder=folder,
        )
