"""``stockpot serve``: the dashboard on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.options import AllowCode
from stockpot.cli.output import Output
from stockpot.extras import require_wanted


def serve_command(
    registry: Annotated[
        str | None,
        typer.Argument(
            envvar="STOCKPOT_REGISTRY",
            help="Folder or address of a registry [default: .stockpot, if it is there].",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with outputs of rank or recycle, or of several; repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8420,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine can reach it then.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name under which browsers ask for the server; repeatable."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Who knows the token in it may accept and revert; made if it is not there."
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(help="Tasks on which a version must hold before it is accepted, YAML."),
    ] = None,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Show family tree, models, results and running jobs in a browser.

    Read-only without --token-file. Ctrl-C ends it.
    """

    require_wanted("web", purpose="the dashboard")
    from stockpot.web import ServerSettings, serve
    from stockpot.web.guard import LOOPBACK
    from stockpot.web.keeper import read_token

    if registry is None and Path(".stockpot").is_dir():
        registry = ".stockpot"
    token, made = read_token(token_file) if token_file is not None else (None, False)
    settings = ServerSettings(registry, tuple(runs or ()), token, tuple(allow_host or ()), tasks)

    def ready(address: str) -> None:
        out.data({"address": address}, address)
        if made:
            out.say(f"a token was made: {token_file}")
        if host not in LOOPBACK:
            out.say(f"whoever can reach {host} can read everything here")

    serve(settings, host=host, port=port, on_ready=ready)
