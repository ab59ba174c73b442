"""One door to every kind of task."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from stockpot.errors import TaskError
from stockpot.extras import explained
from stockpot.tasks.arrays import load_arrays
from stockpot.tasks.hub import load_datasets
from stockpot.tasks.images import load_image_folder
from stockpot.tasks.mnist import load_colored_mnist, load_rotated_mnist
from stockpot.tasks.rotation import rotation_task
from stockpot.tasks.specs import (
    ArraySpec,
    ColoredMnistSpec,
    DatasetsSpec,
    FunctionSpec,
    ImageFolderSpec,
    RotatedMnistSpec,
    RotationSpec,
    TaskSpec,
    TextSpec,
    parse_task_spec,
)
from stockpot.tasks.task import Task, select_domains
from stockpot.tasks.text import load_text


def load_task(
    spec: TaskSpec | Mapping[str, Any],
    *,
    root: Path | str = Path(),
    skip_corrupt: bool = False,
    cache: Path | None = None,
    seed: int = 0,
    target: Task | None = None,
) -> Task:
    """The task that ``spec`` describes. Paths are relative to ``root``, the recipe's folder.

    ``skip_corrupt`` leaves out images that cannot be decoded and lists them in ``Task.skipped``.
    ``cache``: folder for decoded images, shared by processes. ``seed``: deals the digits of the
    MNIST variants to their domains and turns the images of a rotation task; nothing else.
    ``target``: the task whose images a rotation task without source of its own is made from.

    Raises ``TaskError``, or ``MissingDependencyError`` where an optional package is needed.
    """
    if isinstance(spec, Mapping):
        spec = parse_task_spec(spec)
    root = Path(root)
    match spec:
        case ImageFolderSpec():
            return load_image_folder(spec, root, skip_corrupt=skip_corrupt, cache=cache)
        case TextSpec():
            return load_text(spec, root)
        case ArraySpec():
            return load_arrays(spec, root)
        case DatasetsSpec():
            return load_datasets(spec, root, skip_corrupt=skip_corrupt)
        case RotatedMnistSpec():
            task = load_rotated_mnist(root / spec.path, name=spec.name, seed=seed)
        case ColoredMnistSpec():
            task = load_colored_mnist(root / spec.path, name=spec.name, seed=seed)
        case RotationSpec():
            if spec.source is not None:
                target = load_task(spec.source, root=root, skip_corrupt=skip_corrupt, cache=cache)
            if target is None:
                raise TaskError("a rotation task needs images", hint="give it a source")
            task = rotation_task(target, domains=spec.domains, seed=seed, cache=cache)
            return replace(task, name=spec.name or task.name)
        case FunctionSpec():
            task = _call(spec, root)
    return select_domains(task, spec.domains)


def _call(spec: FunctionSpec, root: Path) -> Task:
    function = _import(spec.function, root)
    try:
        task = function(**spec.arguments)
    except TypeError as error:
        raise TaskError(f"task function {spec.function}: {error}") from error
    if not isinstance(task, Task):
        raise TaskError(
            f"task function {spec.function} returned {type(task).__name__}, "
            "expected stockpot.tasks.Task"
        )
    return replace(task, name=spec.name or task.name)


def _import(name: str, root: Path) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    try:
        module = _file_module(root / place) if place.endswith(".py") else _named_module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise explained(error) or TaskError(f"task function {name}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise TaskError(f"task function {name}: '{place}' has no function '{attribute}'")
    return function  # type: ignore[no-any-return]


def _named_module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _file_module(path: Path) -> ModuleType:
    name = f"_stockpot_task_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
