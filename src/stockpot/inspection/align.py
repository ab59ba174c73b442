"""Which tensors of one model stand for which of another: by name, or by name after a prefix.

Wrappers put words before every name ("module." by DataParallel, "model." by Lightning, "bert." by a
task model). One prefix a model is enough to undo them; nothing else is guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# A suffix such as "weight" or "fc.bias" fits many names; more than this and it says nothing.
_AMBIGUOUS = 4
# A change of prefix is a wrapper only if it unites this share of the smaller model's names.
_MOST = 0.5


@dataclass(frozen=True)
class Alignment:
    """How a model's names meet those of the reference.

    ``names`` maps reference names to the model's names, for tensors of equal shape, in reference
    order. ``reference_prefix`` was taken from the reference's names and ``prefix`` put before what
    was left ("" and "" when the names are equal as they are). ``missing`` are reference names that
    the model lacks, ``extra`` the model's own, ``reshaped`` those in both with another shape.
    """

    names: Mapping[str, str]
    reference_prefix: str
    prefix: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]

    @property
    def renamed(self) -> str | None:
        """The prefix change in words, or None when names are equal as they are."""
        if self.prefix == self.reference_prefix:
            return None
        if self.prefix and self.reference_prefix:
            return f"'{self.reference_prefix}' is '{self.prefix}'"
        return (
            f"without '{self.reference_prefix}'"
            if self.reference_prefix
            else f"'{self.prefix}' before"
        )


def align(reference: Mapping[str, Shape], model: Mapping[str, Shape]) -> Alignment:
    """Match the names of ``model`` with those of ``reference`` (both: name -> shape).

    Takes names as they are unless a change of prefix brings more tensors of equal shape together.
    """
    best = _apply(reference, model, "", "")
    if len(best.names) == len(reference) == len(model):
        return best
    for old, new in _candidates(reference, model):
        other = _apply(reference, model, old, new)
        if len(other.names) > max(len(best.names), _MOST * min(len(reference), len(model))):
            best = other
    return best


def _apply(
    reference: Mapping[str, Shape], model: Mapping[str, Shape], old: str, new: str
) -> Alignment:
    names: dict[str, str] = {}
    reshaped: dict[str, tuple[Shape, Shape]] = {}
    missing: list[str] = []
    used: set[str] = set()
    for name, shape in reference.items():
        other = new + name[len(old) :] if name.startswith(old) else None
        if other is None or other not in model:
            missing.append(name)
            continue
        used.add(other)
        if tuple(model[other]) == tuple(shape):
            names[name] = other
        else:
            reshaped[name] = (tuple(shape), tuple(model[other]))
    extra = tuple(name for name in model if name not in used)
    return Alignment(names, old, new, tuple(missing), extra, reshaped)


def _candidates(
    reference: Mapping[str, Shape], model: Mapping[str, Shape]
) -> list[tuple[str, str]]:
    """The prefix changes that most names vote for, each name by its longest common ending."""
    endings: dict[str, list[str]] = defaultdict(list)
    for name in reference:
        for ending in _endings(name):
            endings[ending].append(name)
    votes: Counter[tuple[str, str]] = Counter()
    for name, shape in model.items():
        for ending in _endings(name):
            found = [known for known in endings.get(ending, ()) if reference[known] == shape]
            if found:
                if len(found) <= _AMBIGUOUS:
                    new = name[: -len(ending)]
                    votes.update((known[: -len(ending)], new) for known in found)
                break
    return [change for change, _ in votes.most_common(3) if change != ("", "")]


def _endings(name: str) -> list[str]:
    """The name and what remains after each dot, longest first."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
