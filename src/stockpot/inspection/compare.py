"""Do these models belong together? The whole inspection, from sources to a verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.matching import Alignment, align, shapes_of, with_own_experts
from stockpot.errors import InputError
from stockpot.inspection import verdict as judge
from stockpot.inspection.layers import Measured, build_layer, matrices, total_deltas
from stockpot.inspection.measure import BLOCK, Identity, block_size, measure, rows_of
from stockpot.inspection.permutation import LARGEST, is_permuted
from stockpot.inspection.result import Bad, InspectedModel, Inspection, Layer, Pair, Verdict
from stockpot.inspection.sources import FLOATING, Source, name_sources, open_all, short_name, unused
from stockpot.inspection.words import notes
from stockpot.progress import progress
from stockpot.system import usable_cores

# A matrix decides with the rest from this many rows and weights on; smaller ones say too little.
_MIN_ROWS = 8
_MIN_ELEMENTS = 64
# What a quick inspection reads: so many tensors, evenly through the model, so many blocks of each,
# so many elements in a block.
_QUICK_TENSORS = 32
_QUICK_BLOCKS = 2
_QUICK_ELEMENTS = 1 << 14
# Foreign layers that are looked at for permuted channels: so many a pair, the small ones first, but
# those below so many weights last, since matching finds too much in them.
_PERMUTED_LAYERS = 4
_PERMUTED_ELEMENTS = 1 << 10

Names = Sequence[str] | str | None


def compare(
    models: Sequence[Source] | Mapping[str, Source],
    base: Source | None = None,
    *,
    names: Names = None,
    quick: bool = False,
    threads: int | None = None,
    quiet: bool = True,
) -> Inspection:
    """Compare models with each other and with the base they are said to come from.

    ``models`` and ``base`` are paths, hub ids, open checkpoints or states in memory (numpy or
    torch); a mapping gives the models their names. ``names`` restricts the inspection to tensors of
    these names or globs. ``quick`` reads a sample: enough for the verdict, in a fraction of the
    time. The result does not depend on ``threads``. Memory: a few blocks per model and thread.

    Raises ``InputError`` without models or when ``names`` matches nothing, and what opening a
    checkpoint raises. Values that are NaN or infinite are reported, not raised.
    """
    named = name_sources(models)
    base_name = None
    if base is not None:
        base_name = short_name(base) or "base"
        if base_name in named:
            base_name = unused(f"{base_name} (base)", named)
        named = {base_name: base, **named}
    with ExitStack() as stack:
        opened = open_all(stack, named)
        return _compare(opened, base_name, names, quick, threads, quiet)


@dataclass(frozen=True)
class _Job:
    """One tensor to measure: its name in each model, in the order of the models."""

    name: str
    shape: tuple[int, ...]
    places: tuple[str, ...]
    floating: bool
    counted: bool


def _compare(
    opened: Mapping[str, Checkpoint],
    base_name: str | None,
    names: Names,
    quick: bool,
    threads: int | None,
    quiet: bool,
) -> Inspection:
    weights, _ = with_own_experts(list(opened.values()))
    shapes = [shapes_of(each) for each in weights]
    wanted = _select(shapes[0], names)
    alignments = [align(shapes[0], shape) for shape in shapes]
    if names is not None:
        alignments = [_restrict(alignment, wanted) for alignment in alignments]
    parts = _different(opened, shapes, alignments, wanted)
    jobs = [] if parts else _jobs(weights, alignments, wanted)
    if quick:
        jobs = _sample(jobs)
    same = Identity(len(weights))
    for place, alignment in enumerate(alignments):
        if alignment.missing or alignment.extra or alignment.reshaped:
            same.drop(place)

    def run(job: _Job) -> Measured:
        blocks = _in_step(weights, job, quick)
        sums = measure(blocks, job.shape, same)
        return Measured(job.name, job.shape, job.floating, job.counted, sums)

    measured = _run_all(run, jobs, threads, quiet)
    labels = list(opened)
    layers = tuple(build_layer(each, base_name is not None) for each in measured if each.floating)
    pairs = tuple(
        _pair(labels, i, j, layers, index, same, parts)
        for index, (i, j) in enumerate(combinations(range(len(labels)), 2))
    )
    pairs = tuple(replace(pair, permuted=_permuted(opened, pair, jobs)) for pair in pairs)
    outcome = judge.worst([pair.verdict for pair in pairs])
    bad = tuple(_bad(labels, each) for each in measured)
    described = tuple(
        _model(label, each, alignment, measured, place, base_name is not None)
        for place, (label, each, alignment) in enumerate(
            zip(labels, weights, alignments, strict=True)
        )
    )
    deltas = total_deltas(measured) if base_name is not None and len(labels) > 1 else None
    delta_pairs = tuple(combinations(labels[1:], 2)) if base_name is not None else ()
    nonfinite = tuple(item for group in bad for item in group)
    return Inspection(
        verdict=outcome,
        reason=judge.explain(outcome, pairs, parts),
        notes=notes(described, pairs, deltas, delta_pairs, layers, nonfinite, base_name),
        base=base_name,
        models=described,
        pairs=pairs,
        delta_pairs=delta_pairs,
        deltas=deltas,
        layers=layers,
        nonfinite=nonfinite,
        quick=quick,
    )


def _select(shapes: Mapping[str, tuple[int, ...]], names: Names) -> list[str]:
    if names is None:
        return list(shapes)
    patterns = [names] if isinstance(names, str) else list(names)
    exact = set(patterns)
    globs = [pattern for pattern in patterns if pattern not in shapes]
    chosen = [
        name
        for name in shapes
        if name in exact or any(fnmatchcase(name, pattern) for pattern in globs)
    ]
    if not chosen:
        raise InputError(
            f"no tensor is called {', '.join(patterns) or '(nothing)'}",
            hint=f"the first tensors are {', '.join(list(shapes)[:3])}",
        )
    return chosen


def _restrict(alignment: Alignment, wanted: Sequence[str]) -> Alignment:
    keep = set(wanted)
    return Alignment(
        {name: other for name, other in alignment.names.items() if name in keep},
        alignment.reference_prefix,
        alignment.prefix,
        tuple(name for name in alignment.missing if name in keep),
        (),
        {name: shapes for name, shapes in alignment.reshaped.items() if name in keep},
    )


def _is_matrix(shape: Sequence[int]) -> bool:
    rows, row = rows_of(shape)
    return rows >= _MIN_ROWS and row > 1 and rows * row >= _MIN_ELEMENTS


def _different(
    opened: Mapping[str, Checkpoint],
    shapes: Sequence[Mapping[str, tuple[int, ...]]],
    alignments: Sequence[Alignment],
    wanted: Sequence[str],
) -> dict[str, str]:
    """Per model that has too little in common with the first: the reason."""
    labels = list(opened)
    parts: dict[str, str] = {}
    reference = [name for name in wanted if _is_matrix(shapes[0][name])] or list(wanted)
    for label, shape, alignment in zip(labels[1:], shapes[1:], alignments[1:], strict=True):
        own = [name for name in shape if _is_matrix(shape[name])] or list(shape)
        common = sum(name in alignment.names for name in reference)
        smaller = min(len(reference), len(own)) if len(wanted) == len(shapes[0]) else len(reference)
        if smaller and common >= judge.COVERAGE * smaller:
            continue
        if alignment.reshaped:
            name, (ours, theirs) = next(iter(alignment.reshaped.items()))
            example = f"'{name}' is {list(ours)} and {list(theirs)}"
        elif alignment.missing:
            example = f"{label} has no '{alignment.missing[0]}'"
        else:
            example = "a model has no tensors"
        parts[label] = (
            f"{labels[0]} and {label} have only {common} of {smaller} matrices in common by name "
            f"and shape: {example}"
        )
    return parts


def _jobs(
    weights: Sequence[Checkpoint], alignments: Sequence[Alignment], wanted: Sequence[str]
) -> list[_Job]:
    jobs = []
    for name in wanted:
        if any(name not in alignment.names for alignment in alignments):
            continue
        places = tuple(alignment.names[name] for alignment in alignments)
        infos = [each.info(place) for each, place in zip(weights, places, strict=True)]
        shape = tuple(infos[0].shape)
        if 0 in shape:
            continue
        floating = all(info.dtype in FLOATING for info in infos)
        jobs.append(_Job(name, shape, places, floating, floating and _is_matrix(shape)))
    return jobs


def _sample(jobs: Sequence[_Job]) -> list[_Job]:
    counted = [job for job in jobs if job.counted] or list(jobs)
    if len(counted) <= _QUICK_TENSORS:
        return counted
    chosen = np.linspace(0, len(counted) - 1, _QUICK_TENSORS).round().astype(int)
    return [counted[index] for index in chosen]


def _in_step(
    weights: Sequence[Checkpoint], job: _Job, quick: bool
) -> Iterator[Sequence[NDArray[Any]]]:
    size = block_size(job.shape, _QUICK_ELEMENTS if quick else BLOCK)
    streams = [each.blocks(place, size) for each, place in zip(weights, job.places, strict=True)]
    return islice(zip(*streams, strict=True), _QUICK_BLOCKS if quick else None)


def _run_all(
    run: Callable[[_Job], Measured], jobs: Sequence[_Job], threads: int | None, quiet: bool
) -> list[Measured]:
    workers = max(1, threads if threads is not None else min(4, usable_cores()))
    with (
        progress("inspecting", len(jobs), quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        done = []
        for result in pool.map(run, jobs):
            done.append(result)
            advance()
    return done


def _pair(
    labels: Sequence[str],
    i: int,
    j: int,
    layers: Sequence[Layer],
    index: int,
    same: Identity,
    parts: Mapping[str, str],
) -> Pair:
    counted = [layer for layer in layers if layer.counted and layer.adjusted[index] is not None]
    adjusted = np.array([layer.adjusted[index] for layer in counted], dtype=np.float64)
    cosines = [layer.cosine[index] for layer in counted]
    distances = [layer.distance[index] for layer in counted]
    rounded = same.rounded[(i, j)]
    exact = (i, j) in same.exact
    rounding = None if exact or not rounded else ("F16" if "F16" in rounded else "BF16")
    outcome: Verdict
    if labels[i] in parts or labels[j] in parts:
        outcome = "different architecture"
    elif exact or rounding:
        outcome = "identical"
    else:
        outcome = judge.judge_pair(adjusted, [layer.elements for layer in counted])
    is_shared = adjusted >= judge.SHARED_LAYER
    return Pair(
        first=labels[i],
        second=labels[j],
        verdict=outcome,
        cosine=_median(cosines),
        adjusted=_median(list(adjusted)),
        distance=_median(distances),
        layers=len(counted),
        shared=int(is_shared.sum()),
        foreign=tuple(
            layer.name for layer, shared in zip(counted, is_shared, strict=True) if not shared
        ),
        permuted=(),
        rounding=rounding,
    )


def _permuted(
    opened: Mapping[str, Checkpoint], pair: Pair, jobs: Sequence[_Job]
) -> tuple[str, ...]:
    """Foreign layers of a pair that are the same weights with channels in another order."""
    if pair.verdict == "different architecture":
        return ()
    foreign = set(pair.foreign)
    places = [list(opened).index(label) for label in (pair.first, pair.second)]
    tested = [job for job in jobs if job.name in foreign and math.prod(job.shape) <= LARGEST]
    tested.sort(key=lambda job: (math.prod(job.shape) < _PERMUTED_ELEMENTS, math.prod(job.shape)))
    permuted = set()
    for job in tested[:_PERMUTED_LAYERS]:
        first, second = (list(opened.values())[place].read(job.places[place]) for place in places)
        if is_permuted(first, second, judge.SAME):
            permuted.add(job.name)
    return tuple(name for name in pair.foreign if name in permuted)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return judge.median(np.array(known)) if known else None


def _bad(labels: Sequence[str], measured: Measured) -> list[Bad]:
    return [
        Bad(
            labels[place],
            measured.name,
            count,
            tuple(int(each) for each in np.unravel_index(position, measured.shape)),
        )
        for place, (count, position) in sorted(measured.sums.nonfinite.items())
    ]


def _model(
    label: str,
    weights: Checkpoint,
    alignment: Alignment,
    measured: Sequence[Measured],
    place: int,
    has_base: bool,
) -> InspectedModel:
    infos = [weights.info(name) for name in weights.names]
    sizes = [math.prod(info.shape) for info in infos]
    distance: float | None = None
    untrained: tuple[str, ...] | None = None
    if has_base:
        sound = matrices(measured)
        norm = sum(float(sums.gram[0, 0]) for sums in sound)
        change = sum(float(sums.deltas[place, place]) for sums in sound)
        distance = float(np.sqrt(change / norm)) if norm else None
        untrained = tuple(
            each.name
            for each in measured
            if each.floating and each.sums.deltas[place, place] == 0.0
        )
    return InspectedModel(
        name=label,
        tensors=len(infos),
        parameters=sum(sizes),
        dtypes=dict(Counter(info.dtype for info in infos)),
        renamed=alignment.renamed,
        missing=alignment.missing,
        extra=alignment.extra,
        reshaped=alignment.reshaped,
        distance=distance,
        untrained=untrained,
        coarse=tuple(each.name for each in measured if each.counted and place in each.sums.coarse),
    )
