"""``merge`` that looks at the models before: an average of strangers is noise."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from stockpot.checkpoints.open import adapter_folder, named_base
from stockpot.inspection.lineage import refuse_strangers
from stockpot.inspection.sources import Source
from stockpot.merging import merge as _merge
from stockpot.merging.job import (
    TRANSPLANT,
    AdaptedSource,
    AlignedSource,
    HasState,
    MergeJob,
    Spec,
    aligned_spec,
)
from stockpot.merging.merge import Merged, Models, read_spec
from stockpot.merging.report import MergeReport

if TYPE_CHECKING:
    from typing import Unpack

    from stockpot.merging.keywords import MergeOptions


@overload
def merge(models: Models, *, output: None = ..., **options: Unpack[MergeOptions]) -> Merged: ...
@overload
def merge(
    models: Models, *, output: str | Path, **options: Unpack[MergeOptions]
) -> MergeReport: ...


def merge(
    models: Models,
    *,
    output: str | Path | None = None,
    align: bool = False,
    force: bool = False,
    **options: Any,
) -> Merged | MergeReport:
    """See the end of this file: the text of ``stockpot.merging.merge``, with more of ``force``."""
    said_keys = ("method", "base", "rules", "heads", "dtype")
    said = {key: options.pop(key) for key in said_keys if key in options}
    own = inspect.signature(_merge).parameters
    parameters = {key: options.pop(key) for key in [*options] if key not in own}
    spec = read_spec(models, parameters=parameters, **said)
    if align:
        spec = aligned_spec(spec)
    if not force:
        spec = replace(spec, notes=check_models(spec))
    return _merge(spec, output=output, force=force, **options)


def check_models(spec: Spec) -> tuple[str, ...]:
    """Look at the models before they are merged; returns what is worth a note, one line each.

    Raises ``LineageError`` where the models share no ancestor, with what was seen layer by layer,
    and ``BaseMismatchError`` where they are adapters of different bases.
    """
    if spec.method == TRANSPLANT:  # of which only tokens come from another model
        return check_models(spec.models[0]) if isinstance(spec.models[0], Spec) else ()
    if spec.method == "mergekit:passthrough":
        return ()  # takes every tensor from one model
    if folders := list(_adapters(spec)):
        from stockpot.checkpoints.adapters import read_adapter
        from stockpot.merging.lora import check_same_base

        check_same_base([read_adapter(folder) for folder in folders])
    base = next(iter(_weights(Spec([spec.base]))), None) if spec.base is not None else None
    return refuse_strangers(list(_weights(spec)), base)


def _adapters(spec: Spec) -> Iterator[Path]:
    for model in spec.models:
        folder = adapter_folder(model)
        if folder is not None:
            yield folder


def _weights(spec: Spec) -> Iterator[Source]:
    """Everything that goes into a merge: inner merges by their models, adapters by their base."""
    for model in spec.models:
        if isinstance(model, Spec):
            yield from _weights(model)
        elif isinstance(model, AlignedSource):
            # Looked at as it will be merged: in the new order.
            yield MergeJob(Spec([model])).models[0]
        elif isinstance(model, AdaptedSource):
            yield from _weights(Spec([model.base]))
        elif (folder := adapter_folder(model)) is not None:
            if spec.base is None:
                from stockpot.checkpoints.adapters import read_adapter

                yield named_base(folder, read_adapter(folder).settings.base)
        elif isinstance(model, HasState):
            yield model.state_dict()
        else:
            yield model


merge.__signature__ = inspect.signature(_merge)  # type: ignore[attr-defined]
merge.__doc__ = (_merge.__doc__ or "").replace(
    "force: merge models whose", "force: merge models that share no ancestor, or whose"
)
