"""What a merge did: per tensor, with everything that is needed to make the same bytes again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the result.

    ``action``: "merge" (by ``method``), "mean" (did not fit, averaged) or "copy" (from the first
    model). ``facts``: what the method reports, for instance ratio and angle. ``note``: why not
    simply merged.
    """

    name: str
    action: str
    method: str
    dtype: str
    shape: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        facts = {name: _plain(fact) for name, fact in self.facts.items()}
        value = {**vars(self), "shape": list(self.shape), "facts": facts}
        return {key: item for key, item in value.items() if item or key not in ("facts", "note")}


@dataclass(frozen=True)
class ParentReport:
    """A parent by name and content; ``digest`` is None where hashing was declined."""

    label: str
    role: str
    digest: str | None


@dataclass(frozen=True)
class MergeReport:
    """A finished merge. ``to_json`` holds no time and no place, so equal merges report equally."""

    method: str
    recipe: dict[str, Any]
    parents: tuple[ParentReport, ...]
    tensors: tuple[TensorReport, ...]
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "merge",
            "method": self.method,
            "recipe": self.recipe,
            "parents": [dict(vars(parent)) for parent in self.parents],
            "versions": self.versions,
            "warnings": list(self.warnings),
            "dropped": list(self.dropped),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }

    def fact(self, name: str) -> dict[str, Any]:
        """One reported fact of every tensor that has it:
        ``report.fact("ratio")["layer.weight"]``.
        """
        return {t.name: t.facts[name] for t in self.tensors if name in t.facts}


def _plain(fact: Any) -> Any:
    """A fact as JSON: arrays as lists, and null for what is no finite number."""
    if hasattr(fact, "tolist"):
        fact = fact.tolist()
    if isinstance(fact, list | tuple):
        return [_plain(item) for item in fact]
    if isinstance(fact, float) and not math.isfinite(fact):
        return None
    return fact
