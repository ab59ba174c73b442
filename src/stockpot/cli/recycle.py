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
from stockpot.errors import InputError
from stockpot.extras import require_wanted
from stockpot.yaml_lines import load_with_lines

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
    extras = workers.extras()
    common: dict[str, Any] = {"seed": seed, "changes": changes or ()}
    if _has_trainer(recipe):
        if history is not None or history_name is not None or skip_corrupt:
            raise InputError(
                "--history, --history-name and --skip-corrupt are for stockpot's own training"
            )
        more = {} if dry_run else {**workers.options(), "overwrite": overwrite}
        _with_trainer(out, recipe, None if dry_run else output, registry, {**common, **more})
        return
    from stockpot.recycling import load_recipe, plan_recipe, recycle

    load_recipe(recipe, changes or ())
    require_wanted("torch", *extras, purpose="this recipe")
    common["skip_corrupt"] = skip_corrupt
    if dry_run:
        labels = plan_recipe(recipe, **common, remote=workers.backend == "ray")
        out.data({"jobs": labels}, "\n".join(labels))
        return
    landing = Landing(registry)
    options = {**workers.options(), **common}
    done = recycle(recipe, output, **options, overwrite=overwrite, quiet=out.silent)
    landing.add(done.folder)
    show(out, done, landing.value)
    if history is not None:
        _append(out, history, done, history_name)
    landing.finish(out)
    out.say(done.summary())


def _with_trainer(
    out: Output,
    recipe: Path,
    output: Path | None,
    registry: str | None,
    options: Mapping[str, Any],
) -> None:
    """A recipe that brings a trainer of its own; without an output only its plan."""
    from stockpot.cli.soup import show_soup
    from stockpot.trainers import plan_trainings, recycle_with

    require_wanted("torch", purpose="this recipe")
    if output is None:
        labels = plan_trainings(recipe, **options)
        out.data({"jobs": labels}, "\n".join(labels))
        return
    landing = Landing(registry)
    show_soup(out, recycle_with(recipe, output, quiet=out.silent, **options), landing)


def _has_trainer(recipe: Path) -> bool:
    """Whether a recipe brings a trainer of its own."""
    value, _ = load_with_lines(recipe)
    return isinstance(value, Mapping) and isinstance(value.get("trainer"), Mapping)


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
