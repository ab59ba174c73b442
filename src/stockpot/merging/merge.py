"""``merge``: the weights of several models into one, from paths or memory, to a path or memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from stockpot.checkpoints.memory import is_torch
from stockpot.checkpoints.writer import DEFAULT_SHARD
from stockpot.errors import InputError
from stockpot.merging.alignment import Heads
from stockpot.merging.backends import backend_for
from stockpot.merging.engine import Options
from stockpot.merging.job import (
    AlignedSource,
    Dtype,
    HasState,
    MergeJob,
    Source,
    Spec,
    aligned_spec,
)
from stockpot.merging.output import check_output, write_output
from stockpot.merging.report import MergeReport
from stockpot.merging.settings import Rule
from stockpot.merging.sinks import MemorySink
from stockpot.progress import progress

if TYPE_CHECKING:
    from typing import Unpack

    from stockpot.execution import Backend
    from stockpot.merging.keywords import MergeOptions

Models = str | Path | Spec | Sequence[Source]
"""A recipe (its file, or what ``load_recipe`` gave), or the models themselves."""


@dataclass(frozen=True)
class Merged:
    """Result in memory: ``state`` (name -> array or tensor, as the models were) and ``report``."""

    state: dict[str, Any]
    report: MergeReport

    def __repr__(self) -> str:
        models = sum(parent.role == "model" for parent in self.report.parents)
        return f"Merged({len(self.state)} tensors by {self.report.method} of {models} models)"


@overload
def merge(models: Models, *, output: None = ..., **options: Unpack[MergeOptions]) -> Merged: ...
@overload
def merge(
    models: Models, *, output: str | Path, **options: Unpack[MergeOptions]
) -> MergeReport: ...


def merge(
    models: Models,
    *,
    method: str | None = None,
    base: Source | None = None,
    output: str | Path | None = None,
    rules: Sequence[Rule] = (),
    heads: Heads | None = None,
    dtype: Dtype | None = None,
    align: bool = False,
    vocabulary: Source | None = None,
    threads: int | None = None,
    processes: int = 1,
    block_elements: int | None = None,
    device: str = "cpu",
    backend: str | Backend | None = None,
    jobs: int | None = None,
    address: str | None = None,
    allow_nonfinite: bool = False,
    force: bool = False,
    check_load: bool = True,
    max_shard_size: int = DEFAULT_SHARD,
    hash_parents: bool | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    **parameters: Any,
) -> Merged | MergeReport:
    """Combine the weights of ``models`` into one.

    Args:
        models: paths of files or folders, hub ids, LoRA adapters, modules of torch, states in
            memory (names -> numpy arrays or torch tensors), open checkpoints; or one recipe, whose
            words the others below replace.
        method: name of a merge method (``stockpot.merging.available_methods``), default "linear".
        base: the model that all were fine-tuned from, for methods that work on differences.
        output: None returns the state; a path that ends in ``.safetensors`` is written as a file,
            any other as a model folder with config, tokenizer, card and report.
        rules: other methods or parameters for some tensors.
        heads: what happens to tensors that do not fit: "auto" (the default), "mean", "first" or
            "drop".
        dtype: type of the result ("bfloat16", torch.bfloat16, ...); None keeps the models'.
        align: put each model's hidden units in the order of the base's, or without one of the first
            model's: for models of different starts. Feed-forward blocks and plain chains of linear
            layers; refused where none is recognised.
        vocabulary: a model whose tokens and tokenizer the result gets (``transplant.py``).
        threads, processes, block_elements, device: how to work; changes no bit on the CPU. Forked
            ``processes`` are for large models, from a program that has no other threads.
            ``device`` "cuda" needs torch.
        backend, jobs, address: share the tensors out over ``jobs`` workers, see
            :func:`.distributed.merge_with`; models and output are paths then.
        allow_nonfinite: merge NaN and infinity instead of refusing them.
        force: merge models whose configs give their weights other meanings.
        check_load: have transformers or timm, where installed, load an output folder of theirs,
            without data, before it is kept; what is missing or left over is an error.
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
    spec = read_spec(models, method, base, parameters, rules, heads, dtype)
    spec = replace(spec, force=spec.force or force, check_load=spec.check_load and check_load)
    spec = _finished(spec, align, vocabulary)
    if backend is not None or jobs is not None or address is not None:
        return _merge_elsewhere(
            spec,
            output,
            backend,
            jobs,
            address,
            device=device,
            threads=threads or 1,
            allow_nonfinite=allow_nonfinite,
            max_shard_size=max_shard_size,
            hash_parents=hash_parents is not False,
            overwrite=overwrite,
            quiet=quiet,
        )
    workers = backend_for(device)
    options = Options(threads, block_elements, allow_nonfinite, workers, processes)
    return run_merge(
        spec,
        output,
        options=options,
        max_shard_size=max_shard_size,
        hash_parents=hash_parents,
        overwrite=overwrite,
        quiet=quiet,
    )


