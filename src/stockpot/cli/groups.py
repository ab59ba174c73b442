"""Options that go together are one value: declared once, and handed on as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_type_hints

import typer


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: a parameter that is a dataclass becomes its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        shown = {name: (hints[name], parameter.default)}
        if name in groups:
            kinds = get_type_hints(groups[name], include_extras=True)
            shown = {one.name: (kinds[one.name], one.default) for one in fields(groups[name])}
        parameters += [
            Parameter(option, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for option, (kind, default) in shown.items()
        ]

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        command(**values)

    run.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


class CommandGroup(typer.Typer):
    """Commands of one noun, such as ``stockpot registry add``."""

    def __init__(self, name: str, help: str) -> None:
        super().__init__(
            name=name, help=help, no_args_is_help=True, add_completion=False, rich_markup_mode=None
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        register = super().command(name, **settings)
        return lambda function: register(grouped(function))
