"""``stockpot soup``: existing checkpoints in, one model out, judged by an evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.landing import Landing
from stockpot.cli.options import AllowCode, DryRun, InRegistry, Json, Overwrite, Quiet
from stockpot.cli.output import Output

if TYPE_CHECKING:
    from stockpot.soups import Souped

_Models = typer.Argument(help="Two or more models: folders, files, hub ids.", show_default=False)
_Evaluate = typer.Option(
    "--evaluate", "-e", help="YAML file that says how a model is scored.", show_default=False
)
_Base = typer.Option("--base", "-b", help="The model that all were fine-tuned from.")
_Output = typer.Option("--output", "-o", help="Folder for model, report and results.")
_Budget = typer.Option(
    help="So many evaluations, such as 60, or so long, such as 2h [default: 5 a model, 30 at least]"
)
_Search = typer.Option(help="How coefficients are searched: cmaes, optuna or none.")
_Methods = typer.Option(
    "--method", "-m", help="A merge method whose numbers are searched, too, such as ties."
)
_Groups = typer.Option(min=1, help="Groups of layers with coefficients of their own.")
_Gain = typer.Option(min=0.0, help="Stop where ten generations won less than this.")
_Judge = typer.Option(min=1, max=9, help="Of ten rows, how many only judge.")
_Racing = typer.Option("--racing/--no-racing", help="Drop hopeless models on a few rows.")
_Controls = typer.Option(help="none; one: shuffled differences; equal: searches at equal cost.")
_Seed = typer.Option(min=0, help="Of split, search and controls.")
_Cache = typer.Option(help="Folder of measured scores, shared with other runs.")
_Force = typer.Option("--force", help="Take models that have no ancestor in common.")


def soup_command(
    checkpoints: Annotated[list[str], _Models],
    evaluate: Annotated[Path, _Evaluate],
    base: Annotated[str | None, _Base] = None,
    output: Annotated[Path, _Output] = Path("soup"),
    budget: Annotated[str | None, _Budget] = None,
    search: Annotated[str, _Search] = "cmaes",
    layer_groups: Annotated[int, _Groups] = 4,
    gain: Annotated[float, _Gain] = 0.0,
    judge: Annotated[int, _Judge] = 5,
    racing: Annotated[bool, _Racing] = True,
    controls: Annotated[str, _Controls] = "one",
    seed: Annotated[int, _Seed] = 0,
    method: Annotated[list[str] | None, _Methods] = None,
    cache: Annotated[Path | None, _Cache] = None,
    force: Annotated[bool, _Force] = False,
    registry: InRegistry = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best average of existing checkpoints by your own metric, and judge it honestly.

    stockpot soup runs/*/best --base BASE --evaluate eval.yaml --budget 60 -o soup

    Run again after an interruption: what was measured is not measured again.
    """
    from stockpot.soups.run import SoupSettings, plan_with, soup_with

    out = Output(json=as_json, quiet=quiet)
    settings = SoupSettings(
        budget, search, layer_groups, gain, judge, racing, controls, seed, tuple(method or ())
    )
    if dry_run:
        lines = plan_with(settings, checkpoints, evaluate, base, force=force)
        out.data({"plan": lines}, "\n".join(lines))
        return
    landing = Landing(registry)
    quiet = quiet or as_json
    options: dict[str, Any] = {
        "cache": cache,
        "force": force,
        "overwrite": overwrite,
        "quiet": quiet,
    }
    done = soup_with(settings, checkpoints, evaluate, base, output, **options)
    show_soup(out, done, landing)


def show_soup(out: Output, done: Souped, landing: Landing) -> None:
    """Write the report beside the model, put it into a registry, and say what came out."""
    from stockpot.report.soup import terminal_soup, write_soup
    from stockpot.soups.words import kept_line

    report = write_soup(done.results, done.model.parent / "report.html")
    landing.add(done.model.parent)
    out.data({**done.results.to_json(), **landing.value}, terminal_soup(done.results))
    for note in done.results.notes:
        out.say(f"note: {note}")
    out.say(f"report: {report}\nmodel:  {done.model}")
    landing.finish(out)
    out.say(kept_line(done.results))
