"""``merge``: the weights of several models into one, from paths or memory, to a path or memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from stockpot.checkpoints.memory import is_torch
from stockpot.checkpoints.writer import DEFAULT_SHARD
from stockpot.merging.alignment import Heads
from stockpot.merging.backends import backend_for
from stockpot.merging.engine import Options
from stockpot.merging.job import MergeJob, Source, Spec
from stockpot.merging.output import check_output, write_output
from stockpot.merging.report import MergeReport
from stockpot.merging.settings import Rule
from stockpot.merging.sinks import MemorySink
from stockpot.progress import progress


@dataclass(frozen=True)
class Merged:
    """Result in memory: ``state`` (name -> array or tensor, as the models were) and ``report``."""

    state: dict[str, Any]
    report: MergeReport


@overload
def merge(models: Sequence[Source], *, output: None = ..., **rest: Any) -> Merged: ...
@overload
def merge(models: Sequence[Source], *, output: str | Path, **rest: Any) -> MergeReport: ...


def merge(
    models: Sequence[Source],
    *,
    method: str = "linear",
    base: Source | None = None,
    output: str | Path | None = None,
    rules: Sequence[Rule] = (),
    heads: Heads = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    block_elements: int | None = None,
    device: str = "cpu",
    allow_nonfinite: bool = False,
    max_shard_size: int = DEFAULT_SHARD,
    hash_parents: bool | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    **parameters: Any,
) -> Merged | MergeReport:
    """Combine the weights of ``models`` into one.

    Args:
        models: paths of files or folders, hub ids, LoRA adapters, states in memory (names -> numpy
            arrays or torch tensors), open checkpoints.
        method: name of a merge method (``stockpot.merging.available_methods``).
        base: the model that all were fine-tuned from, for methods that work on differences.
        output: None returns the state; a path that ends in ``.safetensors`` is written as a file,
            any other as a model folder with config, tokenizer, card and report.
        rules: other methods or parameters for some tensors.
        heads: what happens to tensors that do not fit, see ``alignment.py``.
        dtype: type of the result ("bfloat16", ...); None keeps the models'.
        threads, block_elements, device: how to work; changes no bit on the CPU. ``device`` "cuda"
            needs torch.
        allow_nonfinite: merge NaN and infinity instead of refusing them.
        max_shard_size: bytes of a file in an output folder.
        hash_parents: record the parents' content hashes; by default for outputs on disk (half a
            second a gigabyte on one core, mostly while the disk writes).
        overwrite: replace an output that exists.
        quiet: show no progress.
        **parameters: those of the method, and its statistics files (``fisher=[...]``).

    Returns:
        ``Merged`` without output: tensors of the kind the models have (bfloat16 from paths or numpy
        comes as float32 of equal value). With output the ``MergeReport``.

    Raises:
        MethodError: unknown method, a parameter outside its range, or a missing base.
        CheckpointError: a model that cannot be read or does not fit; ``NonFiniteError`` for NaN.
        OutputError: the output exists or cannot be written.
    """
    spec = Spec(models, method, base, parameters, rules, heads, dtype)
    options = Options(threads, block_elements, allow_nonfinite, backend_for(device))
    return run_merge(
        spec,
        output,
        options=options,
        max_shard_size=max_shard_size,
        hash_parents=hash_parents,
        overwrite=overwrite,
        quiet=quiet,
    )


def run_merge(
    spec: Spec,
    output: str | Path | None = None,
    *,
    options: Options | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    hash_parents: bool | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> Merged | MergeReport:
    """``merge`` for what a recipe file says (``load_recipe``)."""
    started = time.perf_counter()
    if output is not None:
        # Before anything is opened: a merge of an hour must not end in a refusal.
        check_output(Path(output), overwrite=overwrite)
    with MergeJob(spec, options) as job, progress("merge", job.elements, quiet=quiet) as advance:
        if output is not None:
            return write_output(
                job,
                Path(output),
                advance,
                max_shard_size=max_shard_size,
                hash_parents=hash_parents is not False,
                overwrite=overwrite,
            )
        sink = MemorySink(job.prepare())
        job.run(sink, advance)
        digests = job.digests() if hash_parents else None
        report = job.report(digests, time.perf_counter() - started)
        return Merged(sink.state(torch=_any_torch(spec.models)), report)


def _any_torch(models: Sequence[Source]) -> bool:
    for model in models:
        if isinstance(model, Spec):
            if _any_torch(model.models):
                return True
        elif isinstance(model, Mapping) and any(is_torch(value) for value in model.values()):
            return True
    return False
