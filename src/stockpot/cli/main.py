"""The command line: one module a verb; errors become one line and an exit code."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stockpot.cli.groups import grouped
from stockpot.errors import OutputError, RecipeError, StockpotError
from stockpot.extras import wanting
from stockpot.outside import AGAIN, outside
from stockpot.programs import set_policy
from stockpot.reading import visible
from stockpot.version import VERSION

COMMANDS: dict[str, str | dict[str, str]] = {
    "recycle": "recycle.recycle_command",
    "predict": "predict.predict_command",
    "evaluate": "predict.evaluate_command",
    "export": "predict.export_command",
    "merge": "merge.merge_command",
    "soup": "soup.soup_command",
    "average": "average.average_command",
    "rank": "rank.rank_command",
    "inspect": "inspect.inspect_command",
    "history": {"": "history.history_app"},
    "tangent": {
        "": "tangent.tangent_app",
        "show": "tangent_look.show_command",
        "check": "tangent_look.check_command",
        "forget": "tangent_forget.forget_command",
        "verify": "tangent_forget.verify_command",
        "continual": "tangent_continual.continual_command",
    },
    "submit": "submit.submit_command",
    "push": "hub.push_command",
    "pull": "hub.pull_command",
    "demo": "demo.demo_command",
    "registry": {
        "": "registry.registry_app",
        "land": "landing.land_command",
        "sign": "signing.sign_command",
        "trust": "signing.trust_command",
    },
    "contribute": "contribute.contribute_command",
    "review": "contribute.review_command",
    "accept": "contribute.accept_command",
    "revert": "contribute.revert_command",
    "serve": "serve.serve_command",
    "doctor": "doctor.doctor_command",
}
"""Each command's function in ``stockpot.cli``, in the order of the help; for a group of commands
its own app ("") and what other modules add to it."""

_LONGEST = 2000  # characters of an error: a name in a file can be longer than any terminal
_SETTINGS = {"submit": {"allow_interspersed_args": False}}


class _Commands(dict[str, Any]):
    """Imports a command when it is asked for: the others cost nothing."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COMMANDS))

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        if self[name] is None:
            self[name] = _load(name)
        return self[name]


def _load(name: str) -> Any:
    place = COMMANDS[name]
    if isinstance(place, dict):
        group = _function(place[""])
        known = [command.name for command in group.registered_commands]
        for word, function in place.items():
            if word and word not in known:
                group.command(word)(_function(function))
    else:
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        own = grouped(_function(place))
        group.command(name, context_settings=_SETTINGS.get(name))(own)
    command = typer.main.get_command(group)
    command.name = name
    return command


def _function(place: str) -> Any:
    module, name = place.split(".")
    return getattr(import_module(f"stockpot.cli.{module}"), name)


class _Group(TyperGroup):
    """Runs a command and turns what goes wrong into one line on stderr and an exit code.

    0 done, 1 failed, 2 wrong input (nothing written), 130 interrupted, 128 + n ended by a signal.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def invoke(self, ctx: Any) -> Any:
        try:
            with wanting():
                return super().invoke(ctx)
        except StockpotError as error:
            if os.environ.get("STOCKPOT_DEBUG"):
                raise
            raise typer.Exit(_say(error)) from error
        except Exception as error:
            known = None if os.environ.get("STOCKPOT_DEBUG") else outside(error)
            if known is None or _of_stream(error):
                raise
            raise typer.Exit(_say(known)) from error
        except KeyboardInterrupt as interrupt:
            number = getattr(interrupt, "number", signal.SIGINT)
            cause = f"ended by {interrupt}" if number != signal.SIGINT else "interrupted"
            words = f"{cause}; run the same command again to go on from here"
            with suppress(OSError):  # the terminal may be what has ended
                print(words, file=sys.stderr)  # noqa: T201
            raise typer.Exit(128 + number) from interrupt
        finally:
            set_policy(allowed=False, dry=False)


def _of_stream(error: Exception) -> bool:
    """Whether stdout or stderr cannot be written: nothing more can be said, ``main`` ends it.

    Any other file may fail without a name as well; who called tells them apart.
    """
    known = (*_UNWRITABLE, errno.EPIPE)
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in known:
        return False
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__", "").startswith(_SPEAKING)


_SPEAKING = ("stockpot.cli.", "stockpot.progress", "typer", "click", "tqdm", "rich")
"""Modules that write to the terminal."""


def _say(error: StockpotError) -> int:
    """Say on stderr what went wrong; the exit code for it."""
    problems = error.problems if isinstance(error, RecipeError) else [error.message]
    for problem in problems:
        line = visible(" ".join(problem.splitlines()), _LONGEST)
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    hint = error.hint or (AGAIN if isinstance(error.__cause__, OSError) else None)
    if hint:
        print(f"hint: {visible(hint, _LONGEST)}", file=sys.stderr)  # noqa: T201
    return error.exit_code


app = typer.Typer(
    cls=_Group,
    name="stockpot",
    help="Recycle fine-tuned models: rank, merge, add up and improve the weights that exist.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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


def main() -> None:
    """Entry point of the ``stockpot`` command."""
    # Looking for plugins of pydantic reads the metadata of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    except SystemExit as end:
        alone = all(thread.daemon for thread in threading.enumerate()[1:])
        if alone and isinstance(end.code, int):
            _leave(end.code)
        raise
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        _leave(_refused(error), reported=True)


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why a stream cannot be written; an error about a file would carry its name."""


def _leave(code: int, *, reported: bool = False) -> None:
    """End the process without the time in which Python frees object after object.

    ``reported``: it was said already that the output cannot be written.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as error:
        # A reader that has gone away (`| head`) has what it wanted.
        code = code if reported or error.errno == errno.EPIPE else _refused(error)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _refused(error: OSError) -> int:
    """Say that the output cannot be written, and the exit code for that."""
    with suppress(OSError):
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)  # noqa: T201
    return OutputError.exit_code
