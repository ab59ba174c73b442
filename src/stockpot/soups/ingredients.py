"""The checkpoints of a soup: opened, and related to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from stockpot.backbones.layout import HEAD
from stockpot.checkpoints import Checkpoint
from stockpot.errors import InputError
from stockpot.inspection.lineage import refuse_strangers
from stockpot.inspection.sources import Source, name_sources, open_all, short_name, unused


@dataclass(frozen=True)
class OpenIngredients:
    """Names and checkpoints in order; the base, where there is one, and what it is called.

    ``same``: what has the weights of another one, by name, and that other one's name; it is no
    ingredient of its own.
    """

    names: tuple[str, ...]
    models: tuple[Checkpoint, ...]
    base: Checkpoint | None
    base_name: str | None
    same: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Which were left out because they have the weights of another one."""
        return [
            f"{name} has the same weights as {other} and is counted once, as {other}"
            for name, other in self.same.items()
        ]


def open_ingredients(
    stack: ExitStack,
    checkpoints: Sequence[Source] | Mapping[str, Source],
    base: Source | None,
    *,
    force: bool,
) -> OpenIngredients:
    """Open all; ``stack`` closes them.

    Raises ``InputError`` for less than two that differ, and for a folder whose head lies beside
    its weights; ``LineageError`` for models without an ancestor in common, unless ``force``.
    """
    named = name_sources(checkpoints)
    if len(named) < 2:
        raise InputError(f"a soup takes two checkpoints or more, got {len(named)}")
    opened = open_all(stack, named)
    for one in opened.values():
        if one.home is not None and (one.home / HEAD).is_file():
            raise InputError(
                f"{one.label} keeps its head in {HEAD}, apart from the weights",
                hint="average such models with stockpot recycle",
            )
    same: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, one in list(opened.items()):
        if one.path is None:
            one.label = name  # what messages call it
        other = first.setdefault(one.digest(), name)
        if other != name:
            same[name] = other
            del opened[name]
    if len(opened) < 2:
        raise InputError("these models are all the same", hint="give different checkpoints")
    base_name, ground = None, None
    if base is not None:
        base_name = unused(short_name(base) or "base", opened)
        ground = open_all(stack, {base_name: base})[base_name]
    if not force:
        refuse_strangers(opened, ground)
    return OpenIngredients(tuple(opened), tuple(opened.values()), ground, base_name, same)
