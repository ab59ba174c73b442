"""``--registry``: results go into a registry by themselves, and are never lost when that fails."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.output import Output
from stockpot.cli.registry import DEFAULT, Place, opened
from stockpot.errors import StockpotError

if TYPE_CHECKING:
    from stockpot.registry import Landed


class Landing:
    """Where results go after the work; with no ``place`` nowhere.

    Made before the work: raises ``InputError`` where there is no registry.
    """

    def __init__(self, place: str | None) -> None:
        self._place = place or None
        self._value: dict[str, Any] = {}
        self._words: list[str] = []
        self._failed: StockpotError | None = None
        if self._place is not None:
            from stockpot.registry import Registry

            with Registry(self._place):
                pass

    def add(self, *outputs: Path) -> None:
        """Add what lies in ``outputs``, the last being the result; a failure is for ``finish``."""
        if self._place is None:
            return
        from stockpot.registry import Landed, Registry, land

        try:
            with Registry(self._place) as registry:
                every = [land(registry, output) for output in outputs]
                label = registry.label
        except StockpotError as error:
            again = " && ".join(
                f"stockpot registry land {shlex.quote(str(each))} -r {shlex.quote(self._place)}"
                for each in outputs
            )
            message = f"{outputs[-1]} is whole, but not in the registry: {error.message}"
            self._failed = StockpotError(message, hint=f"to add it: {again}")
            return
        done = Landed(
            tuple(model for each in every for model in each.models),
            tuple(words for each in every for words in each.left_out),
        )
        self._value = {"registry": {"place": label, **landed_value(done)}}
        self._words.append(f"registry: {landed_words(done)}")

    @property
    def value(self) -> dict[str, Any]:
        """What JSON output says of it, under the key ``registry``."""
        return self._value

    def finish(self, out: Output) -> None:
        """Say what happened. Raises the error that adding ended with."""
        for words in self._words:
            out.say(words)
        if self._failed is not None:
            raise self._failed


def landed_value(done: Landed) -> dict[str, Any]:
    """JSON of what was added."""
    return {
        "models": [
            {
                "id": each.id,
                "name": each.manifest.name,
                "kind": each.manifest.kind,
                "digest": each.manifest.digest,
                "new": each.new,
            }
            for each in done.models
        ],
        "left_out": list(done.left_out),
    }


def landed_words(done: Landed) -> str:
    """The same in words: the result, how many came with it, and what could not come."""
    lines = []
    if done.models:
        result, new = done.result, sum(each.new for each in done.models)
        lines = [f"{result.manifest.name} {result.id[:12]}, {new} of {len(done.models)} models new"]
    lines += [f"not added: {words}" for words in done.left_out]
    return "\n".join(lines)


def land_command(
    output: Annotated[
        str, typer.Argument(help="What recycle, merge, rank or tangent wrote: folder or file.")
    ],
    place: Place = DEFAULT,
    line: Annotated[
        str | None, typer.Option(help="Make the result the newest version of a line.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Put in the results of a command and the models that they were made of.

    The commands do it themselves with --registry.
    """
    from stockpot.registry import land

    with opened(place) as registry:
        done = land(registry, output, quiet=out.silent)
        if line is not None:
            registry.advance(line, done.result.id, {"what": "add"})
        out.data(landed_value(done), landed_words(done))
