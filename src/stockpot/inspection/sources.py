"""Weights from anywhere, seen the same way: paths, hub ids, open checkpoints, states in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stockpot.errors import CheckpointError, InputError

Array = NDArray[Any]

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


class Info(Protocol):
    """What is known of a tensor without reading it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


class Weights(Protocol):
    """Named tensors that are read when asked for."""

    @property
    def names(self) -> list[str]: ...
    def info(self, name: str) -> Info: ...
    def blocks(self, name: str, elements: int) -> Iterator[Array]: ...


Source = str | Path | Mapping[str, Any] | Weights


class _StateInfo:
    def __init__(self, tensor: Any) -> None:
        self.shape = tuple(int(size) for size in tensor.shape)
        word = str(tensor.dtype).removeprefix("torch.")
        self.dtype = _CODES.get(word, word.upper())


class StateWeights:
    """A state in memory: a mapping from names to numpy arrays or torch tensors."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        for name, tensor in state.items():
            if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
                raise CheckpointError(
                    f"'{name}' is {type(tensor).__name__}, expected an array or a tensor",
                    hint="give the state_dict of the model",
                )
        self._state = state
        self.names = list(state)

    def info(self, name: str) -> Info:
        return _StateInfo(self._state[name])

    def blocks(self, name: str, elements: int) -> Iterator[Array]:
        flat = _as_numpy(self._state[name]).reshape(-1)
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]


def _as_numpy(tensor: Any) -> Array:
    """A numpy view of an array, or of a torch tensor without importing torch here."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2"):
            tensor = tensor.float()
        return np.asarray(tensor.numpy())
    return np.asarray(tensor)


def open_weights(source: Source) -> AbstractContextManager[Weights]:
    """Open ``source`` for reading. A state or an open checkpoint is used as it is."""
    if isinstance(source, Mapping):
        return nullcontext(StateWeights(source))
    if isinstance(source, str | Path):
        from stockpot.checkpoints import open_checkpoint

        return open_checkpoint(source)
    if not hasattr(source, "blocks"):
        raise InputError(
            f"a model is {type(source).__name__}, expected a path, a checkpoint or a state_dict"
        )
    return nullcontext(source)


def name_sources(sources: Mapping[str, Source] | Sequence[Source]) -> dict[str, Source]:
    """Give every model a short name of its own.

    A path is called after its file, or after its folder where files of that name are everywhere
    ("model.safetensors"); a state in memory after its place.
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
    """What to call a model on disk or on the hub; None for a state in memory."""
    if not isinstance(source, str | Path):
        path = getattr(source, "path", None)
        return short_name(path) if path else None
    path = Path(source)
    if path.suffix and path.stem in ("model", "pytorch_model", "weights", "checkpoint"):
        return path.absolute().parent.name
    return path.name or str(source)


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it when it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def open_all(stack: ExitStack, named: Mapping[str, Source]) -> dict[str, Weights]:
    """Open every source on ``stack``; raises ``InputError`` when there is nothing to compare."""
    if not named:
        raise InputError("nothing to inspect", hint="give one or more models")
    return {name: stack.enter_context(open_weights(source)) for name, source in named.items()}
