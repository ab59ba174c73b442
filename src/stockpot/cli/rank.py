"""``stockpot rank``: which pretrained model to start from, how sure that is, what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.landing import Landing
from stockpot.cli.options import (
    AllowCode,
    Changes,
    DryRun,
    InRegistry,
    Overwrite,
    SkipCorrupt,
    Workers,
)
from stockpot.cli.output import Output
from stockpot.errors import InputError
from stockpot.yaml_lines import suggestion

if TYPE_CHECKING:
    from stockpot.ranking.schema import RankPlan


SHORTLIST = 30


def rank_command(
    task: Annotated[
        Path,
        typer.Argument(
            help="The task: a YAML file (- for stdin), a folder of images, a table of texts, or "
            ".npz.",
            show_default=False,
        ),
    ],
    zoo: Annotated[
        Path | None,
        typer.Option(
            help="The models: a YAML file, or a folder of models [default: those on this machine, "
            "and proposals].",
            show_default=False,
        ),
    ] = None,
    changes: Changes = None,
    max_parameters: Annotated[
        str | None, typer.Option(help="Without --zoo: at most so many, such as 110M.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="Without --zoo: a licence that will do; repeatable.")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Without --zoo: milliseconds an example here.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="A history store: what models did on other tasks.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time for real fine-tunings, such as 30m or 1h30m [default: none]."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Models to show.")] = 10,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave out this model of the zoo; repeatable.")
    ] = None,
    shortlist: Annotated[
        int, typer.Option(min=1, help="Models to run at most; history chooses them.")
    ] = SHORTLIST,
    select: Annotated[
        str,
        typer.Option(help="How the budget is spent: gain (one by one), or halving (stop early)."),
    ] = "gain",
    verify: Annotated[
        bool, typer.Option("--verify", help="Fine-tune all that was run; compare the orders.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Append real results to the history store.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Look at the first examples only (sample.first, 256)."),
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Weights that are not here may be fetched.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="posterior (all evidence), or fennec: the paper's, as it stands.")
    ] = "posterior",
    known: Annotated[
        list[Path] | None,
        typer.Option(help="With fennec: a task to learn from, as TASK; repeatable."),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="With fennec: the model of the zoo that looks at tasks.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report, recipe and results.")
    ] = Path("ranked"),
    workers: Workers = Workers(),
    registry: InRegistry = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Rank the models of a zoo for a task: history, transferability scores, real fine-tunings.

    Writes a report, and a recipe for `stockpot recycle` that starts from the winner. Run again
    after an interruption: what was computed is kept.
    """
    from stockpot.ranking.needs import check_packages

    check_packages(task, zoo, *workers.extras(), changes=changes or ())
    from stockpot.ranking.verb import plan_rank, rank

    if method != "posterior":
        others = {
            "history": history, "budget": budget, "without": without, "verify": verify,
            "append": append, "quick": quick, "max-parameters": max_parameters, "licence": licence,
            "max-ms": max_ms, "dry-run": dry_run, "registry": registry,
            "select": select != "gain", "shortlist": shortlist != SHORTLIST,
        }  # fmt: skip
        given = [name for name, value in others.items() if value]
        _fennec(method, given, task, zoo, known or (), proxy, output, changes or (), download, out)
        return
    if known or proxy:
        raise InputError("--known and --proxy are for --method fennec")
    if dry_run:
        plan = plan_rank(
            task,
            zoo,
            history=history,
            changes=changes or (),
            max_parameters=max_parameters,
            licences=licence or (),
            max_ms=max_ms,
            budget=budget,
            without=without or (),
            shortlist=shortlist,
            select=select,
            append=append,
            quick=quick,
            download=download,
            skip_corrupt=skip_corrupt,
        )
        out.data(plan.to_json(), _plan_text(plan))
        return
    landing = Landing(registry)
    done = rank(
        task,
        zoo,
        output,
        history=history,
        changes=changes or (),
        max_parameters=max_parameters,
        licences=licence or (),
        max_ms=max_ms,
        budget=budget,
        without=without or (),
        shortlist=shortlist,
        select=select,
        verify=verify,
        append=append,
        quick=quick,
        download=download,
        **workers.options(),
        skip_corrupt=skip_corrupt,
        overwrite=overwrite,
        quiet=out.silent,
    )
    from stockpot.report.ranking import terminal_ranking, write_ranking

    report = done.folder / "report.html"
    write_ranking(done.results, report)
    landing.add(done.folder)
    out.data({**done.results.to_json(), **landing.value}, terminal_ranking(done.results, top))
    if append:
        out.say(f"history: {done.appended} results appended to {history}")
    recipe = done.folder / "recipe.yaml"
    out.say(f"report: {report}")
    if done.results.proposals:
        asked = [str(task), *(f"--set={change}" for change in changes or ())]
        asked += [f"--history={history}"] if history else []
        asked += ["--zoo", str(output / "zoo.yaml"), "--download", "-o", f"{output}-more"]
        out.say(f"next:   stockpot rank {shlex.join(asked)}")
    if recipe.exists():
        out.say(f"next:   stockpot recycle {shlex.quote(str(recipe))}")
    landing.finish(out)


def _fennec(
    method: str,
    given: Sequence[str],
    task: Path,
    zoo: Path | None,
    known: Sequence[Path],
    proxy: str | None,
    output: Path,
    changes: Sequence[str],
    download: bool,
    out: Output,
) -> None:
    if method != "fennec":
        near = suggestion(method, ["posterior", "fennec"])
        raise InputError(f"method: got '{method}', expected posterior or fennec{near}")
    if given:
        raise InputError(f"--method fennec takes no {', '.join('--' + name for name in given)}")
    if zoo is None or proxy is None:
        raise InputError("--method fennec needs --zoo, and --proxy, a model of it")
    from stockpot.cli.inspect import table
    from stockpot.ranking.fennec import rank_fennec

    done = rank_fennec(
        task, zoo, known, proxy=proxy, output=output, changes=changes, download=download
    )
    rows = [[m.name, f"{m.score:.4f}", f"{m.latent:.4f}", f"{m.meta:.4f}"] for m in done.models]
    lines = [f"Start from {done.models[0].name}, says Fennec of {len(done.known)} known tasks.", ""]
    lines.append(table([["model", "score", "latent", "meta"], *rows]))
    lines += [f"not ranked: {each.model}: {each.reason}" for each in done.failed]
    out.data(done.to_json(), "\n".join(lines))
    out.say(f"next:   stockpot recycle {output / 'recipe.yaml'}")


def _plan_text(plan: RankPlan) -> str:
    lines = [
        f"{plan.task}: {plan.metric} on {plan.judged_by} examples",
        f"models: {plan.models} can be used, {len(plan.run)} will be run",
    ]
    lines += [f"  {name}" for name in plan.run]
    if plan.not_run:
        lines.append(f"ranked by history and metadata alone: {len(plan.not_run)}")
    lines += [f"cannot be used: {each.model}: {each.reason}" for each in plan.failed]
    if plan.proposals:
        lines.append(f"proposed: {', '.join(each.name for each in plan.proposals)}")
    if plan.history:
        rows, columns = plan.history
        lines.append(f"history: {rows} models x {columns} tasks")
    for name, value in plan.known.items():
        lines.append(f"known already: {name} {value:.4g}")
    lines += [f"note: {note}" for note in plan.notes]
    if plan.budget is not None:
        lines.append(f"fine-tunings: up to {plan.budget:.0f} s")
    return "\n".join(lines)
