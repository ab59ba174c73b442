"""Which tensors of the parents belong together, and what happens to those that do not fit.

Decided here, for every method alike:

- **Floating tensors that all models (and the base, where the method needs one) have in one
  shape** are merged by the method.
- **Buffers that a model makes itself** (position ids, causal masks) are copied from the first model
  that has them.
- **Integer and boolean tensors** must be equal in all models that have them;
  a mean of them means nothing. Where they differ, "auto" and "mean" refuse and name them, "first"
  keeps the first model's, "drop" leaves them out. A single number (``num_batches_tracked``) is a
  counter: the first model's is kept.
- **New heads**: tensors all models have in one shape, but not the base: policy ``heads``. "auto"
  and "mean" average them, "first" keeps the first model's, "drop" leaves them out.
- **Tensors that only some models have, or that differ in shape**: "auto" refuses and names them,
  "mean" averages over the models that agree with the first one that has it, "first" keeps that
  one's, "drop" leaves them out.
- **Tensors only the base has** are left out: the result is what its models are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import is_float
from stockpot.checkpoints.matching import is_buffer
from stockpot.errors import CheckpointError, MethodError

Heads = Literal["auto", "mean", "first", "drop"]
HEADS: tuple[Heads, ...] = ("auto", "mean", "first", "drop")
Action = Literal["merge", "mean", "copy"]

_WIDTH = {"F8_E5M2": 0, "F8_E4M3": 0, "F16": 1, "BF16": 1, "F32": 2, "F64": 3}


@dataclass(frozen=True)
class Aligned:
    """One tensor of the result.

    ``sources`` are the positions of the models it comes from; ``note`` says why it is not simply
    merged.
    """

    info: TensorInfo
    action: Action
    sources: tuple[int, ...]
    note: str = ""


def align(
    models: Sequence[Checkpoint],
    base_for: Callable[[str], Checkpoint | None],
    *,
    heads: Heads = "auto",
    dtype: str | None = None,
) -> tuple[list[Aligned], list[str]]:
    """Tensors of the result in the order of the first model, and the names that are left out.

    Args:
        models: the parents.
        base_for: the base of a tensor where its method uses one, else None.
        heads: policy for tensors that do not fit, see the module's text.
        dtype: type of floating results (safetensors code); None keeps the parents', the widest
            of them where they differ.

    Raises ``CheckpointError`` that names tensors and models where nothing fits.
    """
    if heads not in HEADS:
        raise MethodError(f"heads: got {heads!r}, expected one of {', '.join(HEADS)}")
    names = list(dict.fromkeys(name for model in models for name in model.names))
    aligned: list[Aligned] = []
    dropped: list[str] = []
    misfits: list[str] = []
    for name in names:
        holders = [i for i, model in enumerate(models) if name in model]
        first = models[holders[0]].info(name)
        agreeing = [i for i in holders if models[i].info(name).shape == first.shape]
        if is_buffer(first):
            aligned.append(Aligned(first, "copy", (holders[0],), "a buffer"))
            continue
        if not all(is_float(models[i].info(name).dtype) for i in holders):
            reason = _difference(models, holders, name)
            if reason is None or heads == "first":
                note = "not a floating tensor"
                aligned.append(Aligned(first, "copy", (holders[0],), reason or note))
            elif heads == "drop":
                dropped.append(name)
            else:
                misfits.append(f"'{name}' ({reason})")
            continue
        everywhere = len(agreeing) == len(models)
        base = base_for(name)
        if everywhere and (base is None or _fits(base, first)):
            info = _result(models, agreeing, name, dtype)
            aligned.append(Aligned(info, "merge", tuple(agreeing)))
            continue
        reason = "the base lacks it" if everywhere else _disagreement(models, name)
        if heads == "auto" and not everywhere:
            misfits.append(f"'{name}' ({reason})")
        elif heads == "drop":
            dropped.append(name)
        elif heads == "first":
            info = _result(models, agreeing[:1], name, dtype)
            aligned.append(Aligned(info, "mean", (agreeing[0],), reason))
        else:
            info = _result(models, agreeing, name, dtype)
            aligned.append(Aligned(info, "mean", tuple(agreeing), reason))
    if misfits:
        raise CheckpointError(
            f"{len(misfits)} tensors do not fit together, the first: {misfits[0]}",
            hint="choose heads: mean (not for integers), first or drop",
        )
    if not any(item.action == "merge" for item in aligned):
        raise CheckpointError(
            "the models have no tensor in common that could be merged",
            hint="are these models of one architecture?",
        )
    return aligned, dropped


def _fits(base: Checkpoint, info: TensorInfo) -> bool:
    return info.name in base and base.info(info.name).shape == info.shape


def _result(
    models: Sequence[Checkpoint], sources: Sequence[int], name: str, dtype: str | None
) -> TensorInfo:
    codes = {models[i].info(name).dtype for i in sources}
    if dtype is None:
        widest = max(_WIDTH[code] for code in codes)
        top = sorted(code for code in codes if _WIDTH[code] == widest)
        dtype = top[0] if len(top) == 1 else "F32"
        # 8-bit floats hold quantised weights; their average needs more digits than they have.
        dtype = "BF16" if dtype.startswith("F8") else dtype
    return TensorInfo(name, models[sources[0]].info(name).shape, dtype)


def _difference(models: Sequence[Checkpoint], holders: Sequence[int], name: str) -> str | None:
    """How integers differ among the models that have them; None where they agree, or count."""
    first = models[holders[0]]
    info, values = first.info(name), first.raw(name)
    for i in holders[1:]:
        other = models[i].info(name)
        if other.shape != info.shape or is_float(other.dtype) != is_float(info.dtype):
            kinds = (f"{x.dtype} {list(x.shape)}" for x in (info, other))
            return f"{' and '.join(kinds)} in {first.label} and {models[i].label}"
        if info.size > 1 and not np.array_equal(values, models[i].raw(name)):
            return f"integers that differ in {first.label} and {models[i].label}"
    return None


def _disagreement(models: Sequence[Checkpoint], name: str) -> str:
    lacking = [model.label for model in models if name not in model]
    if lacking:
        return f"{lacking[0]} lacks it"
    shapes = {model.label: model.info(name).shape for model in models}
    return "shapes " + ", ".join(f"{shape} in {label}" for label, shape in shapes.items())
