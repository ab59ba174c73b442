"""Sum components into one, without the base: on a server, or from files.

One round of federated averaging on deltas is exactly the paper's composition: every client trains a
component on its own data, and the server sums them. The server needs neither base nor data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from stockpot.errors import InputError
from stockpot.files import digest
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Weights, resolve_weights, weighted_sum

COMPOSED = "composed"


def aggregate(
    components: Sequence[Component], weights: Weights = "examples", *, name: str = COMPOSED
) -> Component:
    """One component for many: sum_k w_k t_k, float64 sums in the order of digests, rounded once.

    By default weights are the shares of the examples, as in federated averaging (McMahan et al.
    2017, algorithm 1); statistics are made to be summed (``weights="sum"``).
    ``settings["composed"]`` lists the terms. The bytes of deltas are those of
    ``AverageComposer.compose`` with the same weights.
    Raises ``InputError`` for no components, different kinds, or one that stands twice;
    ``BaseMismatchError`` where they were made on different bases.
    """
    values = resolve_weights(components, weights)
    first = components[0]
    for component in components:
        component.check_base(first.base_digest, first.head_digest)
        component.check_fits(first.function, first.columns, f"'{first.task}'")
        if component.kind != first.kind:
            raise InputError(
                f"component '{component.task}' holds {component.kind}, "
                f"'{first.task}' holds {first.kind}"
            )
    order = sorted(zip(components, values, strict=True), key=lambda part: part[0].digest)
    digests = [component.digest for component, _ in order]
    if len(set(digests)) < len(digests):
        raise InputError("a component stands twice", hint="give it once, with twice the weight")
    sums = weighted_sum([c.tensors for c, _ in order], [weight for _, weight in order])
    kind = torch.promote_types(
        torch.float32, next(iter(first.tensors.values()), torch.zeros(0)).dtype
    )
    return Component(
        kind=first.kind,
        base_digest=first.base_digest,
        head_digest=first.head_digest,
        task=name,
        classes=tuple(sorted({label for c, _ in order for label in c.classes})),
        examples=sum(component.examples for component, _ in order),
        data_fingerprint=digest(sorted(component.data_fingerprint for component, _ in order)),
        tensors={tensor: value.to(kind) for tensor, value in sums.items()},
        settings={
            COMPOSED: [
                {
                    **{"task": c.task, "digest": c.digest, "examples": c.examples},
                    "weight": weight,
                    **({COMPOSED: c.settings[COMPOSED]} if COMPOSED in c.settings else {}),
                }
                for c, weight in order
            ],
            **_shared(order[0][0].settings),
        },
        function=order[0][0].function,
    )


def terms_of(component: Component) -> Iterator[Mapping[str, Any]]:
    """Terms of a composition, and of the compositions among them: all that it was summed of."""

    def visit(terms: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for term in terms:
            yield term
            yield from visit(term.get(COMPOSED, ()))

    yield from visit(component.settings.get(COMPOSED, ()))


def total(blocks: Sequence[Component], *, fingerprint: str) -> Component:
    """The statistics of one component from those of its blocks, in the order of their rows' hashes.

    ``fingerprint``: hash of all its rows.
    """
    blocks = sorted(blocks, key=lambda block: block.data_fingerprint)
    return replace(
        blocks[0],
        classes=tuple(sorted({label for block in blocks for label in block.classes})),
        examples=sum(block.examples for block in blocks),
        data_fingerprint=fingerprint,
        tensors=weighted_sum([block.tensors for block in blocks], [1.0] * len(blocks)),
    )


def to_arrays(component: Component) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A component as plain arrays and a JSON description, for the wire of a federated framework."""
    names = sorted(component.tensors)
    about = {
        "names": names,
        "kind": component.kind,
        "base_digest": component.base_digest,
        "head_digest": component.head_digest,
        "task": component.task,
        "classes": list(component.classes),
        "examples": component.examples,
        "data_fingerprint": component.data_fingerprint,
        "seed": component.seed,
        "settings": dict(component.settings),
        "metrics": dict(component.metrics),
        "function": dict(component.function),
        "digest": component.digest,
    }
    return [component.tensors[name].numpy() for name in names], about


def from_arrays(arrays: Sequence[np.ndarray], about: Mapping[str, Any]) -> Component:
    """The inverse of :func:`to_arrays`; ``InputError`` where something was lost on the way."""
    fields = dict(about)
    try:
        names, expected = fields.pop("names"), fields.pop("digest")
        tensors = {
            name: torch.from_numpy(np.array(array))
            for name, array in zip(names, arrays, strict=True)
        }
        component = Component(tensors=tensors, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"this is no component: {error}") from error
    if component.digest != expected:
        raise InputError(
            f"component '{component.task}' changed on the way: its digest is "
            f"{component.digest[:12]}, expected {str(expected)[:12]}"
        )
    return component


def _shared(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What components of one base have in common: the head's columns, the feature map."""
    return {name: settings[name] for name in ("head_classes", "features") if name in settings}
