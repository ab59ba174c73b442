"""What differs between two models: files, tensors, and how far the weights moved."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.inspection import compare
from stockpot.registry.registry import Registry


@dataclass(frozen=True)
class TensorChange:
    """A tensor of both models that differs; ``change`` is ||after - before|| / ||before||, None
    where a side is zero or not finite or types do not compare.
    """

    name: str
    shape: tuple[int, ...]
    change: float | None


@dataclass(frozen=True)
class ModelDifference:
    """From ``before`` to ``after``. ``verdict`` is that of ``inspect``, None for equal weights.

    ``added`` and ``removed`` are tensors of one side only (or of another shape); ``files`` are
    paths of other files that differ, are new or gone.
    """

    before: str
    after: str
    equal: int
    changed: tuple[TensorChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    files: tuple[str, ...]
    verdict: str | None


def diff(registry: Registry, before: str, after: str) -> ModelDifference:
    """Compare two models of a registry. Only tensors that differ are read."""
    old, new = registry.manifest(before), registry.manifest(after)
    ours, theirs = old.tensors(), new.tensors()
    both = {
        name for name in ours if name in theirs and ours[name].info.shape == theirs[name].info.shape
    }
    moved = [name for name in ours if name in both and ours[name].blob != theirs[name].blob]
    changes: dict[str, float | None] = dict.fromkeys(moved)
    verdict = None
    if moved:
        found = compare(
            {"after": registry.checkpoint(new)}, registry.checkpoint(old), names=_literal(moved)
        )
        verdict = found.verdict
        for layer in found.layers:
            changes[layer.name] = layer.change[-1] if layer.change else None
    first = {file.path: file.blob for file in old.files if file.blob is not None}
    second = {file.path: file.blob for file in new.files if file.blob is not None}
    return ModelDifference(
        before=old.id,
        after=new.id,
        equal=len(both) - len(moved),
        changed=tuple(TensorChange(name, ours[name].info.shape, changes[name]) for name in moved),
        added=tuple(name for name in theirs if name not in both),
        removed=tuple(name for name in ours if name not in both),
        files=tuple(
            path for path in sorted(first.keys() | second) if first.get(path) != second.get(path)
        ),
        verdict=verdict,
    )


def _literal(names: list[str]) -> list[str]:
    """Names as globs that match themselves alone."""
    return [name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for name in names]
