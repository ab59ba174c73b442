"""Findings beside the verdict, in words."""

from __future__ import annotations

from collections.abc import Sequence

from stockpot.inspection.result import Bad, Deltas, InspectedModel, Layer, Pair, degrees
from stockpot.inspection.verdict import fixed, some

_SHOWN = 3
# Norms of one layer this far apart make a plain average follow the larger model.
_NORM_RATIO = 2.0
# Pairs of models whose deltas agree this differently (in cosine) are told one by one.
_MIXED = 0.4


def notes(
    models: Sequence[InspectedModel],
    pairs: Sequence[Pair],
    deltas: Deltas | None,
    delta_pairs: Sequence[tuple[str, str]],
    layers: Sequence[Layer],
    nonfinite: Sequence[Bad],
    base: str | None,
) -> tuple[str, ...]:
    """Everything worth telling about names, broken values, single layers and deltas."""
    found = [_broken(bad) for bad in nonfinite]
    strangers = {pair.second for pair in pairs if pair.verdict == "different architecture"} - {
        models[0].name
    }
    for model in models:
        if model.name not in strangers:
            found += _names(model, models[0].name)
    found += [
        _same_again(pair, base)
        for pair in pairs
        if pair.verdict == "identical" and (len(pairs) > 1 or base is not None)
    ]
    found += [_coarse(model) for model in models if model.coarse]
    found += [_permuted(pair) for pair in pairs if pair.permuted]
    found += [_foreign(pair) for pair in pairs if pair.verdict == "same ancestor" and _new(pair)]
    if base is not None:
        found += [
            _untrained(model, base, layers)
            for model in models[1:]
            if model.untrained and len(model.untrained) < len(layers)
        ]
    if deltas is not None:
        found += _deltas(deltas, delta_pairs)
    found += _uneven(models, layers)
    return tuple(found)


def _broken(bad: Bad) -> str:
    values = "value is" if bad.count == 1 else "values are"
    return (
        f"{bad.model}: {bad.count} {values} NaN or infinite in '{bad.tensor}', "
        f"first at {list(bad.index)}"
    )


def _names(model: InspectedModel, reference: str) -> list[str]:
    found = []
    if model.renamed:
        found.append(f"{model.name}: names match those of {reference} {model.renamed}")
    if model.missing:
        found.append(f"{model.name} lacks {some(model.missing)}")
    if model.extra:
        found.append(f"only {model.name} has {some(model.extra)}")
    for name, (ours, theirs) in list(model.reshaped.items())[:_SHOWN]:
        found.append(f"'{name}' is {list(ours)} in {reference} and {list(theirs)} in {model.name}")
    return found


def _same_again(pair: Pair, base: str | None) -> str:
    if pair.first == base:
        how = f" up to rounding to {pair.rounding}" if pair.rounding else ""
        return f"{pair.second} was never trained: it equals {pair.first}{how}"
    how = f"equal up to rounding to {pair.rounding}" if pair.rounding else "the same weights twice"
    return f"{pair.first} and {pair.second} are {how}"


def _permuted(pair: Pair) -> str:
    return (
        f"{pair.first} and {pair.second}: channels are permuted in {some(pair.permuted)}: the same "
        "weights in another order, whose average is noise"
    )


def _new(pair: Pair) -> list[str]:
    return [name for name in pair.foreign if name not in pair.permuted]


def _foreign(pair: Pair) -> str:
    return (
        f"{pair.first} and {pair.second} share an ancestor, but not in {some(_new(pair))}: "
        "trained from new values"
    )


def _coarse(model: InspectedModel) -> str:
    return (
        f"{model.name} was rounded to 8 bits or fewer, or pruned, in {some(model.coarse)}: "
        "part of its change is rounding"
    )


def _untrained(model: InspectedModel, base: str, layers: Sequence[Layer]) -> str:
    names = model.untrained or ()
    return f"{model.name} left {len(names)} of {len(layers)} tensors as in {base}: {some(names)}"


def _deltas(deltas: Deltas, pairs: Sequence[tuple[str, str]]) -> list[str]:
    known = [(c, pair) for c, pair in zip(deltas.cosine, pairs, strict=True) if c is not None]
    if not known or deltas.ratio is None:
        return []
    mean = sum(cosine for cosine, _ in known) / len(known)
    (low, apart), (high, alike) = min(known), max(known)
    if high - low > _MIXED:
        words = (
            f"changes that agree in some pairs only, from {fixed(low)} ({' and '.join(apart)}) "
            f"to {fixed(high)} ({' and '.join(alike)})"
        )
    elif mean > 0.9:
        words = "almost the same change: averaging brings little"
    elif mean > 0.1:
        words = "changes that agree in part"
    elif mean > -0.1:
        words = "changes at right angles: each learnt something else"
    else:
        words = "changes against each other: averaging undoes both"
    conflict = (
        "" if deltas.sign_conflict is None else f", {deltas.sign_conflict:.0%} of signs in conflict"
    )
    return [
        f"{words} (mean cosine of the deltas {fixed(mean)}, {degrees(mean):.0f} degrees{conflict}; "
        f"Model Stock would keep t = {deltas.ratio:.2f} of the average)"
    ]


def _uneven(models: Sequence[InspectedModel], layers: Sequence[Layer]) -> list[str]:
    uneven = []
    for layer in layers:
        norms = [norm for norm in layer.norm if norm]
        if layer.counted and norms and max(norms) > _NORM_RATIO * min(norms):
            uneven.append(layer.name)
    if not uneven or len(models) < 2:
        return []
    return [f"norms differ more than twofold in {some(uneven)}: a plain average follows the larger"]
