"""Tables of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import TaskError
from stockpot.files import digest
from stockpot.tasks.duplicates import count_shared, sides_of
from stockpot.tasks.labels import class_labels, number_labels
from stockpot.tasks.parts import fixed_parts, group_names
from stockpot.tasks.specs import TextSpec
from stockpot.tasks.tables import Example, read_examples
from stockpot.tasks.task import Array, Task, build_task, check_domains

SIGNS = ("negative", "positive")


def load_text(spec: TextSpec, root: Path) -> Task:
    """The rows of a table as a task; texts are kept as they are.

    Domains are in order of first appearance. Classes are sorted, by number where all are whole
    numbers. Raises ``TaskError`` naming file and line for a missing column, an empty text, domain
    or label, a label that is not a class or a finite number, and a file that is not what its
    ending says.
    """
    path = root / spec.path
    examples = read_examples(spec, root)
    texts = [_text(example, spec.text) for example in examples]
    raw = [example.cell(spec.label) for example in examples]
    names = list(dict.fromkeys(example.domain for example in examples))
    if spec.domains is not None:
        check_domains(spec.name or path.stem, spec.domains, names)
        names = spec.domains
    labels, classes, kept = _labels(spec, raw, [example.where for example in examples])
    rows = [i for i in kept if examples[i].domain in names]
    examples = [examples[i] for i in rows]
    texts = [texts[i] for i in rows]
    ids = np.array([names.index(example.domain) for example in examples], dtype=np.int64)
    labels = labels[rows]
    splits = fixed_parts([example.part for example in examples])
    return build_task(
        name=spec.name or path.stem,
        kind="regression" if spec.target == "regression" else "classification",
        modality="text",
        domains=names,
        classes=classes,
        inputs=texts,
        labels=labels,
        domain_ids=ids,
        fingerprint=digest(
            ["text", texts, labels.tolist(), ids.tolist(), list(names), list(classes)]
        ),
        where=str(path),
        allow_missing_classes=spec.allow_missing_classes,
        splits=splits,
        groups=group_names([example.group for example in examples]),
        shared=count_shared(
            texts,
            sides_of(splits, names, ids, classes, labels),
            str(path),
            lambda row: examples[row].where,
            spec.duplicates,
        ),
    )


def _text(example: Example, column: str) -> str:
    text = example.cell(column)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{example.where}: column '{column}' holds no text")
    return text


def _labels(
    spec: TextSpec, raw: list[Any], where: Sequence[str]
) -> tuple[Array, tuple[str, ...], list[int]]:
    """Labels of all rows, class names, and the rows to keep."""
    everything = list(range(len(raw)))
    if spec.target == "classification":
        return *class_labels(raw, where, spec.classes), everything
    numbers = number_labels(raw, where)
    if spec.target == "regression":
        return numbers.astype(np.float32), (), everything
    kept = [i for i in everything if numbers[i] != 0 and abs(numbers[i]) >= spec.margin]
    return (numbers > 0).astype(np.int64), SIGNS, kept
