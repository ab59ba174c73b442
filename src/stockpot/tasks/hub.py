"""Hugging Face ``datasets`` as a source of tasks; an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import TaskError
from stockpot.extras import require
from stockpot.files import digest
from stockpot.tasks.arrays import array_fingerprint, check_labels, check_numbers
from stockpot.tasks.duplicates import contents_of, count_shared, sides_of
from stockpot.tasks.images import decode_all, refuse_corrupt, require_pillow
from stockpot.tasks.labels import class_order
from stockpot.tasks.parts import TEST, TRAIN, VALIDATION, fixed_parts, part_of
from stockpot.tasks.specs import AUTO, DatasetsSpec
from stockpot.tasks.task import Array, Modality, Task, build_task, check_domains, quoted
from stockpot.yaml_lines import suggestion


def load_datasets(spec: DatasetsSpec, root: Path, *, skip_corrupt: bool = False) -> Task:
    """One or more splits of a data set as a task: text, or images decoded to ``spec.size``.

    ``spec.path`` is a folder written by ``save_to_disk`` where there is one below ``root``, else a
    name on the hub, which ``datasets`` downloads. Class names come from the label column's
    ``ClassLabel`` where it is one.

    Raises ``TaskError`` for an unknown data set, split, column or label.
    """
    data, parts, where = _open_all(spec, root)
    domain = _column(spec.domain, "domain", data)
    split = _column(spec.split_column, "split", data)
    for column in (spec.input, spec.label, domain, split, spec.group):
        if column is not None and column not in data.column_names:
            raise TaskError(
                f"{where}: no column '{column}'; it has {quoted(data.column_names)}"
                f"{suggestion(column, data.column_names)}"
            )
    if split is not None:
        parts = _parts(data, split, parts, where)
    texts = [Path(spec.path).name] * len(data) if domain is None else _names(data, domain)
    domains = class_order(texts)
    if spec.domains is not None:
        check_domains(where, spec.domains, domains)
        domains = spec.domains
        chosen = [i for i, name in enumerate(texts) if name in domains]
        data, texts = data.select(chosen), [texts[i] for i in chosen]
        parts = None if parts is None else [parts[i] for i in chosen]
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
    splits = None if parts is None else fixed_parts([parts[i] for i in kept])
    sides, rows = sides_of(splits, domains, ids, classes, labels), [f"row {i}" for i in kept]
    shared = count_shared(contents_of(inputs), sides, where, rows.__getitem__, spec.duplicates)
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
        splits=splits,
        groups=None if spec.group is None else np.array(_names(data, spec.group))[kept],
        shared=shared,
    )


def _parts(data: Any, split: str, parts: list[int] | None, where: str) -> list[int]:
    """The fixed split of each row, by the column ``split``."""
    if parts is not None:
        raise TaskError(
            f"{where}: splits are fixed twice, by the column '{split}' and by 'validation' and "
            "'test'",
            hint="set split_column: null, or leave them out",
        )
    return [
        part_of(
            name,
            f"{where}, row {row}: column '{split}'",
            hint="set split_column: null to ignore the column",
        )
        for row, name in enumerate(_names(data, split))
    ]


def _open_all(spec: DatasetsSpec, root: Path) -> tuple[Any, list[int] | None, str]:
    """All splits that a task uses as one, the part of each row where it is fixed, and a name."""
    wanted = [(TRAIN, spec.split), (VALIDATION, spec.validation), (TEST, spec.test)]
    opened, parts = [], []
    for part, split in wanted:
        if split is not None:
            data, where = _open(spec, split, root)
            if len(data) == 0:
                raise TaskError(f"{where}: no examples")
            opened.append((data, where))
            parts += [part] * len(data)
    if len(opened) == 1:
        return data, None, where
    import datasets

    where = f"data set {spec.path}, splits {quoted([split for _, split in wanted if split])}"
    try:
        return datasets.concatenate_datasets([data for data, _ in opened]), parts, where
    except (ValueError, TypeError) as error:
        raise TaskError(f"{where}: {str(error).splitlines()[0]}") from error


def _open(spec: DatasetsSpec, split: str, root: Path) -> tuple[Any, str]:
    require("datasets", "reading Hugging Face data sets")
    import datasets

    folder = root / spec.path
    where = f"data set {spec.path}, split '{split}'"
    try:
        if folder.is_dir():
            data = datasets.load_from_disk(str(folder))
        else:
            data = datasets.load_dataset(
                spec.path, spec.config, split=split, revision=spec.revision
            )
    except Exception as error:  # datasets raises errors of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(f"{where}: {reason}") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise TaskError(f"{where}: no such split; it has {quoted(list(data))}")
        return data[split], where
    if folder.is_dir() and split != spec.split:
        raise TaskError(f"{where}: the folder holds one data set without splits")
    return data, where


def _column(name: str | None, usual: str, data: Any) -> str | None:
    if name != AUTO:
        return name
    return usual if usual in data.column_names else None


def _names(data: Any, column: str) -> list[str]:
    """What stands in a column; the names of its values where they are numbers of classes."""
    names = getattr(data.features[column], "names", None)
    return [str(names[value] if names else value) for value in data[column]]


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
