"""Match the tensor names of a weights file with those of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from stockpot.errors import BackboneError


def strip_prefix(given: Iterable[str], expected: Iterable[str]) -> str:
    """The wrapper's prefix in ``given`` ('bert.', 'module.') with which most names match."""
    wanted = set(expected)
    votes: Counter[str] = Counter()
    for name in given:
        prefix, rest = "", name
        while True:
            if rest in wanted:
                votes[prefix] += 1
            if "." not in rest:
                break
            head, _, rest = rest.partition(".")
            prefix += f"{head}."
    best = max(votes.values(), default=0)
    return min((p for p, count in votes.items() if count == best), key=len, default="")


def adopt(
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    required: Iterable[str],
    source: str = "the weights",
) -> dict[str, Tensor]:
    """Weights from elsewhere under this network's names.

    A wrapper's prefix is taken off and what the network has not, such as an old classifier head,
    is left out. Raises ``BackboneError`` naming the first tensor of ``required`` that is missing,
    or one whose shape differs.
    """
    prefix = strip_prefix(given, expected)
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in given.items()
        if name.startswith(prefix) and name.removeprefix(prefix) in expected
    }
    missing = sorted(set(required) - set(found))
    if missing:
        raise BackboneError(
            f"{source}: tensor '{missing[0]}' is missing (with {len(missing) - 1} more)",
            hint="these weights belong to another architecture",
        )
    for name, tensor in found.items():
        check_shape(name, tensor, expected[name], source)
    return found


def check_shape(name: str, got: Tensor, expected: Tensor, source: str) -> None:
    """``BackboneError`` when a tensor has another shape than the network's."""
    if got.shape != expected.shape:
        raise BackboneError(
            f"{source}: tensor '{name}' has shape {tuple(got.shape)}, "
            f"expected {tuple(expected.shape)}",
            hint="these weights belong to another architecture",
        )
