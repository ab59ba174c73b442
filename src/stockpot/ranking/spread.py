"""Features of many models on many machines: one job a model, around the same extractor.

The features go into the cache that the machine which asks reads afterwards, so storage is shared as
for all jobs on a cluster. A model that fails is a line and not a failed job; its job is forgotten,
so that the next call tries again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.execution import Backend, Job, Local, Serial, run_jobs
from stockpot.files import write_json
from stockpot.ranking.features import Extractor, Failed, sample_order
from stockpot.ranking.jobs import Folders, Values
from stockpot.ranking.prepare import Prepared
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from stockpot.reading import read_json
from stockpot.tasks import split_task
from stockpot.training.rows import open_task

_JOB = "stockpot.ranking.spread:extract"
_FOUND = "features.json"


def elsewhere(backend: Backend) -> bool:
    """Whether jobs run on other machines than this one."""
    return not isinstance(backend, Serial | Local)


def spread_features(
    prepared: Prepared,
    extractor: Extractor,
    names: Sequence[str],
    count: int,
    backend: Backend,
    *,
    skip_corrupt: bool = False,
    on_model: Callable[[str], None] = lambda name: None,
) -> list[Failed]:
    """Fill the extractor's cache with the first ``count`` rows of every model, as jobs.

    Returns the models that failed. Models given as features are left alone. Raises ``JobError``
    where a job itself fails (a machine without the shared storage, say).
    """
    jobs: dict[str, Job] = {}
    for name in names:
        entry = prepared.entries[name]
        if not isinstance(entry, FeatureEntry):
            jobs[name] = _job(prepared, extractor, name, entry, count, skip_corrupt)
    model = {job: name for name, job in jobs.items()}
    folders = run_jobs(
        list(jobs.values()),
        extractor.cache.parent,
        backend,
        on_finished=lambda job, _: on_model(model[job]),
    )
    failed = []
    for name, job in jobs.items():
        found = read_json(folders[job] / _FOUND)
        if found["failed"] is not None:
            failed.append(Failed(name, found["failed"]))
            shutil.rmtree(folders[job])
    return failed


def _job(
    prepared: Prepared,
    extractor: Extractor,
    name: str,
    entry: ModelEntry,
    count: int,
    skip_corrupt: bool,
) -> Job:
    request = prepared.request
    return Job(
        _JOB,
        {
            **request.rows_of(prepared.task.fingerprint, skip_corrupt=skip_corrupt),
            "name": name,
            "entry": entry.model_dump(mode="json"),
            "content": extractor.open(name, entry).folder.name,
            "count": count,
            "keep": extractor.keep,
            "download": extractor.download,
        },
        places={
            "root": str(prepared.root),
            "zoo": str(extractor.root),
            "cache": str(extractor.cache.parent.resolve() / "cache"),
            "features": str(extractor.cache.resolve()),
        },
        label=f"features of {name}",
        threads=request.threads,
        weight=count,
    )


def extract(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    split: Values,
    name: str,
    entry: Values,
    content: str,
    count: int,
    keep: Any,
    download: bool,
    root: str,
    zoo: str,
    cache: str,
    features: str,
) -> None:
    """The job: features of one model into the folder ``features``, on from the chunks there.

    ``features.json`` says why the model failed, or null. ``content`` (revision, task and sample)
    only names the job.
    """
    task = open_task(data, root, cache)
    parts = split_task(task, **split)
    order = sample_order(task, np.concatenate(list(parts.train.values())), seed=split["seed"])
    extractor = Extractor(task, order, Path(features), Path(zoo), keep=keep, download=download)
    found = extractor(name, ModelEntry.model_validate(dict(entry)), count)
    reason = found.reason if isinstance(found, Failed) else None
    write_json(out / _FOUND, {"failed": reason})
