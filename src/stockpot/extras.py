"""Optional packages: which extra of stockpot brings which, and one sentence where one is missing.

A command wants extras: those of its verb, and those of the data and models that its recipe names.
They are gathered while recipes are read, so that the error names the one installation that is
enough for this command, and not one package after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from stockpot.errors import MissingDependencyError

_TORCH = ("torch", "accelerate")
_TEXT = (*_TORCH, "transformers")
_DATA = ("datasets", "pyarrow")
_REGISTRY = ("fsspec", "zstandard")

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "torch": _TORCH,
    "text": _TEXT,
    "vision": (*_TORCH, "timm", "PIL"),
    "data": _DATA,
    "rank": (*_TORCH, "scipy", "sklearn", "threadpoolctl"),
    "registry": _REGISTRY,
    "web": (*_REGISTRY, "h11", "starlette", "uvicorn", "markdown_it"),
    "ray": ("ray",),
    "onnx": (*_TORCH, "onnx", "onnxscript"),
    "soup": ("cmaes", "optuna"),
    "gguf": ("gguf",),
    "trl": (*_TEXT, *_DATA, "peft", "trl"),
    "lm-eval": (*_TEXT, "lm_eval"),
    "lightning": (*_TORCH, "lightning"),
}
"""What each extra brings, by the names under which Python imports it; a package's own extra comes
before those that include it."""

PURPOSES: Mapping[str, str] = {
    "torch": "training",
    "text": "text models",
    "vision": "image models",
    "data": "Hugging Face data sets, Parquet",
    "rank": "ranking and histories",
    "registry": "registries",
    "web": "the local dashboard",
    "ray": "many machines",
    "onnx": "exporting to ONNX",
    "soup": "the search of a soup's coefficients",
    "gguf": "GGUF files",
    "trl": "training with TRL",
    "lm-eval": "scores of lm-evaluation-harness",
    "lightning": "averages inside Lightning",
}

DISTRIBUTIONS: Mapping[str, str] = {
    "PIL": "pillow",
    "lm_eval": "lm-eval",
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
}
"""Packages that are installed under another name."""

_KINDS: Mapping[str, str] = {
    "transformers": "text",
    "timm": "vision",
    "images": "vision",
    "rotated_mnist": "vision",
    "datasets": "data",
}
"""What the ``kind`` of a task or backbone wants."""

_wanted: ContextVar[frozenset[str] | None] = ContextVar("wanted", default=None)
"""What the command or function wants that runs; None where none does, and nobody gathers."""


@contextmanager
def wanting(*extras: str) -> Iterator[None]:
    """Inside, these extras are wanted, besides those outside; also a decorator of functions.

    Raises ``MissingDependencyError`` in place of the ``ModuleNotFoundError`` of such a package.
    """
    token = _wanted.set(frozenset(extras).union(_wanted.get() or ()))
    try:
        yield
    except ModuleNotFoundError as error:
        told = explained(error)
        if told is None:
            raise
        raise told from error
    finally:
        _wanted.reset(token)


def notice(value: Any) -> None:
    """Want what a recipe or task names; ``value`` is its content as plain data."""
    _want(named(value))


def _want(extras: Iterable[str]) -> None:
    wanted = _wanted.get()
    if wanted is not None:
        _wanted.set(wanted.union(extras))


def named(value: Any) -> set[str]:
    """Extras for the tasks and backbones in ``value``, the plain data of a recipe, task or zoo."""
    return set(_named(value))


def require_wanted(*extras: str, purpose: str, useful: Iterable[str] = ()) -> None:
    """Raise ``MissingDependencyError`` unless all that is wanted, and ``extras``, is installed.

    ``useful`` extras may be missing; they are named with those that may not.
    """
    needed = set(extras).union(_wanted.get() or ())
    _want((*extras, *useful))
    lacking = [name for name in _packages(needed) if not installed(name)]
    if lacking:
        raise _missing(lacking, needed.union(useful), purpose)


def require(package: str, purpose: str) -> None:
    """Raise ``MissingDependencyError`` unless an optional package can be imported."""
    if not installed(package):
        raise _missing([package], _wanted.get() or (), purpose)


def explained(error: BaseException) -> MissingDependencyError | None:
    """The error to raise instead where an optional package is missing; None for all else."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    if package not in _packages(EXTRAS) or installed(package):
        return None
    return _missing([package], _wanted.get() or (), "this")


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: what is public is imported when it is first used.

    ``homes``: the names that each module of the package gives, ``{"zoo": "Zoo load_zoo"}``; a
    module that gives none is public itself.

    The function raises ``AttributeError`` for other names, and ``MissingDependencyError`` where a
    module needs an optional package.
    """
    modules = {name: home for home, names in homes.items() for name in names.split() or [home]}

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with wanting():
            module = import_module(f"{package}.{modules[name]}")
            return getattr(module, name) if homes[modules[name]] else module

    return attribute


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported for that."""
    if sys.modules.get(package) is not None:
        return True
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        kind = value.get("kind")
        if isinstance(kind, str) and kind in _KINDS:
            yield _KINDS[kind]
        if isinstance(path := value.get("path"), str) and path.endswith(".parquet"):
            yield "data"
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)


def _packages(extras: Iterable[str]) -> list[str]:
    return list(
        dict.fromkeys(name for extra in EXTRAS if extra in extras for name in EXTRAS[extra])
    )


def _missing(
    packages: Sequence[str], extras: Iterable[str], purpose: str
) -> MissingDependencyError:
    owners = {next(e for e, names in EXTRAS.items() if name in names) for name in packages}
    chosen = owners | set(extras)
    for extra in sorted(chosen):
        if set(EXTRAS[extra]) <= set(_packages(chosen - {extra})):
            chosen.remove(extra)
    names = [DISTRIBUTIONS.get(name, name) for name in packages]
    return MissingDependencyError(names, extras=sorted(chosen), purpose=purpose)
