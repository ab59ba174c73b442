"""``stockpot recycle``: from a recipe to one model that generalises, and a report that says why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from stockpot.extras import require_wanted

if TYPE_CHECKING:
    from stockpot.recycling import Recycled


def recycle_command(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe, a YAML file, or - for stdin.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model, report and results.")
    ] = Path("recycled"),
    workers: Workers = Workers(),
    seed: Annotated[int | None, typer.Option(min=0, help="Replaces the recipe's seed.")] = None,
    changes: Changes = None,
    history: Annotated[
        Path | None,
        typer.Option(help="Append what one plain fine-tuning reached to this history store."),
    ] = None,
    history_name: Annotated[
        str | None, typer.Option(help="What the base is called there [default: its own name].")
    ] = None,
    registry: InRegistry = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Fine-tune from diverse weights in parallel, average, and compare with the alternatives.

    Run again after an interruption: finished jobs are not repeated.
    """
    from stockpot.recycling import load_recipe, plan_recipe, recycle

    extras = workers.extras()
    load_recipe(recipe, changes or ())
    require_wanted("torch", *extras, purpose="this recipe")
    if dry_run:
        labels = plan_recipe(
            recipe,
            seed=seed,
            skip_corrupt=skip_corrupt,
            changes=changes or (),
            remote=workers.backend == "ray",
        )
        out.data({"jobs": labels}, "\n".join(labels))
        return
    landing = Landing(registry)
    done = recycle(
        recipe,
        output,
        **workers.options(),
        seed=seed,
        skip_corrupt=skip_corrupt,
        changes=changes or (),
        overwrite=overwrite,
        quiet=out.silent,
    )
    landing.add(done.folder)
    show(out, done, landing.value)
    if history is not None:
        _append(out, history, done, history_name)
    landing.finish(out)
    out.say(done.summary())


def _append(out: Output, history: Path, done: Recycled, name: str | None) -> None:
    from stockpot.history import append_recycled

    found = append_recycled(history, done.results, name)
    if found is None:
        out.say("history: nothing appended, the recipe leaves out the protocol 'single'")
    else:
        out.say(f"history: {found[0]} on {found[1]}, {found[2]:.4f}, appended to {history}")


def show(out: Output, done: Recycled, more: Mapping[str, Any] | None = None) -> None:
    """Write the report beside the model and say what came out."""
    from stockpot.report import terminal_table, write_report

    report = done.folder / "report.html"
    write_report(done.results, report)
    out.data({**done.results.to_json(), **(more or {})}, terminal_table(done.results))
    out.say(f"report: {report}\nmodel:  {done.model}")
