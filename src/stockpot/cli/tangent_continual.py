"""``stockpot tangent continual``: a protocol of continual learning, all methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.options import AllowCode, Changes, DryRun, Overwrite, Workers
from stockpot.cli.output import Output
from stockpot.extras import require_wanted


def continual_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report and results.")
    ] = Path("continual"),
    workers: Workers = Workers(),
    changes: Changes = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The tables as Markdown on stdout.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Tasks one after another: components, statistics, soups, ensembles and joint training.

    Run again after an interruption: finished jobs are not repeated.
    """
    from stockpot.continual.recipe import load_recipe

    extras = workers.extras()
    load_recipe(recipe, changes or ())
    require_wanted("torch", *extras, purpose="this recipe")
    from stockpot.continual import compare, plan_recipe

    if dry_run:
        labels = plan_recipe(recipe, changes=changes or ())
        out.data({"jobs": labels}, "\n".join(labels))
        return
    done = compare(
        recipe,
        output,
        **workers.options(),
        changes=changes or (),
        overwrite=overwrite,
        quiet=out.silent,
    )
    from stockpot.report.continual import markdown_tables, terminal_tables, write_continual

    report = write_continual(done.results, done.folder / "report.html")
    tables = markdown_tables if markdown else terminal_tables
    out.data(done.results.to_json(), tables(done.results))
    for setting in done.results.settings:
        for warning in setting.warnings:
            out.say(f"warning: {setting.name}: {warning}")
    out.say(f"report: {report}")
