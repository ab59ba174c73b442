"""Write docs/cli.md from the commands themselves: ``python docs/make_cli.py``.

A test compares the file with what this writes, so the page cannot go stale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from stockpot.cli.main import COMMANDS, app

PAGE = Path(__file__).parent / "cli.md"

OPENING = """\
# Commands

<!-- Written by docs/make_cli.py; change the commands, not this page. -->

`stockpot COMMAND --help` says the same. Data goes to stdout, progress and messages to stderr. Exit
code 0: done. 1: failed. 2: wrong input, and nothing was written. 130: interrupted. Every command is
a function of Python with the same words; see [Python](api.md).
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="stockpot")
    parts = [OPENING]
    for name in COMMANDS:
        parts += _sections(root.commands.get(name), name, context)
    return "\n".join(parts).rstrip() + "\n"


def _sections(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent)
    path = context.command_path
    usage = " ".join(part.upper() for part in command.collect_usage_pieces(context) if part)
    usage = usage.replace("{", "").replace("}", "")
    yield f"## {path}\n\n{_help(command.help)}\n\n```\n{path} {usage}\n```\n"
    rows = [_row(parameter) for parameter in command.params if not _hidden(parameter)]
    if rows:
        yield "\n".join(["| | meaning | default |", "|---|---|---|", *rows]) + "\n"
    for child in getattr(command, "commands", {}):
        yield from _sections(command.commands[child], child, context)


def _hidden(parameter: Any) -> bool:
    return getattr(parameter, "hidden", False) or "--help" in parameter.opts


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        shown = f"`{_cell(parameter.metavar or parameter.name.upper())}`"
    else:
        shown = ", ".join(f"`{name}`" for name in names)
    help_text = getattr(parameter, "help", None) or ""
    default = parameter.default
    plain = isinstance(default, str | int | float) and default not in ("", False)
    return f"| {shown} | {_cell(help_text)} | {f'`{default}`' if plain else ''} |"


def _help(text: str | None) -> str:
    return re.sub(r"[\b\f]", "", text or "").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
