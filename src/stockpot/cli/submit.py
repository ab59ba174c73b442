"""``stockpot submit``: a command that runs on a cluster, from a machine that sees none of it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from stockpot.cli.options import Address


def submit_command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="A stockpot command and its options.", show_default=False
        ),
    ],
    address: Address = None,
) -> None:
    """Run a stockpot command on a Ray cluster and watch it from here.

    stockpot submit --address ray://HEAD:10001 recycle /shared/recipe.yaml -o /shared/out
    --backend ray

    Paths are the cluster's. Ctrl-C stops the command there; when this machine is switched off it
    goes on, and the same line shows it again. Its output and exit code are those of the command.
    """
    from stockpot.execution.conductor import conduct

    size = os.get_terminal_size(2) if sys.stderr.isatty() else None
    code = conduct(
        words,
        address,
        write_out=lambda data: os.write(1, data),
        write_err=lambda data: os.write(2, data),
        terminal=None if size is None else (size.columns, size.lines),
    )
    raise typer.Exit(code)
