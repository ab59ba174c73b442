"""One door to every kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.errors import TaskError
from stockpot.programs import load_function
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
    function = load_function(spec.function, root, "task function", TaskError)
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
