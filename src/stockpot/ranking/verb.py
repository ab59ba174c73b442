"""The verb: which model to start from, how sure that is, and what to try next.

``prepare -> recall by history -> score a shortlist -> posterior -> fine-tune some -> posterior``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from stockpot.errors import InputError
from stockpot.execution import Backend, make_backend
from stockpot.files import write_json
from stockpot.outputs import check_output, recipe_digest
from stockpot.progress import progress
from stockpot.provenance import write_models
from stockpot.ranking.append import append_results, past_scores
from stockpot.ranking.beliefs import learn
from stockpot.ranking.features import Extractor, Failed
from stockpot.ranking.handover import kept_models, write_recipe
from stockpot.ranking.history import Store, Table
from stockpot.ranking.look import show_look
from stockpot.ranking.prepare import Prepared, prepare_task, task_name
from stockpot.ranking.propose import Proposed, make_zoo, propose, write_zoo
from stockpot.ranking.request import Request, load_request, parse_request
from stockpot.ranking.results import collect, unranked
from stockpot.ranking.schema import ProposedModel, RankPlan, RankResults
from stockpot.ranking.scores import check_names
from stockpot.ranking.scoring import score_models
from stockpot.ranking.spend import fine_tune, spend
from stockpot.ranking.spread import elsewhere, spread_features
from stockpot.ranking.starter import Limits, count
from stockpot.ranking.state import SHORTLIST, RankingRun, RankOptions, seconds
from stockpot.ranking.zoo import Zoo, load_zoo, parse_zoo
from stockpot.tasks.specs import data_paths

Question = str | Path | Mapping[str, Any] | Request
Models = str | Path | Mapping[str, Any] | Zoo


@dataclass(frozen=True)
class Ranked:
    """What a ranking left behind.

    ``folder`` holds ``results.json`` and ``recipe.yaml``; ``work/`` is what a rerun reuses.
    ``results``: the content of ``results.json``; ``appended``: how many went into the history.
    """

    folder: Path
    results: RankResults
    appended: int = 0


def rank(
    task: Question,
    zoo: Models | None = None,
    output: str | Path = "ranked",
    *,
    history: str | Path | None = None,
    changes: Sequence[str] = (),
    max_parameters: float | str | None = None,
    licences: Sequence[str] = (),
    max_ms: float | None = None,
    budget: float | str | None = None,
    without: Sequence[str] = (),
    shortlist: int = SHORTLIST,
    select: str = "gain",
    verify: bool = False,
    append: bool = False,
    quick: bool = False,
    download: bool = False,
    backend: str | Backend = "local",
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_job: float | None = None,
    root: str | Path | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Ranked:
    """Rank the models of a zoo for a task.

    Args:
        task: a YAML file, a folder of images, a table or ``.npz`` file (see ``load_request``), or
            the same as plain data.
        zoo: a YAML file or its content, or a folder of models; None: models that lie on this
            machine are run, and public ones are proposed (see ``starter``).
        output: folder for results; the same call goes on after an interruption.
        history: a history store; results on this very task are taken as known. None: without a zoo
            that of the starter kit.
        changes: ``"training.steps=100"`` and the like, put over a task that is a file.
        max_parameters, licences, max_ms: without a zoo, which models are wanted: at most so many
            parameters (``"110M"``), one of these licences, at most so many milliseconds an example.
        budget: time for fine-tuning in all, those of earlier runs included, in seconds or as
            ``"1h30m"``; None: none.
        without: models of the zoo to leave out, by name.
        shortlist: how many models are run at most; the rest is ranked by history and metadata.
        select: ``"gain"`` fine-tunes whole models one after the other, each time the one worth most
            per second; ``"halving"`` trains many a little and the better half on.
        verify: fine-tune all that was run afterwards, and compare orders.
        append: append the real results to the history store.
        quick: look at the first examples only (``sample.first``), whether that settles it or not.
        download: weights that are not here may be fetched.
        backend, jobs, address, gpus_per_job: where fine-tunings run and how many at a time, see
            :func:`.execution.make_backend`.
        root: where relative paths start, for a task or zoo given as data.
        skip_corrupt: leave out unreadable images instead of refusing.
        overwrite: replace the results of another task or zoo in ``output``.
        quiet: no progress bar.

    Raises:
        InputError: task, zoo or history are wrong; found before anything runs.
        OutputError: the output cannot be written, or holds the results of another task or zoo.
    """
    if backend == "ray" or address is not None or gpus_per_job is not None:
        backend = make_backend(backend, jobs, address=address, gpus_per_job=gpus_per_job)
    options = RankOptions(
        budget=seconds(budget),
        select=select,
        shortlist=shortlist,
        without=tuple(without),
        limits=Limits(count(max_parameters), tuple(licences), max_ms),
        download=download,
        skip_corrupt=skip_corrupt,
        verify=verify,
        overwrite=overwrite,
        append=append,
        jobs=jobs,
        backend=backend,
        quick=quick,
        quiet=quiet,
    )
    asked = _read(task, zoo, options, root, changes)
    return _rank(asked, Path(output), history, options)


def _rank(
    asked: _Asked,
    output: Path,
    history: str | Path | None,
    options: RankOptions,
) -> Ranked:
    begun = time.perf_counter()
    entries = {name: one.model_dump(mode="json") for name, one in asked.zoo.entries.items()}
    identity = recipe_digest(asked.request.model_dump(mode="json"), entries)
    check_output(
        output,
        "results.json",
        identity,
        overwrite=options.overwrite,
        writes=("recipe.yaml", "models.json", "zoo.yaml"),
        data=data_paths(asked.request.task, asked.root),
    )
    run = _open(asked, output, history, options)
    run = _score(run, _shortlist(run))
    before = run.believe()
    run = spend(run)
    if options.verify:
        run = fine_tune(run, list(run.tunable), "verifying")
    after = run.believe()
    results = collect(run, before, after, begun, identity, _proposals(asked, run))
    write_json(output / "results.json", results.to_json())
    winner = next((name for name in after.order if name in run.tunable), None)
    if winner is not None:
        write_recipe(output / "recipe.yaml", run.prepared, winner, run.tunable[winner])
    if asked.proposed is not None:
        write_zoo(output / "zoo.yaml", asked.proposed, results.proposals)
    best_last = [run.tuned[name] for name in after.order[::-1] if name in run.tuned]
    write_models(output, kept_models(best_last, run.prepared.title, output))
    appended = 0
    if options.append and history is not None:
        appended = append_results(history, results)
    return Ranked(output, results, appended)


def plan_rank(
    task: Question,
    zoo: Models | None = None,
    *,
    history: str | Path | None = None,
    changes: Sequence[str] = (),
    max_parameters: float | str | None = None,
    licences: Sequence[str] = (),
    max_ms: float | None = None,
    budget: float | str | None = None,
    without: Sequence[str] = (),
    shortlist: int = SHORTLIST,
    select: str = "gain",
    append: bool = False,
    quick: bool = False,
    download: bool = False,
    root: str | Path | None = None,
    skip_corrupt: bool = False,
) -> RankPlan:
    """Check everything as :func:`rank` does and say what it would do; writes nothing."""
    options = RankOptions(
        budget=seconds(budget),
        select=select,
        shortlist=shortlist,
        without=tuple(without),
        limits=Limits(count(max_parameters), tuple(licences), max_ms),
        append=append,
        quick=quick,
        download=download,
        skip_corrupt=skip_corrupt,
    )
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        asked = _read(task, zoo, options, root, changes)
        run = _open(asked, Path(scratch), history, options)
        wanted = _shortlist(run)
        return RankPlan(
            task=run.prepared.title,
            metric=run.prepared.metric,
            judged_by=run.prepared.judged,
            models=len(run.prepared.entries),
            run=tuple(wanted),
            not_run=tuple(name for name in run.prepared.entries if name not in wanted),
            failed=unranked(run.failed),
            sample=run.sample.model_dump(),
            history=run.table and (len(run.table.models), len(run.table.tasks)),
            known=run.known,
            budget=options.budget,
            notes=run.notes,
            proposals=_proposals(asked, run),
        )


@dataclass(frozen=True)
class _Asked:
    """Task and zoo as they were read; relative paths of the task start at ``root``. ``proposed``:
    where the zoo was made from what is at hand.
    """

    request: Request
    root: Path
    zoo: Zoo
    proposed: Proposed | None = None


def _read(
    task: Question,
    zoo: Models | None,
    options: RankOptions,
    root: str | Path | None,
    changes: Sequence[str],
) -> _Asked:
    base = Path(root) if root is not None else Path.cwd()
    if isinstance(task, str | Path):
        request, base_task = load_request(Path(task), changes)
    else:
        if changes:
            raise InputError("changes are for a task that is a file; change the data itself")
        request = task if isinstance(task, Request) else parse_request(task)
        base_task = base.resolve()
    check_names(request.scores or ())
    if zoo is None:
        proposed = make_zoo(
            request,
            base_task,
            options.limits,
            download=options.download,
            without=options.without,
        )
        return _Asked(request, base_task, proposed.zoo, proposed)
    if options.limits != Limits():
        raise InputError(
            "max_parameters, licence and max_ms are for models that stockpot proposes",
            hint="leave out the zoo, or leave them out",
        )
    if isinstance(zoo, str | Path):
        zoo = load_zoo(Path(zoo))
    elif not isinstance(zoo, Zoo):
        zoo = parse_zoo(zoo, root=base)
    return _Asked(request, base_task, zoo.without(options.without))


def _open(
    asked: _Asked, output: Path, history: str | Path | None, options: RankOptions
) -> RankingRun:
    request, zoo = asked.request, asked.zoo
    if options.append and history is None:
        raise InputError("append needs a history", hint="name the store to append to")
    table = _read_history(history, append=options.append)
    left_out: tuple[Failed, ...] = ()
    if asked.proposed is not None:
        left_out = asked.proposed.left_out
        if table is None:
            table = asked.proposed.kit.table
    work = output / "work"
    prepared = prepare_task(
        request,
        asked.root,
        zoo,
        cache=(work / "cache").resolve(),
        skip_corrupt=options.skip_corrupt,
        download=options.download,
    )
    table, known = _own_column(table, task_name(prepared), prepared)
    past = past_scores(history, table) if history is not None and table is not None else {}
    extractor = Extractor(
        prepared.task,
        prepared.order,
        work / "features",
        zoo.root,
        keep=request.sample.keep,
        download=options.download,
    )
    facts = {name: entry.metadata for name, entry in prepared.entries.items()}
    learnt = cache(lambda: learn(list(prepared.entries), table, facts, past))
    failed = (*prepared.failed, *left_out)
    return RankingRun(prepared, options, table, learnt, known, extractor, failed=failed)


def _proposals(asked: _Asked, run: RankingRun) -> tuple[ProposedModel, ...]:
    if asked.proposed is None:
        return ()
    return propose(asked.proposed, run.prepared.task, list(run.prepared.entries))


def _read_history(history: str | Path | None, *, append: bool) -> Table | None:
    if history is None or (append and not Path(history).exists()):
        return None  # made when the results are appended
    with Store.open(history, create=False) as store:
        return store.table() if store.sources() else None


def _own_column(
    table: Table | None, name: str, prepared: Prepared
) -> tuple[Table | None, dict[str, float]]:
    """Results on this very task are anchors, not history."""
    if table is None or name not in table.column:
        return table, {}
    column = table.values[:, table.column[name]]
    known = {
        model: float(column[row])
        for model, row in table.row.items()
        if model in prepared.entries and column[row] == column[row]
    }
    rest = [task for task in table.tasks if task != name]
    return (table.select(tasks=rest) if rest else None), known


def _shortlist(run: RankingRun) -> list[str]:
    """The models to run: the best by what is known without running any, in that order."""
    entries = run.prepared.entries
    if len(entries) <= run.options.shortlist:
        return list(entries)
    return run.believe().order[: run.options.shortlist]


def _score(run: RankingRun, names: list[str]) -> RankingRun:
    if not names:
        return run  # nothing is at hand: models are proposed alone
    entries = {name: run.prepared.entries[name] for name in names}
    request = run.prepared.request
    with progress("features", len(entries), quiet=run.options.quiet) as advance:
        seen: set[str] = set()

        def on_model(name: str) -> None:
            advance(0 if name in seen else 1, f"{name:.44}")
            seen.add(name)

        def ahead(working: list[str], count: int) -> list[Failed]:
            backend = make_backend(run.options.backend, run.workers)
            if not elsewhere(backend):
                return []
            return spread_features(
                run.prepared,
                run.extractor,
                working,
                count,
                backend,
                skip_corrupt=run.options.skip_corrupt,
                on_model=on_model,
            )

        scored = score_models(
            entries,
            run.extractor,
            run.sample,
            names=request.scores,
            seed=request.seed,
            on_model=on_model,
            ahead=ahead,
            on_first=lambda first: show_look(run, first),
        )
    slow = run.options.limits.too_slow(scored.extracted)
    run = replace(run, scored=scored, failed=(*run.failed, *scored.failed, *slow))
    if not scored.extracted:
        first = run.failed[0]
        raise InputError(f"no model could be run; '{first.name}': {first.reason}")
    return run
