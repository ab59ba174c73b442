"""The command line: one module a verb; errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stockpot.cli.contribute import (
    accept_command,
    contribute_command,
    revert_command,
    review_command,
)
from stockpot.cli.demo import demo_command
from stockpot.cli.doctor import doctor_command
from stockpot.cli.history import history_app
from stockpot.cli.hub import pull_command, push_command
from stockpot.cli.inspect import inspect_command
from stockpot.cli.landing import land_command
from stockpot.cli.merge import merge_command
from stockpot.cli.rank import rank_command
from stockpot.cli.recycle import recycle_command
from stockpot.cli.registry import registry_app
from stockpot.cli.serve import serve_command
from stockpot.cli.submit import submit_command
from stockpot.cli.tangent import tangent_app
from stockpot.cli.tangent_continual import continual_command
from stockpot.cli.tangent_forget import forget_command, verify_command
from stockpot.cli.tangent_look import check_command, show_command
from stockpot.errors import StockpotError
from stockpot.version import VERSION


class _Group(TyperGroup):
    """Runs a command and turns what goes wrong into one line on stderr and an exit code.

    0 done, 1 failed, 2 wrong input (nothing written), 130 interrupted.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StockpotError as error:
            if os.environ.get("STOCKPOT_DEBUG"):
                raise
            lines = error.message.splitlines() or [""]
            for line in lines:
                print(f"error: {line}", file=sys.stderr)  # noqa: T201
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            words = "interrupted; run the same command again to go on from here"
            print(words, file=sys.stderr)  # noqa: T201
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=_Group,
    name="stockpot",
    help="Recycle fine-tuned models: rank, merge, add up and improve the weights that exist.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"stockpot {VERSION}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("recycle")(recycle_command)
app.command("merge")(merge_command)
app.command("rank")(rank_command)
app.command("inspect")(inspect_command)
app.add_typer(history_app, name="history")
tangent_app.command("show")(show_command)
tangent_app.command("check")(check_command)
tangent_app.command("forget")(forget_command)
tangent_app.command("verify")(verify_command)
tangent_app.command("continual")(continual_command)
app.add_typer(tangent_app, name="tangent")
app.command("submit", context_settings={"allow_interspersed_args": False})(submit_command)
app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("demo")(demo_command)
registry_app.command("land")(land_command)
app.add_typer(registry_app)
app.command("contribute")(contribute_command)
app.command("review")(review_command)
app.command("accept")(accept_command)
app.command("revert")(revert_command)
app.command("serve")(serve_command)
app.command("doctor")(doctor_command)


def main() -> None:
    """Entry point of the ``stockpot`` command."""
    app()
