"""What is done to the result of any other method: the update that it makes, changed by tensor.

A method NAME that declares ``on_top=updates_changed_by(...)`` gives methods ``NAME+OTHER``: OTHER
merges, and NAME changes what that added to the base. Parameters of both are given side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stockpot.errors import MethodError
from stockpot.merging.method import Array, Block, Method, Parameter, Pass

Change = Callable[..., Array]
"""``(block, update, **parameters) -> update``; ``update`` may be overwritten."""


def updates_changed_by(
    outer: str,
    change: Change,
    *,
    title: str,
    formula: str,
    source: str,
    parameters: tuple[Parameter, ...] = (),
    passes: tuple[Pass, ...] = (),
    whole: bool = False,
) -> Callable[[Method], Method]:
    """What ``on_top`` of the method called ``outer`` is.

    Args:
        change: the function; ``block`` has the base, the statistics and the tensor's name.
        title: what a title says behind a comma. formula: of the new update, in ``update``.
        parameters, passes: those that ``change`` needs.
        whole: ``change`` sees whole tensors in their shape, however the other method cuts them.

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

        def combine(block: Block, **values: Any) -> Array:
            base = block.xp.asarray(block.base, copy=True)
            if whole:
                block = _cut_as(method.granularity_for(inner(values)), block)
            merged = block.xp.reshape(method.combine(block, **inner(values)), base.shape)
            merged -= base
            merged = change(block, merged, **{name: values[name] for name in names})
            merged += base
            return merged

        return replace(
            method,
            name=f"{outer}+{method.name}",
            combine=combine,
            title=f"{method.title}, {title}",
            formula=f"{formula}, update = {method.formula} - theta_0",
            source=f"{method.source}; {source}",
            base="required",
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
