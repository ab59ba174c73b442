"""What a worker does of a merge that is shared out: some of its tensors, to their place in a file.

Machines on a network file system write whole pages, and two that write different bytes of one page
may undo each other's work. So a worker writes only pages that belong to its part alone; the bytes
at the two ends go into its job's folder, and the parent puts them in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import STORAGE
from stockpot.checkpoints.header import read_header
from stockpot.checkpoints.writer import open_sized
from stockpot.files import write_json
from stockpot.merging.backends import backend_for
from stockpot.merging.block import BlockSums
from stockpot.merging.engine import Engine, Options, Work, model_groups
from stockpot.merging.job import MergeJob
from stockpot.merging.portable import spec_from_json
from stockpot.merging.sinks import Nowhere

PAGE = 4096

Folders = Mapping[str, Path]


def gather(
    out: Path,
    inputs: Folders,
    *,
    spec: Mapping[str, Any],
    stamp: str,
    device: str,
    allow_nonfinite: bool,
    names: list[str],
    number: int,
    threads: int,
) -> None:
    """Sums that pass ``number`` over the whole model takes of the tensors ``names``."""
    options = Options(threads, None, allow_nonfinite, backend_for(device))
    with MergeJob(spec_from_json(spec), options) as job:
        engine = Engine(Nowhere(), options)
        groups = _groups_of(job, names)
        _take_sums(engine, groups, inputs, number)
        found: dict[str, Any] = {}
        for key, group in groups.items():
            if group and group[0].model_passes_left:
                sums = engine.model_sums(group)
                for name, array in (sums.arrays() if sums else {}).items():
                    found[f"{key} {name}"] = array
    np.savez(out / "sums.npz", **found)


def merge_part(
    out: Path,
    inputs: Folders,
    *,
    spec: Mapping[str, Any],
    stamp: str,
    device: str,
    allow_nonfinite: bool,
    names: list[str],
    hashed: list[int],
    threads: int,
    passes: int,
    file: str,
) -> None:
    """Merge the tensors ``names`` into their places in ``file``; report facts and parents' hashes.

    ``hashed``: numbers of the parents (models, then base) whose tensors are hashed on the way.
    """
    options = Options(threads, None, allow_nonfinite, backend_for(device))
    with MergeJob(spec_from_json(spec), options) as job, PartFile(Path(file), names) as sink:
        engine = Engine(sink, options)
        _take_sums(engine, _groups_of(job, names), inputs, passes)
        wanted = set(names)
        works = [work for work in job.plan.works if work.info.name in wanted]
        engine.run(works)
        sink.finish()
        parents = job.stored
        reports = [report.to_json() for report in job.plan.reports() if report.name in wanted]
        write_json(
            out / "part.json",
            {
                "facts": {r["name"]: r["facts"] for r in reports if "facts" in r},
                "edges": [[offset, data.hex()] for offset, data in sink.edges],
                "digests": {
                    str(i): {
                        name: parents[i].tensor_digest(name).hex()
                        for name in names
                        if name in parents[i]
                    }
                    for i in hashed
                },
            },
        )


class PartFile:
    """The stretch of a safetensors file that holds the tensors ``names``: a sink for them.

    Pages that lie inside the stretch are written; ``edges`` are the bytes before and after them.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        with path.open("rb") as handle:
            header = read_header(path, handle)
        self._offsets = header.offsets
        self._storage = {name: STORAGE[header.tensors[name].dtype] for name in names}
        ends = [header.offsets[name] + header.tensors[name].nbytes for name in names]
        self._start, stop = min(header.offsets[name] for name in names), max(ends)
        self._first = min(-(-self._start // PAGE) * PAGE, stop)
        self._last = max(stop // PAGE * PAGE, self._first)
        self._head = bytearray(self._first - self._start)
        self._tail = bytearray(stop - self._last)
        self._file = open_sized(path, header.file_size)

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        """Storage values at element ``start`` of a tensor, from any thread."""
        data = np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data
        offset = self._offsets[name] + start * stored.itemsize
        head, inside, tail = _cut(offset, len(data), self._first, self._last)
        if head:
            place = offset - self._start
            self._head[place : place + head] = data[:head]
        if inside:
            self._file.write(data[head : head + inside], offset + head)
        if tail:
            place = offset + head + inside - self._last
            self._tail[place : place + tail] = data[head + inside :]

    def room(self, name: str, start: int, size: int) -> Iterator[np.ndarray]:
        """Memory for ``size`` storage values, which is written once it is filled."""
        values = np.empty(size, self._storage[name])
        yield values
        self.write(name, start, values)

    @property
    def edges(self) -> list[tuple[int, bytes]]:
        """(position in the file, bytes) of what is left to the parent."""
        both = ((self._start, self._head), (self._last, self._tail))
        return [(offset, bytes(data)) for offset, data in both if data]

    def finish(self) -> None:
        """Wait until everything is on the disk."""
        self._file.finish()

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _cut(offset: int, length: int, first: int, last: int) -> tuple[int, int, int]:
    """How many of ``length`` bytes at ``offset`` lie before ``first``, up to ``last``, after."""
    head = min(max(first - offset, 0), length)
    tail = min(max(offset + length - last, 0), length - head)
    return head, length - head - tail, tail


def _groups_of(job: MergeJob, names: Sequence[str]) -> dict[str, list[Work]]:
    """Works of this part that need sums over the whole model; keys are the same in every part."""
    wanted = set(names)
    groups = model_groups(job.plan.works).values()
    return {
        str(number): [work for work in group if work.info.name in wanted]
        for number, group in enumerate(groups)
    }


def _take_sums(
    engine: Engine, groups: Mapping[str, list[Work]], inputs: Folders, passes: int
) -> None:
    """End the first ``passes`` passes with what the jobs in ``inputs`` have gathered."""
    for number in range(passes):
        files = [
            np.load(folder / "sums.npz")
            for name, folder in sorted(inputs.items())
            if name.startswith(f"{number}:")
        ]
        for key, group in groups.items():
            if not group or not group[0].model_passes_left:
                continue
            sums = BlockSums()
            for file in files:
                own = {k.removeprefix(f"{key} "): file[k] for k in file if k.startswith(f"{key} ")}
                sums.add_arrays(own)
            engine.finish_model_pass(group, sums if sums.arrays() else None)
        for file in files:
            file.close()
