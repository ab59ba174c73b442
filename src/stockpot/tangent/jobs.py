"""What the jobs do: the head, the trunk's activations, and one component each.

A job works on a whole task (``data``), or on rows that are a task of their own (``part``): then its
name depends on these rows alone, and no other shard is in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Backbone, Model
from stockpot.errors import InputError
from stockpot.files import write_json
from stockpot.tangent.choice import statistics_composer
from stockpot.tangent.component import Component
from stockpot.tangent.fitting import train_component
from stockpot.tangent.head import draw_head, load_head, save_head
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.recipe import Composition
from stockpot.tangent.rows import open_part
from stockpot.tangent.settings import TangentSettings
from stockpot.tangent.summing import total
from stockpot.tasks import Task
from stockpot.training import Feed, build_feed
from stockpot.training.device import best_device
from stockpot.training.rows import open_backbone, open_feed, open_task

HEAD = "head.safetensors"
COMPONENT = "component.safetensors"
VIEWS = 4

Values = Mapping[str, Any]
Folders = Mapping[str, Path]


def head(
    out: Path,
    inputs: Folders,
    *,
    backbone: Values,
    classes: list[str],
    seed: int,
    file: str | None,
    content: str | None,
    root: str,
    cache: str,
) -> None:
    """The head of all components: drawn, or the one in ``file`` (whose hash is ``content``)."""
    model = Model(open_backbone(backbone, root), len(classes))
    if file is None:
        draw_head(model, seed=seed)
    elif load_head(Path(root) / file, model) != tuple(classes):
        raise InputError(f"{file} is a head for other classes than {', '.join(classes)}")
    save_head(out / HEAD, model, classes)


def features(
    out: Path,
    inputs: Folders,
    *,
    backbone: Values,
    augmentation: bool,
    seed: int,
    root: str,
    cache: str,
    data: Values | None = None,
    part: str = "",
    content: str = "",
) -> None:
    """Activations below the cut, if there is one."""
    views = VIEWS if augmentation else 0
    task, body = _open(data, part, root, cache), open_backbone(backbone, root)
    build_feed(task, body, folder=out, views=views, augmentation=augmentation, seed=seed)
    write_json(out / "features.json", {"views": views, "seed": seed, "rows": len(task)})


def component(
    out: Path,
    inputs: Folders,
    *,
    backbone: Values,
    parameters: str | list[str],
    precision: Any,
    fingerprint: str,
    name: str,
    rows: list[int],
    validation: list[int],
    settings: Values,
    seed: int,
    root: str,
    cache: str,
    data: Values | None = None,
    part: str = "",
    content: str = "",
) -> None:
    """Train one component."""
    task, body = _open(data, part, root, cache), open_backbone(backbone, root)
    network = Model(body, len(task.classes))
    load_head(inputs["head"] / HEAD, network)
    model = TangentModel(network, parameters=parameters, precision=precision).to(best_device())
    trained = train_component(
        model,
        _feed(task, body, inputs, augmentation=bool(settings.get("augmentation"))),
        task.labels,
        np.asarray(rows, dtype=np.int64),
        task=name,
        classes=task.classes,
        fingerprint=fingerprint,
        settings=TangentSettings(**settings),
        seed=seed,
        validation=np.asarray(validation, dtype=np.int64),
        scratch=out,
        quiet=True,
    )
    _save(out, trained, model.notes)


def block(
    out: Path,
    inputs: Folders,
    *,
    backbone: Values,
    composer: Values,
    name: str,
    content: str,
    part: str,
    root: str,
    cache: str,
) -> None:
    """Sum the statistics of one block of a component's rows."""
    task, body = open_part(part, root, cache), open_backbone(backbone, root)
    summed = statistics_composer(Composition(**composer), body, task.classes).component(
        _feed(task, body, inputs),
        task.labels,
        np.arange(len(task)),
        task=name,
        fingerprint=content,
    )
    _save(out, summed)


def statistics(
    out: Path,
    inputs: Folders,
    *,
    name: str,
    fingerprint: str,
    root: str,
    cache: str,
) -> None:
    """Sum the blocks of a component."""
    blocks = [Component.load(folder / COMPONENT) for folder in inputs.values()]
    _save(out, total(blocks, fingerprint=fingerprint))


def _open(data: Values | None, part: str, root: str, cache: str) -> Task:
    return open_part(part, root, cache) if data is None else open_task(data, root, cache)


def _feed(task: Task, body: Backbone, inputs: Folders, *, augmentation: bool = False) -> Feed:
    """The activations that a job kept, or the rows themselves where nothing runs before the cut."""
    if "features" in inputs:
        return open_feed(task, body, inputs["features"])
    return build_feed(task, body, folder=Path(), views=0, augmentation=augmentation)


def _save(out: Path, component: Component, notes: tuple[str, ...] = ()) -> None:
    component.save(out / COMPONENT)
    write_json(out / "notes.json", {"notes": list(notes), "metrics": dict(component.metrics)})
