"""How a time budget is spent on real fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stockpot.errors import InputError, JobError
from stockpot.execution import Job, make_backend
from stockpot.progress import progress
from stockpot.ranking.features import Failed
from stockpot.ranking.halving import successive_halving
from stockpot.ranking.state import RankingRun
from stockpot.ranking.tuning import Tuned, Tuner

_RECALLED = 16


def spend(run: RankingRun) -> None:
    """Fine-tune models until the budget is used up; adds to ``run.tuned``.

    Time is that of the fine-tunings, whether they were done now or by an earlier call, so a call
    that was interrupted comes to the same end. A model that cannot be trained gets its line in
    ``run.failed``.
    """
    if run.options.budget is None:
        return
    if run.options.select == "halving":
        _by_halving(run, run.options.budget)
    else:
        _by_gain(run, run.options.budget)


def fine_tune(run: RankingRun, names: Sequence[str], words: str) -> None:
    """Fine-tune these models to the end, as many at a time as there are workers."""
    tuner = run.tuner()
    wanted = [name for name in names if name not in run.tuned]
    with progress(words, len(wanted), quiet=run.options.quiet) as advance:
        for start in range(0, len(wanted), run.workers):
            part = wanted[start : start + run.workers]
            done = attempt(run, tuner, {name: tuner.job(name) for name in part})
            run.tuned |= {one.model: one for one in done}
            advance(len(part))


def attempt(run: RankingRun, tuner: Tuner, jobs: Mapping[str, Job]) -> list[Tuned]:
    """Run a job per model; where one fails, the others are still done, and it is noted."""
    try:
        return tuner.run_jobs(jobs, make_backend(run.options.backend, run.workers))
    except (JobError, InputError):
        found = []
    for name, job in jobs.items():
        try:
            found += tuner.run_jobs({name: job}, make_backend(run.options.backend, 1))
        except (JobError, InputError) as error:
            run.failed.append(Failed(name, error.message.splitlines()[0]))
    return found


def _by_gain(run: RankingRun, budget: float) -> None:
    """One round after another: the models whose fine-tuning is worth most per second."""
    tuner, spent = run.tuner(), 0.0
    with progress("fine-tuning", budget, quiet=run.options.quiet) as advance:
        while True:
            alive, costs = set(run.alive), run.costs(tuner)
            affordable = {
                name: cost
                for name, cost in costs.items()
                if name in alive
                and name not in run.tuned
                and name not in run.known
                and spent + cost / run.workers <= budget
            }
            if not affordable:
                return
            chosen = run.believe().next(affordable, run.workers)
            advance(0, f"fine-tune {', '.join(chosen):.34}")
            done = attempt(run, tuner, {name: tuner.job(name) for name in chosen})
            run.tuned |= {one.model: one for one in done}
            seconds = sum(one.seconds for one in done) / run.workers
            spent += seconds
            advance(seconds)


def _by_halving(run: RankingRun, budget: float) -> None:
    """Recall the best by all evidence so far, train them a little, and the better half on."""
    tuner, costs = run.tuner(), run.costs(run.tuner())
    models = [name for name in run.believe().order if name in costs][:_RECALLED]
    last: dict[str, Job] = {}
    spent = 0.0

    def train(names: Sequence[str], until: int) -> dict[str, float]:
        nonlocal spent
        jobs = {name: tuner.job(name, until, last.get(name)) for name in names}
        done = attempt(run, tuner, jobs)
        spent += sum(one.seconds for one in done) / run.workers
        for one in done:
            last[one.model] = jobs[one.model]
            if one.whole:
                run.tuned[one.model] = one
        found = {one.model: one.value for one in done}
        return {name: found.get(name, float("-inf")) for name in names}

    def afford(names: Sequence[str], until: int) -> bool:
        earlier = run.rungs[-1].steps if run.rungs else 0
        share = (until - earlier) / tuner.steps
        return spent + share * sum(costs[name] for name in names) / run.workers <= budget

    with progress("halving", 1, quiet=run.options.quiet) as advance:
        for rung in successive_halving(models, train, tuner.steps, afford=afford):
            run.rungs.append(rung)
        advance()
