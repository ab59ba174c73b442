"""What the jobs do: the head, the trunk's activations, and one component each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones import Model
from stockpot.files import write_json
from stockpot.tangent.choice import statistics_composer
from stockpot.tangent.fitting import train_component
from stockpot.tangent.head import draw_head, load_head, save_head
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.recipe import Composition
from stockpot.tangent.settings import TangentSettings
from stockpot.training import build_feed
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
    else:
        load_head(Path(root) / file, model)
    save_head(out / HEAD, model, classes)


def features(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    augmentation: bool,
    seed: int,
    root: str,
    cache: str,
) -> None:
    """Activations below the cut, if there is one."""
    views = VIEWS if augmentation else 0
    task, body = open_task(data, root, cache), open_backbone(backbone, root)
    build_feed(task, body, folder=out, views=views, augmentation=augmentation, seed=seed)
    write_json(out / "features.json", {"views": views, "seed": seed, "rows": len(task)})


def component(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
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
) -> None:
    """Train one component."""
    task, body = open_task(data, root, cache), open_backbone(backbone, root)
    network = Model(body, len(task.classes))
    load_head(inputs["head"] / HEAD, network)
    model = TangentModel(network, parameters=parameters, precision=precision).to(best_device())
    made = train_component(
        model,
        open_feed(task, body, inputs["features"]),
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
    made.save(out / COMPONENT)
    write_json(out / "notes.json", {"notes": list(model.notes), "metrics": dict(made.metrics)})


def statistics(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    composer: Values,
    fingerprint: str,
    name: str,
    rows: list[int],
    root: str,
    cache: str,
) -> None:
    """Sum the statistics of one component."""
    task, body = open_task(data, root, cache), open_backbone(backbone, root)
    made = statistics_composer(Composition(**composer), body, task.classes).component(
        open_feed(task, body, inputs["features"]),
        task.labels,
        np.asarray(rows, dtype=np.int64),
        task=name,
        fingerprint=fingerprint,
    )
    made.save(out / COMPONENT)
    write_json(out / "notes.json", {"notes": [], "metrics": {}})
