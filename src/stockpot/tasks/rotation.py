"""Rotation prediction: a task that any images give without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from stockpot.errors import OutputError, TaskError
from stockpot.files import atomic_file, digest
from stockpot.tasks.splits import named_generator
from stockpot.tasks.task import Array, Task, build_task, check_domains

TURNS = ("0", "90", "180", "270")


def rotation_task(
    task: Task,
    *,
    domains: Sequence[str] | None = None,
    rows: Array | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Task:
    """Each image of ``domains`` (default: all) once, turned by a random multiple of 90 degrees.

    The label is the angle, counter-clockwise. Leave out the held-out domain: to train on its images
    would leak it, labels or not; ``rows``, where given, are the only ones that are taken. The turn
    of an image depends on the seed, its domain and its position in the domain alone. With ``cache``
    the pixels are kept there and mapped. Source: Gidaris et al., *Unsupervised representation
    learning by predicting image rotations* (2018).

    Raises ``TaskError`` where the task has no square images, or no rows are left.
    """
    names = list(task.domains if domains is None else domains)
    check_domains(task.name, names, task.domains)
    if task.modality != "image" or isinstance(task.inputs, list):
        raise TaskError(f"task '{task.name}': rotation needs images, it has {task.modality} inputs")
    images = task.inputs
    if images.shape[1] != images.shape[2]:
        raise TaskError(
            f"task '{task.name}': rotation needs square images, got {images.shape[1:3]}"
        )
    parts, turns = {}, []
    for domain in names:
        own = task.rows(domain)
        turned = named_generator(seed, "rotation", domain).integers(len(TURNS), size=len(own))
        kept = np.isin(own, own if rows is None else rows)
        if np.any(kept):
            parts[domain] = own[kept]
            turns.append(turned[kept])
    if not parts:
        raise TaskError(f"task '{task.name}': no images are left to turn")
    labels, chosen = np.concatenate(turns), np.concatenate(list(parts.values()))
    ids = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts.values())])
    content = ["rotation", task.fingerprint, names, seed]
    if len(chosen) < sum(len(task.rows(domain)) for domain in names):
        content.append(chosen.tolist())
    fingerprint = digest(content)
    return build_task(
        name=f"{task.name}-rotation",
        kind="classification",
        modality="image",
        domains=list(parts),
        classes=TURNS,
        inputs=_turned(images, chosen, labels, cache, fingerprint),
        labels=labels,
        domain_ids=ids,
        fingerprint=fingerprint,
        where=f"task '{task.name}'",
        allow_missing_classes=True,
        splits=None if task.splits is None else task.splits[chosen],
        groups=None if task.groups is None else task.groups[chosen],
    )


def _turned(
    images: Array, rows: Array, labels: Array, cache: Path | None, fingerprint: str
) -> Array:
    place = None if cache is None else cache / f"rotation-{fingerprint[:20]}.npy"
    if place is None or not place.is_file():
        turned = np.stack(
            [np.rot90(images[row], turn) for row, turn in zip(rows, labels, strict=True)]
        )
        if place is None:
            return turned
        try:
            with atomic_file(place) as temporary, temporary.open("wb") as handle:
                np.save(handle, turned)
        except OutputError:
            if not place.is_file():
                raise
    return cast(Array, np.load(place, mmap_mode="r"))
