"""A merge shared out: each worker makes some tensors and writes them where they belong.

The output is made at its full size on storage that all workers see; a worker opens the parents
itself, merges the tensors of its part and writes their bytes at their place. Parts are jobs of
``execution``: they run in local processes or on a cluster, are done once, and are not repeated when
the merge is taken up again after an interruption. The bytes are those of ``merge``. What a worker
does is in ``part.py``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.header import Header, build_header, header_bytes
from stockpot.checkpoints.writer import DEFAULT_SHARD, folder_layout, take_room
from stockpot.errors import InputError, MethodError
from stockpot.execution import Backend, Job, make_backend, run_jobs
from stockpot.files import atomic_file, atomic_folder, digest
from stockpot.merging.backends import backend_for
from stockpot.merging.engine import Options, Work, model_groups
from stockpot.merging.job import MergeJob, Spec
from stockpot.merging.output import (
    METADATA,
    begin_check,
    check_output,
    complete_folder,
    components_of,
    write_beside,
)
from stockpot.merging.portable import spec_to_json, stamps
from stockpot.merging.report import MergeReport
from stockpot.progress import progress
from stockpot.reading import read_json
from stockpot.system import BINARY, write_at

PART = 256_000_000
"""Bytes of the output that one job writes."""

_FOLDER = "model"
_FILE = "model.safetensors"


def merge_with(
    backend: str | Backend,
    spec: Spec,
    output: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    allow_nonfinite: bool = False,
    max_shard_size: int = DEFAULT_SHARD,
    hash_parents: bool = True,
    overwrite: bool = False,
    part: int = PART,
    quiet: bool = True,
) -> MergeReport:
    """``run_merge`` with its tensors shared out over the workers of ``backend``.

    Args:
        backend: ``"serial"``, ``"local"``, ``"ray"`` or a ready one. Parents and output must lie
            where all its machines see them under the same path.
        workers: of a backend given by name.
        threads: of each worker.
        part: bytes of the output that one job writes; changes no byte of it.
        **others: as for ``merge``.

    Raises:
        MethodError: a method that must see the whole model at once.
        InputError: models in memory.
        others: as ``merge`` and ``run_jobs`` do.
    """
    started = time.perf_counter()
    output = Path(output)
    check_output(output, spec, overwrite=overwrite)
    portable = spec_to_json(spec)
    options = Options(threads, None, allow_nonfinite, backend_for(device))
    with MergeJob(spec, options) as job:
        _refuse_whole(job)
        stamp = digest([portable, stamps(portable), max_shard_size])[:12]
        # One folder for one merge: that of another one to the same output is left alone.
        staging = output.absolute().parent / f".{output.name}.{stamp}.parts"
        layout = _layout(job, staging, output.suffix == ".safetensors", max_shard_size)
        hashed = _unhashed(job) if hash_parents else []
        settings = {
            "spec": portable,
            "stamp": stamp,
            "device": device,
            "allow_nonfinite": allow_nonfinite,
        }
        parts = _jobs(job, layout, part, settings, hashed, threads)
        total = sum(one.weight for one in parts)
        try:
            with progress("merge", total, quiet=quiet) as advance:
                folders = run_jobs(
                    list(parts),
                    staging / "work",
                    make_backend(backend, workers),
                    on_finished=lambda one, reused: advance(one.weight if one in parts else 0),
                )
        except InputError:
            shutil.rmtree(staging)  # there is nothing to go on with
            raise
        notes = [_read_part(folders[one], Path(one.places["file"])) for one in parts]
        facts = {name: found for note in notes for name, found in note["facts"].items()}
        for work in job.plan.works:
            if isinstance(work, Work):
                work.statistics = facts.get(work.info.name, {})
        digests = _digests(job, hashed, notes) if hash_parents else None
        report = job.report(digests, time.perf_counter() - started)
        _put_in_place(job, report, layout, output, overwrite=overwrite)
        shutil.rmtree(staging)
    return report


def _refuse_whole(job: MergeJob) -> None:
    if components_of(job):
        raise InputError(
            f"{job.sources[0].label} has several components, which workers do not share",
            hint="leave out --backend",
        )
    for work in job.plan.works:
        if isinstance(work, Work) and work.method.granularity_for(work.parameters) == "model":
            raise MethodError(
                f"method '{work.method.name}' sees the whole model at once and cannot be shared "
                "out over workers",
                hint="leave out --backend",
            )


def _layout(
    job: MergeJob, staging: Path, one_file: bool, max_shard_size: int
) -> dict[Path, Header]:
    """The output's files, made at their full size where an earlier run has not made them."""
    tensors = job.plan.tensors
    if one_file:
        layout = {staging / _FILE: build_header(tensors, METADATA)}
    else:
        (staging / _FOLDER).mkdir(parents=True, exist_ok=True)
        layout = folder_layout(staging / _FOLDER, tensors, METADATA, max_shard_size)
    if all(path.exists() and path.stat().st_size == h.file_size for path, h in layout.items()):
        return layout
    shutil.rmtree(staging / "work", ignore_errors=True)
    staging.mkdir(parents=True, exist_ok=True)
    for path, header in layout.items():
        take_room(path, header.file_size)
        _write_at(path, [(0, header_bytes(header.tensors, header.metadata))])
    return layout


