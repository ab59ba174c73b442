"""Which Python code a recipe or a model folder may have run, and when.

A recipe can name functions. Those of a ``.py`` file beside it are visible code of its author's,
and run. Any function of any installed package is a program that nobody looked at (``os:system``):
one runs only where its package offers it (entry point ``stockpot.functions``), or with
``--allow-code``. The same holds for code that a model brings along (``trust_remote_code``). Nothing
of all that runs in a dry run.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal

from stockpot.errors import InputError
from stockpot.extras import explained

Policy = Literal["files", "all", "none"]
Location = tuple[str | int, ...]

OFFERED = "stockpot.functions"
"""The group of entry points by which a package offers functions to recipes."""
VARIABLE = "STOCKPOT_ALLOW_CODE"
"""The environment variable that means ``--allow-code``."""

_REMOTE = "trust_remote_code"
_state = {"allowed": False, "dry": False}


def set_policy(*, allowed: bool | None = None, dry: bool | None = None) -> None:
    """Say whether all code may run (``--allow-code``), and whether this is a dry run."""
    if allowed is not None:
        _state["allowed"] = allowed
    if dry is not None:
        _state["dry"] = dry


def policy() -> Policy:
    """What may run: "files" beside a recipe, "all" code, or "none".

    ``STOCKPOT_ALLOW_CODE=1`` in the environment allows all.
    """
    if _state["allowed"] or os.environ.get(VARIABLE) == "1":
        return "all"
    return "none" if _state["dry"] else "files"


def forbidden(value: Any, root: Path) -> Iterator[tuple[Location, str]]:
    """Where plain data (of a recipe, or of a model folder) names code that may not run, and why.

    ``root``: the folder at which its relative paths start.
    """
    if policy() != "all":
        yield from _forbidden(value, root, ())


def _forbidden(value: Any, root: Path, place: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(value, Mapping):
        if value.get("kind") == "function":
            for key in ("name", "function"):
                reason = _of_function(value.get(key), root)
                if reason:
                    yield (*place, key), reason
        if value.get(_REMOTE):
            yield (
                (*place, _REMOTE),
                f"{_REMOTE} runs code that comes with the model: say --allow-code",
            )
        for key, item in value.items():
            yield from _forbidden(item, root, (*place, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _forbidden(item, root, (*place, index))


def _of_function(name: Any, root: Path) -> str | None:
    """Why a function may not run; None where it may."""
    if not isinstance(name, str) or ":" not in name:
        return None  # no function: whoever reads the value says so
    if policy() == "none":
        return f"a dry run runs no code, and '{name}' is code: say --allow-code"
    source, _, _ = name.rpartition(":")
    if source.endswith(".py"):
        if _is_own(source, root):
            return None
        return f"'{name}' lies elsewhere than its recipe: say --allow-code to run it"
    if any(offer.value == name for offer in entry_points(group=OFFERED)):
        return None
    return f"'{name}' is code of an installed package that does not offer it: say --allow-code"


def _is_own(source: str, root: Path) -> bool:
    """Whether a file is somebody's own, beside a recipe, and not part of what is installed."""
    path = (root / source).resolve()
    if path.is_relative_to(root.resolve()):
        return True
    installed = {Path(folder).resolve() for folder in sysconfig.get_paths().values()}
    return not Path(source).is_absolute() and not any(map(path.is_relative_to, installed))


def load_function(
    name: str, root: Path, what: str = "function", error: type[InputError] = InputError
) -> Callable[..., Any]:
    """The function of ``package.module:function`` or of ``file.py:function``, from ``root`` on.

    A file is run once, and again when it has changed. Raises ``error``, which calls it ``what``,
    where there is no such function; whether it may run is for :func:`forbidden` to say.
    """
    source, colon, attribute = name.rpartition(":")
    if not colon or not source or not attribute.isidentifier():
        raise error(f"{what} '{name}' is no function", hint="write 'package.module:function'")
    try:
        own = source.endswith(".py")
        module = _module_of_file((root / source).resolve()) if own else import_module(source)
    except (ImportError, OSError, SyntaxError) as problem:
        reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        raise explained(problem) or error(f"{what} '{name}': {reason}") from problem
    function = getattr(module, attribute, None)
    if not callable(function):
        raise error(f"{what} '{name}': '{source}' has no function '{attribute}'")
    return function  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    content = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes())
    key = f"stockpot_file_{content.hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module
