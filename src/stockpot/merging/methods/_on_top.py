"""What is done to the result of any other method, tensor by tensor.

A method NAME that declares ``on_top=...`` gives methods ``NAME+OTHER``: OTHER merges, and NAME does
something to the result. Parameters of both are given side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from stockpot.errors import MethodError
from stockpot.merging.method import Array, Block, Method, Parameter, Pass

Change = Callable[..., Array]
"""``(block, update, **parameters) -> update``; ``update`` may be overwritten."""
Merge = Callable[[Block], Array]
Combine = Callable[..., Array]
"""``(block, merge, **parameters) -> merged``: ``merge(block)`` is what the other method makes."""


def updates_changed_by(
    outer: str, change: Change, *, whole: bool = False, **declared: Any
) -> Callable[[Method], Method]:
    """``on_top`` of a method that changes what the other one added to the base.

    ``change`` sees a block with the base, the statistics and the tensor's name; ``whole`` and
    ``declared`` are those of ``on_top_of``.
    """

    def combine(block: Block, merge: Merge, **own: Any) -> Array:
        base = block.xp.asarray(block.base, copy=True)
        update = block.xp.reshape(merge(block), base.shape)
        update -= base
        update = change(block, update, **own)
        update += base
        return update

    return on_top_of(outer, combine, whole=whole, base="required", **declared)


def on_top_of(
    outer: str,
    combine: Combine,
    *,
    title: str,
    formula: str,
    source: str,
    parameters: tuple[Parameter, ...] = (),
    passes: tuple[Pass, ...] = (),
    base: Literal["required"] | None = None,
    whole: bool = False,
) -> Callable[[Method], Method]:
    """What ``on_top`` of the method called ``outer`` is.

    Args:
        title: what a title says behind a comma. formula: of the result, in ``update`` (merged -
            theta_0) or ``merged``.
        parameters, passes: those that ``combine`` needs.
        base: whether it needs one; None leaves that to the other method.
        whole: it sees whole tensors in their shape, however the other method cuts them.

    The returned function raises ``MethodError`` for methods that pack several models into one, and
    for those that have parameters of these names (two of one kind on top of each other).
    """
    names = {parameter.name for parameter in parameters}

    def on_top(method: Method) -> Method:
        own = {parameter.name for parameter in method.parameters}
        if method.granularity == "model" or names & own or outer in method.name.split("+"):
            raise MethodError(
                f"'{outer}' cannot change what method '{method.name}' makes",
                hint="change the models before, or choose another method",
            )

        def inner(values: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in values.items() if key not in names}

        def wrapped(step: Pass) -> Pass:
            return replace(
                step,
                reduce=lambda block, **values: step.reduce(block, **inner(values)),
                finish=lambda statistics, tensor, **values: step.finish(
                    statistics, tensor, **inner(values)
                ),
            )

        def combined(block: Block, **values: Any) -> Array:
            def merge(piece: Block) -> Array:
                cut = _cut_as(method.granularity_for(inner(values)), piece) if whole else piece
                merged: Array = method.combine(cut, **inner(values))
                return merged

            return combine(block, merge, **{name: values[name] for name in names})

        return replace(
            method,
            name=f"{outer}+{method.name}",
            combine=combined,
            title=f"{method.title}, {title}",
            formula=f"{formula}, merged = {method.formula}",
            source=f"{method.source}; {source}",
            base=base or method.base,
            parameters=(*parameters, *method.parameters),
            granularity=lambda values: "tensor" if whole else method.granularity_for(inner(values)),
            passes=lambda values: (
                *(wrapped(step) for step in method.passes_for(inner(values))),
                *passes,
            ),
            spreads_nonfinite=method.spreads_nonfinite and not whole,
        )

    return on_top


def _cut_as(granularity: str, block: Block) -> Block:
    """A whole tensor as the one piece that a method of this granularity expects."""
    if granularity == "tensor":
        return block
    rows = block.tensor.rows
    return block.reshaped(rows if granularity == "row" else (rows[0] * rows[1],))
