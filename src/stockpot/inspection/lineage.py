"""Does a checkpoint descend from a base? Asked before weights from the wild are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from stockpot.errors import LineageError, NonFiniteError
from stockpot.inspection.compare import Names, compare
from stockpot.inspection.result import Inspection, Pair, Verdict
from stockpot.inspection.shifts import describe_moves, moved_layers
from stockpot.inspection.sources import Source, open_all, short_name, unused
from stockpot.inspection.verdict import some


@dataclass(frozen=True)
class Lineage:
    """The evidence that a candidate descends from a base.

    Medians over ``layers`` matrices of ``cosine`` and chance-``adjusted`` cosine; ``distance`` is
    the mean, ``largest`` the maximum of ||candidate - base|| / sqrt(||candidate|| ||base||).
    ``foreign`` names the layers that share nothing with the base's.
    """

    verdict: Verdict
    reason: str
    cosine: float | None
    adjusted: float | None
    distance: float
    largest: float
    layers: int
    foreign: tuple[str, ...]

    @property
    def doubt(self) -> str | None:
        """Why an average with the base may be noise, in one sentence; None where nothing says so.

        Far from the base, or with layers of another origin among those that were asked about.
        """
        if self.verdict == "probably related":
            return self.reason
        if self.foreign:
            return (
                f"{len(self.foreign)} of {self.layers} layers share no ancestor with the base's "
                f"({some(self.foreign)}): their average would be noise"
            )
        return None


def check_lineage(
    base: Source, candidate: Source, *, names: Names = None, quick: bool = False
) -> Lineage:
    """Return the evidence that ``candidate`` descends from ``base``.

    Both are paths, hub ids, open checkpoints or states in memory; ``names`` restricts the question
    to some tensors of the base (names or globs). Two siblings look alike to this test: it tells
    strangers from relatives, not parent from child.

    Raises ``LineageError`` when the two share no ancestor, have another architecture, or are the
    same weights with permuted channels, and ``NonFiniteError`` when the candidate holds NaN or
    infinity; both name the model and the reason. Ask ``doubt`` of what is returned.
    """
    base_label = short_name(base) or "the base"
    label = unused(short_name(candidate) or "the candidate", [base_label])
    found = compare({base_label: base, label: candidate}, names=names, quick=quick)
    for bad in found.nonfinite:
        raise NonFiniteError(
            f"{bad.model}: {bad.count} values of '{bad.tensor}' are NaN or infinite, "
            f"first at {list(bad.index)}"
        )
    if found.verdict in ("unrelated", "different architecture"):
        raise LineageError(
            f"{label} does not descend from {base_label}: {found.reason}",
            hint="use weights that were fine-tuned from this base",
        )
    pair = found.pairs[0]
    if pair.permuted:
        raise LineageError(
            f"{label} has the channels of {base_label} in another order: channels are permuted in "
            f"{some(pair.permuted)}; their average would be noise",
            hint="use weights that kept the base's order",
        )
    distances = [
        layer.distance[0]
        for layer in found.layers
        if layer.counted and layer.distance[0] is not None
    ] or [0.0]
    return Lineage(
        verdict=found.verdict,
        reason=found.reason,
        cosine=pair.cosine,
        adjusted=pair.adjusted,
        distance=float(np.mean(distances)),
        largest=float(np.max(distances)),
        layers=pair.layers,
        foreign=pair.foreign,
    )


def refuse_strangers(
    models: Sequence[Source] | Mapping[str, Source], base: Source | None = None
) -> tuple[str, ...]:
    """Raise ``LineageError`` where models share no ancestor: their average would be noise.

    The error says what was seen layer by layer. Returns what is worth a note where they may be
    averaged, one line each: layers of another origin, models that lie far apart.
    """
    if len(models) + (base is not None) < 2:
        return ()
    found = compare(models, base, quick=True)
    if found.verdict in ("identical", "same ancestor"):
        return tuple(_foreign(pair) for pair in found.pairs if pair.foreign)
    weights = list(models.values()) if isinstance(models, Mapping) else list(models)
    moves = _moves([*([base] if base is not None else []), *weights], found)
    seen = "; ".join(([found.reason] if found.verdict == "unrelated" else []) + moves)
    if found.verdict == "unrelated":
        seen = f"these models have no ancestor in common: {seen}"
    if seen:
        raise LineageError(seen, hint=_next_step(found, moves))
    return (found.reason,) if found.verdict == "probably related" else ()


def _foreign(pair: Pair) -> str:
    return (
        f"{pair.first} and {pair.second} share an ancestor, but not in {some(pair.foreign)} "
        f"({len(pair.foreign)} of {pair.layers} layers that were looked at), where an average is "
        "noise: take these from one model with a rule"
    )


def _moves(models: Sequence[Source], found: Inspection) -> list[str]:
    """Which layers of the models are layers of the first one under other numbers."""
    lines = []
    labels = [model.name for model in found.models]
    with ExitStack() as stack:
        opened = list(open_all(stack, dict(zip(labels, models, strict=True))).values())
        for label, model in zip(labels[1:], opened[1:], strict=True):
            if moved := moved_layers(opened[0], model):
                lines.append(describe_moves(moved, labels[0], label))
    return lines


def _next_step(found: Inspection, moves: Sequence[str]) -> str:
    if moves:
        return (
            "number them alike first: a mergekit recipe with slices; --force takes them as they are"
        )
    if any(pair.permuted for pair in found.pairs):
        return (
            "--align puts the hidden units of known layers in one order; or use weights that kept "
            "the order of their ancestor; --force takes them anyway"
        )
    names = [model.name for model in found.models]
    alone = [
        name
        for name in names
        if all(one.verdict == "unrelated" for one in found.pairs if name in (one.first, one.second))
    ]
    if len(alone) == 1 < len(names) - 1:
        return f"leave out {alone[0]}; stockpot inspect tells more"
    return "stockpot inspect tells more; --force takes them all the same"