def _jobs(
    job: MergeJob,
    layout: Mapping[Path, Header],
    part: int,
    settings: Mapping[str, Any],
    hashed: list[int],
    threads: int,
) -> dict[Job, None]:
    pieces = [
        (path, names) for path, header in layout.items() for names in split_parts(header, part)
    ]
    groups = model_groups(job.plan.works)
    passes = max((group[0].model_passes_left for group in groups.values()), default=0)
    summed = {work.info.name for group in groups.values() for work in group}
    before: dict[str, Job] = {}
    for number in range(passes):
        stage = {}
        for index, (_, names) in enumerate(pieces):
            if summed.isdisjoint(names):
                continue
            arguments = {**settings, "names": names, "number": number, "threads": threads}
            stage[f"{number}:{index}"] = Job(
                "stockpot.merging.part:gather",
                arguments,
                before,
                label=f"sums of part {index + 1} of {len(pieces)}",
                threads=threads,
            )
        before = {**before, **stage}
    made: dict[Job, None] = {}
    for index, (path, names) in enumerate(pieces):
        more = {"names": names, "hashed": hashed, "threads": threads, "passes": passes}
        one = Job(
            "stockpot.merging.part:merge_part",
            {**settings, **more},
            before,
            {"file": str(path)},
            f"part {index + 1} of {len(pieces)}",
            threads,
            float(sum(layout[path].tensors[name].size for name in names)),
        )
        made[one] = None
    return made


def split_parts(header: Header, part: int) -> list[list[str]]:
    """Tensors of a file in stored order, cut into runs of about ``part`` bytes."""
    parts: list[list[str]] = []
    used = 0
    for name in sorted(header.tensors, key=lambda name: header.offsets[name]):
        size = header.tensors[name].nbytes
        if not parts or used + size > part:
            parts.append([])
            used = 0
        parts[-1].append(name)
        used += size
    return parts


def _read_part(folder: Path, file: Path) -> dict[str, Any]:
    """What a part has to say; its edges are put in place."""
    note: dict[str, Any] = read_json(folder / "part.json")
    _write_at(file, [(offset, bytes.fromhex(data)) for offset, data in note["edges"]])
    return note


def _write_at(path: Path, pieces: Sequence[tuple[int, bytes]]) -> None:
    descriptor = os.open(path, os.O_WRONLY | BINARY)
    try:
        for offset, data in pieces:
            write_at(descriptor, memoryview(data), offset)
    finally:
        os.close(descriptor)


def _unhashed(job: MergeJob) -> list[int]:
    return [i for i, source in enumerate(job.stored) if source.known_digest() is None]


def _digests(job: MergeJob, hashed: Sequence[int], notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Content hashes of the parents; tensors that are not in the output are read here."""
    found = []
    for number, source in enumerate(job.stored):
        known = source.known_digest()
        if known is None or number in hashed:
            parts = {
                name: bytes.fromhex(value)
                for note in notes
                for name, value in note["digests"].get(str(number), {}).items()
            }
            for name in source.names:
                if name not in parts:
                    parts[name] = source.tensor_digest(name)
            known = join_digests(source.tensors, parts)
            source.keep_digest(known)
        found.append(known)
    return found


def _put_in_place(
    job: MergeJob,
    report: MergeReport,
    layout: Mapping[Path, Header],
    output: Path,
    *,
    overwrite: bool,
) -> None:
    first = next(iter(layout))
    if output.suffix == ".safetensors":
        with atomic_file(output) as temporary:
            first.replace(temporary)
        write_beside(output, report)
        return
    with begin_check(job) as check, atomic_folder(output, replace=overwrite) as folder:
        for file in sorted(first.parent.iterdir()):
            file.rename(folder / file.name)
        complete_folder(job, folder, report, output.name, check)
