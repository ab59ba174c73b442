"""Hugging Face ``datasets`` as a source of tasks; an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import TaskError
from stockpot.extras import require
from stockpot.files import digest
from stockpot.tasks.arrays import array_fingerprint, check_labels, check_numbers
from stockpot.tasks.images import decode_all, refuse_corrupt, require_pillow
from stockpot.tasks.specs import DatasetsSpec
from stockpot.tasks.task import Array, Modality, Task, build_task, check_domains, quoted
from stockpot.tasks.text import class_order


def load_datasets(spec: DatasetsSpec, root: Path, *, skip_corrupt: bool = False) -> Task:
    """One split of a data set as a task: text, or images decoded to ``spec.size``.

    ``spec.path`` is a folder written by ``save_to_disk`` where there is one below ``root``, else a
    name on the hub, which ``datasets`` downloads. Class names come from the label column's
    ``ClassLabel`` where it is one.

    Raises ``TaskError`` for an unknown data set, split, column or label.
    """
    data, where = _open(spec, root)
    for column in (spec.input, spec.label, spec.domain):
        if column is not None and column not in data.column_names:
            raise TaskError(f"{where}: no column '{column}'; it has {quoted(data.column_names)}")
    if len(data) == 0:
        raise TaskError(f"{where}: no examples")
    texts = _domain_names(data, spec)
    domains = class_order(texts)
    if spec.domains is not None:
        check_domains(where, spec.domains, domains)
        domains = spec.domains
        chosen = [i for i, name in enumerate(texts) if name in domains]
        data, texts = data.select(chosen), [texts[i] for i in chosen]
    labels, classes = _labels(data, spec, where)
    inputs, modality, bad = _inputs(data, spec, where, skip_corrupt)
    kept = np.array([i for i in range(len(labels)) if i not in bad], dtype=np.int64)
    ids = np.array([domains.index(name) for name in texts], dtype=np.int64)[kept]
    labels = labels[kept]
    fingerprint = (
        digest([inputs, labels.tolist(), ids.tolist(), domains, list(classes)])
        if isinstance(inputs, list)
        else array_fingerprint(inputs, labels, ids, domains, classes)
    )
    return build_task(
        name=spec.name or Path(spec.path).name,
        kind=spec.target,
        modality=modality,
        domains=domains,
        classes=classes,
        inputs=inputs,
        labels=labels,
        domain_ids=ids,
        fingerprint=fingerprint,
        where=where,
        skipped=[bad[i] for i in sorted(bad)],
        allow_missing_classes=spec.allow_missing_classes,
    )


def _open(spec: DatasetsSpec, root: Path) -> tuple[Any, str]:
    require("datasets", "reading Hugging Face data sets")
    import datasets

    folder = root / spec.path
    where = f"data set {spec.path}, split '{spec.split}'"
    try:
        if folder.is_dir():
            data = datasets.load_from_disk(str(folder))
        else:
            data = datasets.load_dataset(
                spec.path, spec.config, split=spec.split, revision=spec.revision
            )
    except Exception as error:  # datasets raises errors of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(f"{where}: {reason}") from error
    if isinstance(data, datasets.DatasetDict):
        if spec.split not in data:
            raise TaskError(f"{where}: no such split; it has {quoted(list(data))}")
        data = data[spec.split]
    return data, where


def _domain_names(data: Any, spec: DatasetsSpec) -> list[str]:
    if spec.domain is None:
        return [Path(spec.path).name] * len(data)
    names = getattr(data.features[spec.domain], "names", None)
    return [str(names[value] if names else value) for value in data[spec.domain]]


def _labels(data: Any, spec: DatasetsSpec, where: str) -> tuple[Array, tuple[str, ...]]:
    column = np.array(data[spec.label])
    if spec.target == "regression":
        return check_numbers(column, where), ()
    names = getattr(data.features[spec.label], "names", None)
    return check_labels(column, None if names is None else np.array(names), where)


def _inputs(
    data: Any, spec: DatasetsSpec, where: str, skip_corrupt: bool
) -> tuple[Array | list[str], Modality, dict[int, str]]:
    import datasets

    if isinstance(data.features[spec.input], datasets.Image):
        require_pillow()
        column = data.cast_column(spec.input, datasets.Image(decode=False))[spec.input]
        blobs = [cell["bytes"] or Path(cell["path"]).read_bytes() for cell in column]
        names = [f"{where}, row {row}" for row in range(len(blobs))]
        pixels, bad = decode_all(blobs, names, spec.size, spec.resize)
        if not skip_corrupt:
            refuse_corrupt(bad)
        return pixels[[i for i in range(len(blobs)) if i not in bad]], "image", bad
    texts = list(data[spec.input])
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TaskError(f"{where}, row {row}: column '{spec.input}' holds no text")
    return texts, "text", {}
