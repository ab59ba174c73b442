"""How a time budget is spent on real fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stockpot.errors import InputError, JobError
from stockpot.execution import Job, make_backend
from stockpot.progress import progress
from stockpot.ranking.features import Failed
from stockpot.ranking.halving import successive_halving
from stockpot.ranking.state import RankingRun
from stockpot.ranking.tuning import Tuned

_RECALLED = 16


def spend(run: RankingRun) -> RankingRun:
    """Fine-tune models until the budget is used up: the run with what was done, or failed.

    Time is that of the fine-tunings, whether they were done now or by an earlier call, so a call
    that was interrupted comes to the same end.
    """
    if run.options.budget is None:
        return run
    if run.options.select == "halving":
        return _by_halving(run, run.options.budget)
    return _by_gain(run, run.options.budget)


def fine_tune(run: RankingRun, names: Sequence[str], words: str) -> RankingRun:
    """Fine-tune these models to the end, as many at a time as there are workers."""
    wanted = [name for name in names if name not in run.tuned]
    with progress(words, len(wanted), quiet=run.options.quiet) as advance:
        for start in range(0, len(wanted), run.workers):
            part = wanted[start : start + run.workers]
            run = run.after(*attempt(run, {name: run.tuner.job(name) for name in part}))
            advance(len(part))
    return run


def attempt(run: RankingRun, jobs: Mapping[str, Job]) -> tuple[list[Tuned], list[Failed]]:
    """Run a job per model; where one fails, the others are still done."""
    tuner, done, failed = run.tuner, list[Tuned](), list[Failed]()
    try:
        return tuner.run_jobs(jobs, make_backend(run.options.backend, run.workers)), failed
    except (JobError, InputError):
        pass
    for name, job in jobs.items():
        try:
            done += tuner.run_jobs({name: job}, make_backend(run.options.backend, 1))
        except (JobError, InputError) as error:
            failed.append(Failed(name, error.message.splitlines()[0]))
    return done, failed


def _by_gain(run: RankingRun, budget: float) -> RankingRun:
    """One round after another: the models whose fine-tuning is worth most per second."""
    spent = 0.0
    with progress("fine-tuning", budget, quiet=run.options.quiet) as advance:
        while True:
            alive = set(run.alive)
            affordable = {
                name: cost
                for name, cost in run.costs.items()
                if name in alive
                and name not in run.tuned
                and name not in run.known
                and spent + cost / run.workers <= budget
            }
            if not affordable:
                return run
            chosen = run.believe().next(affordable, run.workers)
            advance(0, f"fine-tune {', '.join(chosen):.34}")
            done, failed = attempt(run, {name: run.tuner.job(name) for name in chosen})
            run = run.after(done, failed)
            seconds = sum(one.seconds for one in done) / run.workers
            spent += seconds
            advance(seconds)


def _by_halving(run: RankingRun, budget: float) -> RankingRun:
    """Recall the best by all evidence so far, train them a little, and the better half on."""
    tuner, costs = run.tuner, run.costs
    models = [name for name in run.believe().order if name in costs][:_RECALLED]
    last: dict[str, Job] = {}
    spent, trained = 0.0, 0

    def train(names: Sequence[str], until: int) -> dict[str, float]:
        nonlocal run, spent, trained
        jobs = {name: tuner.job(name, until, last.get(name)) for name in names}
        done, failed = attempt(run, jobs)
        run, trained = run.after(done, failed), until
        spent += sum(one.seconds for one in done) / run.workers
        last.update({one.model: jobs[one.model] for one in done})
        values = {one.model: one.value for one in done}
        return {name: values.get(name, float("-inf")) for name in names}

    def afford(names: Sequence[str], until: int) -> bool:
        share = (until - trained) / tuner.steps
        return spent + share * sum(costs[name] for name in names) / run.workers <= budget

    with progress("halving", 1, quiet=run.options.quiet) as advance:
        rungs = successive_halving(models, train, tuner.steps, afford=afford)
        advance()
    return replace(run, rungs=tuple(rungs))
