"""Which rows a model is judged on: those that neither trained nor chose it, where that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.provenance import has_record, read_record
from stockpot.recycling.cells import held_out_sets, split_arguments
from stockpot.recycling.recipe import Recipe
from stockpot.tasks import Task, set_apart, split_task
from stockpot.tasks.splits import Rows
from stockpot.tasks.task import check_domains, quoted
from stockpot.training.rows import limit_task


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows of ``task`` (int64) by domain.

    ``trained_on``: by domain, whether these rows trained the model or chose it; None: not known.
    ``about``: one line that says so.
    """

    task: Task
    rows: Rows
    trained_on: Mapping[str, bool | None]
    about: str


def judged_rows(
    task: Task, folder: Path, recipe: Recipe | None = None, domains: Sequence[str] | None = None
) -> JudgedRows:
    """The rows of ``task`` to judge the model in ``folder`` on.

    Where its ``stockpot.json`` names the same data they are the test rows of its own split, as the
    report has them. Else they are the fixed test rows, or the domains that ``recipe`` holds out;
    without either all. ``domains``: only these; all rows of one that has no such rows.

    Raises ``TaskError`` for a domain that the task does not have.
    """
    check_domains(task.name, domains or (), task.domains)
    record = read_record(folder) if has_record(folder) else None
    known = record is not None and record.data == task.fingerprint
    total = len(task)
    if record is not None and known:
        task, test = _own_test(task, record.recipe)
    else:
        sets = held_out_sets(recipe, task.domains) if recipe else []
        held_out = list(chain.from_iterable(sets))
        check_domains(task.name, held_out, task.domains)
        _, test = set_apart(task, held_out=held_out)
    rows = {name: test.get(name, task.rows(name)) for name in domains or test or task.domains}
    trained_on = {name: name not in test if known else None for name in rows}
    count = sum(map(len, rows.values()))
    about = [f"judged on {count} of {total} rows"] if count < total else []
    if trained := [name for name, is_trained in trained_on.items() if is_trained]:
        about.append(f"rows of {quoted(trained)} trained the model, or chose it")
    elif known:
        about.append("they neither trained nor chose the model")
    else:
        why = "names other data" if record else "is missing"
        about.append(f"not known whether the model was trained on them: its stockpot.json {why}")
    return JudgedRows(task, rows, trained_on, "; ".join(about))


def _own_test(task: Task, recipe: Any) -> tuple[Task, Rows]:
    """The task as a model saw it, and its test rows. ``recipe``: what its record says: that of
    ``recycle``, or the arguments of a job; of anything else only fixed test rows are known.
    """
    limit, seed, split = None, 0, None
    try:
        if "split" in recipe:
            limit, seed = recipe["data"]["limit"], recipe["data"]["seed"]
            split = recipe["split"]
        else:
            own = Recipe.parse(recipe)
            limit, seed = own.training.limit_per_domain, own.seed
            held_out = (
                held_out_sets(own, task.domains)[0] if own.final.train_on == "first" else None
            )
            split = split_arguments(own, held_out, 0)
        limited = task if limit is None else limit_task(task, limit, seed)
        return limited, split_task(limited, **split).test
    except (InputError, KeyError, TypeError):
        return task, set_apart(task)[1]


def joined(rows: Rows) -> np.ndarray:
    """All positions, domain after domain."""
    return np.concatenate(list(rows.values()))
