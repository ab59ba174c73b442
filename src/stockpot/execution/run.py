"""Run jobs in the order of their needs; never run a finished one twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stockpot.errors import InputError, JobError, OutputError
from stockpot.execution.attempts import attempts, forget, settle
from stockpot.execution.job import Backend, Job, Outcome, Ticket, in_order
from stockpot.files import output_error, write_json
from stockpot.progress import progress
from stockpot.system import locked, sync

DONE = "done.json"
PLAN = "plan.json"


def run_jobs(
    jobs: Sequence[Job],
    workplace: Path,
    backend: Backend,
    *,
    on_finished: Callable[[Job, bool], None] = lambda job, reused: None,
    may_fail: Callable[[Job, JobError], bool] = lambda job, error: False,
) -> dict[Job, Path]:
    """Bring ``jobs`` and all they need into ``workplace/jobs/<key>`` and return their folders.

    What only finished jobs need is not made again. A job works in ``workplace/partial/<key>``,
    which gets its final name only when the job is finished and flushed to disk. After a crash, a
    kill or an interrupt the same call goes on where it stopped. ``workplace/plan.json`` lists the
    jobs of the latest call, for those who watch.

    Args:
        on_finished: called with each job, and whether it had been finished before.
        may_fail: asked about a job that failed. Where it says so the rest goes on: the job, and
            all that needs it, has no folder then, and the next call tries it again.

    Raises:
        JobError: a job failed; what did not depend on it may have finished. Names the log.
        InputError: a job found the user's input to be wrong.
        OutputError: the workplace cannot be written, or another run is using it.
    """
    order = list(in_order(list(jobs)))
    folders = {job: workplace / "jobs" / job.key for job in order}
    needed = set(in_order(list(jobs), lambda job: (folders[job] / DONE).exists()))
    with _locked(workplace):
        plan = [{"key": job.key, "label": job.label, "weight": job.weight} for job in order]
        write_json(workplace / PLAN, plan)
        pending: dict[Job, set[Job]] = {}
        for job in order:
            if (folders[job] / DONE).exists():
                on_finished(job, True)
            elif job in needed:
                pending[job] = {need for need in job.inputs.values() if need in pending}
        by_key = {job.key: job for job in pending}
        running: set[str] = set()
        try:
            while pending or running:
                for job in [job for job, needs in pending.items() if not needs]:
                    if len(running) >= backend.workers:
                        break
                    del pending[job]
                    running.add(job.key)
                    backend.submit(_ticket(job, folders, workplace))
                outcome = backend.wait()
                running.discard(outcome.key)
                job = by_key[outcome.key]
                if outcome.error:
                    failure = _failure(job, outcome, workplace)
                    if not (isinstance(failure, JobError) and may_fail(job, failure)):
                        raise failure
                    _give_up(job, pending, folders)
                    continue
                _finish(job, outcome, workplace, folders[job])
                on_finished(job, False)
                for needs in pending.values():
                    needs.discard(job)
        finally:
            backend.close()
    return folders


def _give_up(failed: Job, pending: dict[Job, set[Job]], folders: dict[Job, Path]) -> None:
    """Take out a job and all that needs it."""
    lost = {failed}
    for job in list(pending):  # inputs stand before what needs them
        if not lost.isdisjoint(job.inputs.values()):
            lost.add(job)
            del pending[job]
    for job in lost:
        del folders[job]


def _ticket(job: Job, folders: dict[Job, Path], workplace: Path) -> Ticket:
    folder = workplace / "partial" / job.key
    try:
        settle(folder)
        with (workplace / "log.jsonl").open("a", encoding="utf-8") as log:
            entry = {"event": "start", "key": job.key, "label": job.label}
            log.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        raise output_error(folder, error) from error
    inputs = {name: str(folders[need].resolve()) for name, need in job.inputs.items()}
    arguments = {**job.arguments, **job.places}
    return Ticket(job.key, job.function, arguments, inputs, str(folder.resolve()), job.threads)


def _finish(job: Job, outcome: Outcome, workplace: Path, folder: Path) -> None:
    partial = _worked_in(job, outcome, workplace)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (partial / "error.log").unlink(missing_ok=True)  # of an earlier attempt
        for file in sorted(partial.rglob("*")):
            sync(file)
        write_json(
            partial / DONE,
            {"function": job.function, "label": job.label, "seconds": round(outcome.seconds, 3)},
        )
        partial.rename(folder)
        sync(folder.parent)
        forget(workplace / "partial" / job.key)
    except OSError as error:
        raise output_error(folder, error) from error


def _failure(job: Job, outcome: Outcome, workplace: Path) -> Exception:
    log = _worked_in(job, outcome, workplace) / "error.log"
    if outcome.user_error:
        return InputError(f"{job.label or job.function}: {outcome.error}")
    log.write_text(outcome.traceback or outcome.error, encoding="utf-8")
    return JobError(f"job '{job.label or job.function}' failed: {outcome.error}", hint=f"see {log}")


def _worked_in(job: Job, outcome: Outcome, workplace: Path) -> Path:
    """Folder of the attempt that answered; of the last one, where none did."""
    if outcome.folder:
        return Path(outcome.folder)
    folder = workplace / "partial" / job.key
    return next(reversed(attempts(folder)), folder)


def run_all(
    words: str,
    jobs: Sequence[Job],
    workplace: Path,
    backend: Backend,
    *,
    may_fail: Callable[[Job, JobError], bool] = lambda job, error: False,
    quiet: bool = False,
) -> dict[Job, Path]:
    """:func:`run_jobs` with a progress bar called ``words``."""
    total = sum(job.weight for job in in_order(list(jobs)))
    with progress(words, total, quiet=quiet) as advance:
        return run_jobs(
            jobs,
            workplace,
            backend,
            on_finished=lambda job, reused: advance(job.weight, f"{job.label:.44}"),
            may_fail=may_fail,
        )


@contextmanager
def _locked(workplace: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            workplace.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(workplace / ".lock", wait=0))
        except BlockingIOError as error:
            raise OutputError(
                f"another run is using {workplace}", hint="wait for it, or choose another folder"
            ) from error
        except OSError as error:
            raise output_error(workplace, error) from error
        yield
