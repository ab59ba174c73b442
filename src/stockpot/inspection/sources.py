"""What to compare: any weights that can be opened, each under a short name of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint, open_checkpoint
from stockpot.errors import InputError

Source = str | Path | Mapping[str, Any] | Checkpoint

FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
# Names that say nothing about the model; the folder above does.
_GENERIC = ("model", "pytorch_model", "adapter_model", "model_weights", "weights", "checkpoint")


def name_sources(sources: Mapping[str, Source] | Sequence[Source]) -> dict[str, Source]:
    """Give every model a short name of its own.

    A path is called after its file or folder, or after the folder above where the name is one that
    is everywhere ("model.safetensors"); a state in memory after its place. A mapping brings its own
    names.
    """
    if isinstance(sources, str | Path):
        raise InputError("expected several models", hint="give a list, or a mapping of names")
    if isinstance(sources, Mapping):
        return dict(sources)
    shorts = [short_name(source) or f"model {place}" for place, source in enumerate(sources, 1)]
    named: dict[str, Source] = {}
    for short, source in zip(shorts, sources, strict=True):
        if shorts.count(short) > 1 and isinstance(source, str | Path):
            short = "/".join(Path(source).absolute().parts[-2:])
        named[unused(short, named)] = source
    return named


def short_name(source: Source) -> str | None:
    """What to call a model on disk, on the hub or opened; None for a state in memory."""
    if isinstance(source, Checkpoint):
        return short_name(source.path) if source.path else source.label
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if path.exists():
        path = path.absolute()
        for part in (path.name, *(parent.name for parent in path.parents)):
            if part and Path(part).stem not in _GENERIC:
                return part
    return path.name or str(source)


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it when it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def open_all(stack: ExitStack, named: Mapping[str, Source]) -> dict[str, Checkpoint]:
    """Open every source; ``stack`` closes what was opened here and nothing else.

    Raises ``InputError`` when there is nothing to compare, and what opening a checkpoint raises.
    """
    if not named:
        raise InputError("nothing to inspect", hint="give one or more models")
    opened: dict[str, Checkpoint] = {}
    for name, source in named.items():
        if isinstance(source, Checkpoint):
            opened[name] = source
        elif isinstance(source, str | Path | Mapping):
            opened[name] = stack.enter_context(open_checkpoint(source))
        else:
            raise InputError(
                f"{name} is {type(source).__name__}, expected a path, a checkpoint or a state_dict"
            )
    return opened
