"""A task: examples with labels, each from one domain, checked once when it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import TaskError
from stockpot.files import digest
from stockpot.tasks.parts import check_parts

Kind = Literal["classification", "regression"]
Modality = Literal["image", "text", "array"]
Array = npt.NDArray[Any]
Inputs = Array | list[str]

PREVIEW = 5


@dataclass(frozen=True, eq=False)
class Task:
    """Examples, labels and domains, in one fixed order.

    ``inputs``: image: uint8 (N, H, W, 3), possibly a read-only memory map; text: N strings;
    array: float32 (N, ...). ``labels``: int64 (N,) in [0, len(classes)), or float32 (N,) for
    regression, where ``classes`` is empty. ``domain_ids``: int64 (N,), positions in ``domains``.
    ``fingerprint``: SHA-256 of the content. ``skipped``: files left out on request.
    ``splits``: int8 (N,), positions in ``parts.PARTS`` where the owner of the data fixed them.
    ``groups``: str (N,), the group of each row (a patient, an author), never to be divided.
    ``shared``: rows whose input stands in another domain, class or fixed split as well.
    """

    name: str
    kind: Kind
    modality: Modality
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: Inputs
    labels: Array
    domain_ids: Array
    fingerprint: str
    skipped: tuple[str, ...] = ()
    splits: Array | None = None
    groups: Array | None = None
    shared: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, domain: str) -> Array:
        """Positions (int64, ascending) of the examples of ``domain``; ``TaskError`` if unknown."""
        check_domains(self.name, [domain], self.domains)
        return np.flatnonzero(self.domain_ids == self.domains.index(domain))

    def counts(self) -> dict[str, int]:
        """Number of examples of each domain."""
        sizes = np.bincount(self.domain_ids, minlength=len(self.domains))
        return {domain: int(size) for domain, size in zip(self.domains, sizes, strict=True)}


def check_domains(name: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """``TaskError`` naming each of ``wanted`` that is not one of the ``known`` domains."""
    unknown = [domain for domain in wanted if domain not in known]
    if unknown:
        raise TaskError(
            f"task '{name}' has no domain {quoted(unknown)}; its domains are {quoted(known)}"
        )


def build_task(
    *,
    name: str,
    kind: Kind,
    modality: Modality,
    domains: Sequence[str],
    classes: Sequence[str],
    inputs: Inputs,
    labels: Array,
    domain_ids: Array,
    fingerprint: str,
    where: str,
    skipped: Sequence[str] = (),
    allow_missing_classes: bool = False,
    splits: Array | None = None,
    groups: Array | None = None,
    shared: int = 0,
) -> Task:
    """A checked :class:`Task`. ``where`` (file or folder) is named in errors.

    Every class must have examples, and have them in every domain and in every fixed split unless
    ``allow_missing_classes``: a class that one source lacks is mostly a misspelt folder or column.
    Fixed splits must leave something to train on and must not divide a group. Splits and groups are
    content: they go into the fingerprint.
    """
    if len(labels) == 0:
        raise TaskError(f"{where}: no examples")
    empty = [domain for i, domain in enumerate(domains) if not np.any(np.asarray(domain_ids) == i)]
    if empty:
        raise TaskError(f"{where}: no examples in domain {quoted(empty)}")
    if kind == "classification":
        if len(classes) < 2:
            raise TaskError(f"{where}: a classification needs two classes, got {quoted(classes)}")
        _check_coverage(where, domains, classes, labels, domain_ids, allow_missing_classes)
    if splits is not None or groups is not None:
        extra = [None if array is None else array.tolist() for array in (splits, groups)]
        fingerprint = digest([fingerprint, *extra])
    task = Task(
        name=name,
        kind=kind,
        modality=modality,
        domains=tuple(domains),
        classes=tuple(classes),
        inputs=inputs,
        labels=labels.astype(np.int64 if kind == "classification" else np.float32),
        domain_ids=domain_ids.astype(np.int64),
        fingerprint=fingerprint,
        skipped=tuple(skipped),
        splits=splits,
        groups=groups,
        shared=shared,
    )
    check_parts(task, where, allow_missing_classes=allow_missing_classes)
    return task


def _check_coverage(
    where: str,
    domains: Sequence[str],
    classes: Sequence[str],
    labels: Array,
    domain_ids: Array,
    allow_missing_classes: bool,
) -> None:
    counts = np.zeros((len(domains), len(classes)), dtype=np.int64)
    np.add.at(counts, (domain_ids, labels), 1)
    never = [name for name, total in zip(classes, counts.sum(axis=0), strict=True) if total == 0]
    if never:
        raise TaskError(f"{where}: class {quoted(never)} has no examples")
    if allow_missing_classes:
        return
    for domain, row in zip(domains, counts, strict=True):
        missing = [name for name, count in zip(classes, row, strict=True) if count == 0]
        if missing:
            raise TaskError(
                f"{where}: domain '{domain}' has no examples of class {quoted(missing)}",
                hint="add some, or set allow_missing_classes: true",
            )


def select_domains(task: Task, domains: Sequence[str] | None) -> Task:
    """``task`` with only ``domains``, in the order given (``None``: all of it, unchanged).

    The fingerprint names the choice. Image memory maps are read, so that the result stands alone.
    """
    if domains is None or tuple(domains) == task.domains:
        return task
    check_domains(task.name, domains, task.domains)
    if len(set(domains)) < len(domains):
        raise TaskError(f"task '{task.name}': a domain is listed twice in {quoted(domains)}")
    rows = np.concatenate([task.rows(domain) for domain in domains])
    ids = np.concatenate([np.full(len(task.rows(d)), i) for i, d in enumerate(domains)])
    return build_task(
        name=task.name,
        kind=task.kind,
        modality=task.modality,
        domains=domains,
        classes=task.classes,
        inputs=take(task.inputs, rows),
        labels=task.labels[rows],
        domain_ids=ids,
        fingerprint=digest([task.fingerprint, list(domains)]),
        where=f"task '{task.name}'",
        skipped=task.skipped,
        allow_missing_classes=True,
        splits=None if task.splits is None else task.splits[rows],
        groups=None if task.groups is None else task.groups[rows],
        shared=task.shared,
    )


def take_rows(task: Task, rows: Array) -> Task:
    """``task`` with only ``rows``, in that order; name and fingerprint stay."""
    return replace(
        task,
        inputs=take(task.inputs, rows),
        labels=task.labels[rows],
        domain_ids=task.domain_ids[rows],
        splits=None if task.splits is None else task.splits[rows],
        groups=None if task.groups is None else task.groups[rows],
    )


def image_decoding(task: Task, resize: str | None = None) -> dict[str, Any] | None:
    """How files become inputs of a task of square images: ``size`` in pixels, and ``resize`` as its
    spec has it (default: stretch). None for other tasks.
    """
    if task.modality != "image" or isinstance(task.inputs, list):
        return None
    height, width = task.inputs.shape[1:3]
    return {"size": int(height), "resize": resize or "stretch"} if height == width else None


def take(inputs: Inputs, rows: Array) -> Inputs:
    """The given rows of ``inputs``, of the same kind."""
    if isinstance(inputs, list):
        return [inputs[int(row)] for row in rows]
    return inputs[rows]


def quoted(names: Sequence[str]) -> str:
    """``'a', 'b' and 3 more``: names for a message."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:PREVIEW])
    return shown if len(names) <= PREVIEW else f"{shown} and {len(names) - PREVIEW} more"