def _finished(spec: Spec, align: bool, vocabulary: Source | None) -> Spec:
    """``spec``, with what is done before and after its method."""
    if spec.rank is not None:
        raise InputError(
            "the recipe asks for an adapter (rank), which is no merge of whole weights",
            hint="stockpot.merging.write_adapter(load_recipe(...), ...)",
        )
    spec = aligned_spec(spec) if align else spec
    if vocabulary is None:
        return spec
    from stockpot.merging.transplant import transplanted_spec

    return transplanted_spec(spec, vocabulary)


def read_spec(
    models: Models,
    method: str | None = None,
    base: Source | None = None,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    rules: Sequence[Rule] = (),
    heads: Heads | None = None,
    dtype: Dtype | None = None,
) -> Spec:
    """What is to be merged: a recipe with changes over it, or models and a method."""
    dtype = None if dtype is None else str(dtype)
    if not isinstance(models, str | Path | Spec):
        return Spec(models, method or "linear", base, parameters, rules, heads or "auto", dtype)
    if isinstance(models, Spec):
        spec = models
    else:
        from stockpot.merging.recipe import load_recipe

        spec = load_recipe(models)
    if method is not None and method != spec.method:
        raise InputError(f"the recipe's method is '{spec.method}', not '{method}'")
    if spec.layout is not None and base is not None:
        raise InputError("base: a mergekit file names its own", hint="change it in the file")
    return replace(
        spec,
        base=spec.base if base is None else base,
        parameters={**spec.parameters, **parameters},
        rules=[*spec.rules, *rules],
        heads=heads or spec.heads,
        dtype=dtype or spec.dtype,
    )


def _merge_elsewhere(
    spec: Spec,
    output: str | Path | None,
    backend: str | Backend | None,
    jobs: int | None,
    address: str | None,
    *,
    device: str,
    **rest: Any,
) -> MergeReport:
    """By the workers of a backend; on a cluster each gets a GPU unless the device is the CPU."""
    from stockpot.execution import make_backend
    from stockpot.merging.distributed import merge_with

    if backend is None:
        raise InputError("jobs and address need a backend", hint="name one: local or ray")
    if output is None:
        raise InputError("workers merge to a path", hint="give an output")
    gpus = float(device != "cpu") if backend == "ray" else None
    workers = make_backend(backend, jobs, address=address, gpus_per_job=gpus)
    return merge_with(workers, spec, output, device=device, **rest)


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
        check_output(Path(output), spec, overwrite=overwrite)
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
        if isinstance(model, AlignedSource):
            model = model.model
        in_memory = isinstance(model, Mapping) and any(map(is_torch, model.values()))
        inner = isinstance(model, Spec) and _any_torch(model.models)
        if in_memory or inner or isinstance(model, HasState):
            return True
    return False
