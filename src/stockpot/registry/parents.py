"""Whom does a model come from, where nobody says? Sketches first, then rules of thumb.

The tensors in common decide; a head that a model does not share with its relatives says nothing. A
model rarely has another tokenizer than its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.dtypes import Array, narrow, widen
from stockpot.checkpoints.matching import align
from stockpot.registry.geometry import (
    RELATED,
    AffineMix,
    Vectors,
    agreement,
    climb,
    mixture,
    scales,
)
from stockpot.registry.index import Row
from stockpot.registry.manifest import Link
from stockpot.registry.registry import Registry
from stockpot.registry.sketch import family_of, matrices, values_each

# Matrices that two models must have in common, as a share of the smaller one's.
_COMMON = 0.5
# Residual of a combination that still counts as a merge, and what 16-bit rounding adds to it.
_MERGED = 0.03
_ROUNDING = {"BF16": 2.0**-9, "F16": 2.0**-12}
# Which of two relatives came first cannot be seen; the one that was here first is taken, mostly.
_DIRECTION = 0.9
_OTHER_TOKENIZER = 0.3


@dataclass(frozen=True)
class Guess:
    """Probable parents of a model, in words, and as edges with how sure that is (0 to 1).

    ``agreement`` is the correlation with the nearest relative found: 0 strangers, 1 equal.
    """

    links: tuple[Link, ...]
    words: str
    confidence: float
    agreement: float


@dataclass(frozen=True)
class _Relatives:
    """Candidates in one space: sketches of the matrices that all have in common with the model."""

    rows: list[Row]
    own: Vectors
    vectors: Vectors
    matrices: int


def find_parents(
    registry: Registry,
    tensors: Mapping[str, TensorInfo],
    values: Array,
    tokenizer: str | None,
) -> Guess:
    """Look for the parents of a model among those of the registry.

    ``values`` is its sketch, ``tokenizer`` the hash of its tokenizer.
    """
    near = _candidates(registry, tensors, values)
    if near is None:
        return Guess((), "no model here has matrices in common with it by name and shape", 0.0, 0.0)
    likeness = agreement(near.own, near.vectors, near.matrices)
    related = [int(place) for place in np.flatnonzero(likeness >= RELATED)]
    top = float(likeness.max())
    if not related:
        words = (
            f"no relative among {len(near.rows)} models of its architecture: the largest agreement "
            f"of weights is {top:.2f} (0 strangers, 1 equal)"
        )
        return Guess((), words, 0.0, top)
    same = _export(near, int(np.argmax(likeness)))
    if same is not None:
        return same
    scale = scales(near.vectors[related], near.matrices)
    y, vectors = near.own / scale, near.vectors / scale
    parents = _known_parents(registry, near.rows)
    found = climb(y, vectors, parents, related)
    root = _root(found.place, parents, set(related))
    merged = mixture(y, vectors, root, related)
    if merged is not None and _is_merge(merged, y - vectors[root], y, tensors):
        return _merge(near.rows, root, merged, top)
    return _child(near.rows[found.place], found.confidence, float(likeness[found.place]), tokenizer)


def _candidates(
    registry: Registry, tensors: Mapping[str, TensorInfo], values: Array
) -> _Relatives | None:
    taken = matrices(tensors)
    shapes = {info.name: info.shape for info in taken}
    own_family = family_of(taken)
    groups: list[tuple[str, dict[str, str], list[str]]] = []
    for family, number in registry.index.families().items():
        if family == own_family:
            groups.append((family, {name: name for name in shapes}, list(shapes)))
            continue
        (row,) = registry.index.by_number([number])
        stored = registry.manifest(row.id).tensors()
        others = matrices({name: each.info for name, each in stored.items()})
        names = align(shapes, {info.name: info.shape for info in others}).names
        if len(names) >= _COMMON * min(len(shapes), len(others)):
            groups.append((family, dict(names), [info.name for info in others]))
    if not groups:
        return None
    common = [name for name in shapes if all(name in names for _, names, _ in groups)]
    if len(common) < _COMMON * len(shapes):
        # Families that share little with the rest are left out rather than hiding the others.
        groups = [max(groups, key=lambda group: len(group[1]))]
        common = list(groups[0][1])
    each = min(values_each(len(shapes)), *(values_each(len(order)) for _, _, order in groups))
    place = {name: row for row, name in enumerate(shapes)}
    numbers: list[int] = []
    parts: list[Array] = []
    for family, names, order in groups:
        found, sketches = registry.index.sketches(family)
        if not found:
            continue
        at = {name: row for row, name in enumerate(order)}
        chosen = [at[names[name]] for name in common]
        grid = np.frombuffer(b"".join(sketches), "<f4").reshape(len(found), len(order), -1)
        parts.append(grid[:, chosen, :each].reshape(len(found), -1))
        numbers += found
    own = values[[place[name] for name in common], :each].reshape(-1)
    rows = {row.num: row for row in registry.index.rows()} if numbers else {}
    vectors = np.concatenate(parts).astype(np.float64)
    vectors[~np.isfinite(vectors)] = 0.0
    return _Relatives(
        [rows[number] for number in numbers], own.astype(np.float64), vectors, len(common)
    )


def _export(near: _Relatives, place: int) -> Guess | None:
    """Whether the model is the nearest one itself, or that rounded to 16 bits."""
    own, other = near.own.astype(np.float32), near.vectors[place].astype(np.float32)
    row = near.rows[place]
    for code, said in (("F32", "the same"), ("BF16", "rounded to bfloat16"), ("F16", "in float16")):
        if np.array_equal(own, widen(narrow(other, code), code).astype(np.float32)):
            words = (
                f"the weights are those of {row.name} ({row.id[:8]}), {said}, as far as compared"
            )
            return Guess((_link(row, "base", None, 0.99),), words, 0.99, 1.0)
    return None


def _known_parents(registry: Registry, rows: Sequence[Row]) -> dict[int, list[int]]:
    place = {row.num: index for index, row in enumerate(rows)}
    found: dict[int, list[int]] = {}
    for edge in sorted(registry.index.edges(), key=lambda edge: edge.role != "base"):
        if edge.parent in place and edge.child in place:
            found.setdefault(place[edge.child], []).append(place[edge.parent])
    return found


def _root(place: int, parents: Mapping[int, Sequence[int]], known: set[int]) -> int:
    """The oldest ancestor along first parents: the point from which steps are counted."""
    seen = {place}
    while True:
        above = [each for each in parents.get(place, ()) if each in known and each not in seen]
        if not above:
            return place
        place = above[0]
        seen.add(place)


def _is_merge(
    merged: AffineMix, step: Vectors, y: Vectors, tensors: Mapping[str, TensorInfo]
) -> bool:
    rounding = max((_ROUNDING.get(info.dtype, 0.0) for info in tensors.values()), default=0.0)
    floor = rounding * float(np.linalg.norm(y)) / max(float(np.linalg.norm(step)), 1e-30)
    lone = len(merged.members) == 1 and abs(merged.weights[0] - 1.0) < 0.02
    return not lone and merged.rest < min(_MERGED + floor, 0.3)


def _merge(rows: Sequence[Row], root: int, merged: AffineMix, top: float) -> Guess:
    confidence = max(0.5, 1.0 - 2.0 * merged.rest)
    links = [_link(rows[root], "base", None, confidence)]
    order = np.argsort(merged.weights)[::-1]
    for each in order:
        weight = round(merged.weights[each], 4)
        links.append(_link(rows[merged.members[each]], "model", weight, confidence))
    said = ", ".join(
        f"{merged.weights[each]:.2f} {rows[merged.members[each]].name}" for each in order
    )
    words = (
        f"looks like a merge over {rows[root].name}: {said} of their task vectors; "
        f"{merged.rest:.1%} of the change is left unexplained ({confidence:.0%} sure)"
    )
    return Guess(tuple(links), words, confidence, top)


def _child(row: Row, confidence: float, likeness: float, tokenizer: str | None) -> Guess:
    notes = ""
    confidence *= _DIRECTION
    if tokenizer is not None and row.tokenizer is not None and tokenizer != row.tokenizer:
        confidence *= _OTHER_TOKENIZER
        notes += "; but their tokenizers differ"
    words = (
        f"probably comes from {row.name} ({row.id[:8]}): agreement of weights {likeness:.3f}, "
        f"{confidence:.0%} sure{notes}"
    )
    return Guess((_link(row, "base", None, confidence),), words, confidence, likeness)


def _link(row: Row, role: str, weight: float | None, confidence: float) -> Link:
    return Link(row.name, row.digest, role, weight, row.id, "inferred", round(confidence, 4))
