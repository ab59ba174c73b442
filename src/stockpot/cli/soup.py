"""``stockpot soup``: existing checkpoints in, one model out, judged by an evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stockpot.cli.landing import Landing
from stockpot.cli.options import AllowCode, DryRun, InRegistry, Json, Overwrite, Quiet
from stockpot.cli.output import Output


def soup_command(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Two or more models: folders, files, hub ids.", show_default=False),
    ],
    evaluate: Annotated[
        Path,
        typer.Option(
            "--evaluate",
            "-e",
            help="YAML file that says how a model is scored.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The model that all were fine-tuned from.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model, report and results.")
    ] = Path("soup"),
    budget: Annotated[
        str | None,
        typer.Option(
            help="So many evaluations, such as 60, or so long, such as 2h "
            "[default: 5 a model, at least 30]."
        ),
    ] = None,
    search: Annotated[
        str, typer.Option(help="How coefficients are searched: cmaes, optuna or none.")
    ] = "cmaes",
    layer_groups: Annotated[
        int, typer.Option(min=1, help="Groups of layers with coefficients of their own.")
    ] = 4,
    gain: Annotated[
        float, typer.Option(min=0.0, help="Stop where ten generations won less than this.")
    ] = 0.0,
    judge: Annotated[int, typer.Option(min=1, max=9, help="Of ten rows, how many only judge.")] = 5,
    racing: Annotated[
        bool, typer.Option("--racing/--no-racing", help="Drop hopeless models on a few rows.")
    ] = True,
    controls: Annotated[
        str,
        typer.Option(help="none; one: shuffled differences; equal: searches at the same cost."),
    ] = "one",
    seed: Annotated[int, typer.Option(min=0, help="Of split, search and controls.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of measured scores, shared with other runs.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take models that have no ancestor in common.")
    ] = False,
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
    from stockpot.soups import plan_soup, soup

    out = Output(json=as_json, quiet=quiet)
    settings: dict[str, Any] = {
        "budget": budget,
        "search": search,
        "layer_groups": layer_groups,
        "gain": gain,
        "judge": judge,
        "racing": racing,
        "controls": controls,
        "seed": seed,
    }
    if dry_run:
        lines = plan_soup(checkpoints, evaluate, base=base, force=force, **settings)
        out.data({"plan": lines}, "\n".join(lines))
        return
    landing = Landing(registry)
    done = soup(
        checkpoints,
        evaluate,
        base=base,
        output=output,
        cache=cache,
        force=force,
        overwrite=overwrite,
        quiet=quiet or as_json,
        **settings,
    )
    from stockpot.report.soup import terminal_soup, write_soup

    report = write_soup(done.results, output / "report.html")
    landing.add(output)
    out.data({**done.results.to_json(), **landing.value}, terminal_soup(done.results))
    for note in done.results.notes:
        out.say(f"note: {note}")
    out.say(f"report: {report}\nmodel:  {done.model}")
    landing.finish(out)
