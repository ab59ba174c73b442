"""What the scores of a Python function depend on, as a hash: only what can be proved.

A function of a file is its file and the local modules that this imports, and those they import.
A live function is its code, what its closure holds and the globals that it names. A value without a
content that can be hashed (an open file, an object of somebody's class) makes it unknown.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from stockpot.checkpoints.memory import dtype_code, is_torch, storage_array
from stockpot.files import digest, file_digest

Content = Any  # plain data that `digest` takes
Seen = dict[int, tuple[int, Any]]  # by id: number and value, which keeps the id its own


class UnknownContentError(Exception):
    """A function refers to something whose content cannot be hashed; the message names it."""


def live_identity(function: Callable[..., Any]) -> str:
    """Hash of a function in memory. Raises ``UnknownContentError``."""
    return digest(_content(function, "the function", {}))


def file_identity(path: Path) -> str:
    """Hash of a file of code and of all local modules that it imports."""
    return digest([[str(one.name), file_digest(one)] for one in local_sources(path)])


def local_sources(path: Path) -> list[Path]:
    """The file and the files that its import statements lead to, those of packages aside."""
    pending, known = [path.resolve()], dict.fromkeys([path.resolve()])
    while pending:
        current = pending.pop()
        for one in _imported(current, path.resolve().parent):
            if one not in known:
                known[one] = None
                pending.append(one)
    return list(known)


def is_installed(path: Path) -> bool:
    """Whether a file is part of Python or of an installed package."""
    return any(map(path.resolve().is_relative_to, _installed()))


@cache
def _installed() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    own = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    shared = [*site.getsitepackages(), site.getusersitepackages()]
    return frozenset(Path(one).resolve() for one in (*own, *shared))


def _imported(path: Path, folder: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    roots = [folder, *(Path(one or ".").resolve() for one in sys.path)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, starts = [alias.name for alias in node.names], roots
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            starts = [path.parents[node.level - 1]] if node.level else roots
        else:
            continue
        for name in names:
            yield from _files_of(name.split("."), starts)


def _files_of(parts: list[str], roots: list[Path]) -> Iterator[Path]:
    """The files that importing ``a.b.c`` runs, from the first root that has ``a``."""
    for root in roots:
        files = []
        for count in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:count])
            files += [stem.with_suffix(".py"), stem / "__init__.py"]
        files = [one.resolve() for one in files if one.is_file()]
        if files:
            yield from (one for one in files if not is_installed(one))
            return


def _content(value: Any, name: str, seen: Seen) -> Content:
    """Plain data that stands for the content of ``value``, which messages call ``name``."""
    kind = type(value).__qualname__
    if value is None or value is ... or isinstance(value, bool | int | float | complex | str):
        return [kind, repr(value)]
    if isinstance(value, bytes | bytearray):
        return [kind, hashlib.sha256(value).hexdigest()]
    if isinstance(value, np.generic):
        return ["scalar", str(value.dtype), value.tobytes().hex()]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    seen[id(value)] = (len(seen), value)
    if (isinstance(value, np.ndarray) or is_torch(value)) and (code := dtype_code(value)):
        stored = storage_array(value, code)
        held = hashlib.sha256(stored.view("u1").data if stored.size else b"").hexdigest()
        return ["array", kind, code, list(value.shape), held]
    if isinstance(value, list | tuple):
        return [kind, *(_content(one, name, seen) for one in value)]
    if isinstance(value, dict):
        items = [(_content(k, name, seen), _content(v, name, seen)) for k, v in value.items()]
        return [kind, *map(list, items)]
    if isinstance(value, set | frozenset) and all(isinstance(one, str | int) for one in value):
        return [kind, sorted(map(repr, value))]
    if isinstance(value, CodeType):
        return _code(value, name, seen)
    return _named(value, name, seen)


def _named(value: Any, name: str, seen: Seen) -> Content:
    """Content of modules, classes and functions: those of packages by name and version."""
    if isinstance(value, MethodType):
        return [_content(one, name, seen) for one in (value.__func__, value.__self__)]
    module = value if isinstance(value, ModuleType) else None
    own = "" if module else getattr(value, "__qualname__", None)
    package = str(module.__name__ if module else getattr(value, "__module__", None))
    if own is None or not (module or callable(value)):
        raise UnknownContentError(f"'{name}' is a {type(value).__name__}")
    try:
        file = Path(inspect.getfile(value))
    except (TypeError, OSError):
        file = None  # built in, or of a notebook
    top = package.partition(".")[0]
    if (file is None or is_installed(file)) and (known := _version(top)):
        return ["package", package, own, known]
    if isinstance(value, FunctionType):
        return _function(value, seen)
    if file is None or not file.is_file():
        raise UnknownContentError(f"'{name}' has no source")
    return ["file", own, file_identity(file)]


@cache
def _version(package: str) -> str:
    """Of a package, "" for one that nobody installed."""
    if package in sys.stdlib_module_names:
        return sys.version
    try:
        return version(packages_distributions().get(package, [package])[0])
    except PackageNotFoundError:
        return ""


def _function(function: FunctionType, seen: Seen) -> Content:
    used: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            used[name] = cell.cell_contents
        except ValueError:
            used[name] = None  # not assigned yet
    for name in sorted(_global_names(function.__code__)):
        if name in function.__globals__:
            used[name] = function.__globals__[name]
    defaults = [function.__defaults__, function.__kwdefaults__]
    held = [[name, _content(value, name, seen)] for name, value in used.items()]
    code = _code(function.__code__, function.__name__, seen)
    return ["function", code, _content(defaults, "a default", seen), held]


def _code(code: CodeType, name: str, seen: Seen) -> Content:
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    constants = [_content(one, name, seen) for one in code.co_consts]
    return ["code", sys.version, code.co_code.hex(), *map(list, names), constants]


def _global_names(code: CodeType) -> set[str]:
    names = {
        one.argval
        for one in dis.get_instructions(code)
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names
