"""May a contribution come in? Each check gives a verdict, a reason in words, and its numbers.

Thresholds for huge layers come from real fine-tunings of all-MiniLM-L6-v2 (docs/registry.md): the
matrix that moved most did so 1.5 to 2.1 times as far as the median matrix, the vector 4.5 to 8
times as far as the median tensor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.community.components import (
    load_component,
    same_name,
    stated_base,
    write_sum,
)
from stockpot.community.contribution import (
    COMPONENT,
    Contribution,
    KnownContributions,
    contributions,
    find_contribution,
)
from stockpot.community.measuring import Meter, fall, task_json
from stockpot.community.suites import MaintainerSuite
from stockpot.community.tasks import MaintainerTask
from stockpot.errors import (
    CheckpointError,
    InputError,
    LineageError,
    NonFiniteError,
    StockpotError,
)
from stockpot.evaluation.connectivity import interpolate
from stockpot.inspection import check_lineage, compare
from stockpot.registry import Registry, checkout
from stockpot.registry.documents import Document, is_entry, read_document, sealed
from stockpot.registry.signing import signers

MATRIX_TIMES, VECTOR_TIMES = 8.0, 50.0
# A matrix that has moved by its own norm is another matrix.
MATRIX_MOST = 1.0
BARRIER = 0.05
# The name of the check that is a person's word.
MAINTAINER = "maintainer"


@dataclass(frozen=True)
class Check:
    """One question that was asked. ``numbers`` are what the answer rests on."""

    name: str
    passed: bool
    words: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Review:
    """All checks of a contribution against the version ``against``."""

    contribution: str
    model: str
    against: str
    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Why not, or that nothing speaks against it."""
        failed = [f"{check.name}: {check.words}" for check in self.checks if not check.passed]
        return "; ".join(failed) or "nothing speaks against it"

    def to_json(self) -> Document:
        return {
            "schema": 1,
            "contribution": self.contribution,
            "model": self.model,
            "against": self.against,
            "accepted": self.accepted,
            "reason": self.reason,
            "checks": [vars(check) for check in self.checks],
        }


def review(
    registry: Registry,
    contribution: Contribution | str,
    tasks: Sequence[MaintainerTask | MaintainerSuite] = (),
    *,
    meter: Meter | None = None,
    points: int = 3,
    barrier: float = BARRIER,
    signed: bool = False,
) -> Review:
    """Examine a contribution against its base and the newest version, and keep the outcome.

    In this order, ending where it makes no sense to go on: whether its weights are finite and
    descend from its base, whether single layers moved beyond reason, whether the line to its base
    stays good on the tasks (``points`` models on it, a fall of at most ``barrier``), and whether
    the newest version, averaged with it, loses more than its tolerance on any task: a fine-tuning
    alone may forget, as long as the average does not. A tangent component is asked the same: the
    line to its base is a growing share of it, and it is summed with those of the newest version.
    ``meter`` remembers scores between reviews. Signatures of it are checked before all that;
    ``signed``: one of somebody whom this user trusts must be there.
    """
    found = (
        find_contribution(registry, contribution) if isinstance(contribution, str) else contribution
    )
    meter = meter or Meter(tasks)
    before = len(_reviews(registry, found.id))
    checks = _signatures(registry, found, signed)
    if all(check.passed for check in checks):
        checks += _examined(registry, found, meter, points, barrier)
    done = Review(found.id, found.model, registry.find(found.line), tuple(checks))
    return _keep(registry, done, before)


def _examined(
    registry: Registry, found: Contribution, meter: Meter, points: int, barrier: float
) -> list[Check]:
    """What its weights say, and then the tasks; ends where it makes no sense to go on."""
    if found.kind == COMPONENT:
        checks = [_component_check(registry, found)]
        if checks[0].passed and checks[0].numbers["kind"] == "delta":
            checks.append(_component_layers(registry, found))
            if checks[1].passed and meter.tasks:
                checks += _measure(registry, found, meter, points, barrier)
        return checks
    checks = [_lineage(registry, found)]
    if checks[0].passed:
        checks.append(_layers(registry, found))
    if all(check.passed for check in checks) and meter.tasks:
        checks += _measure(registry, found, meter, points, barrier)
    return checks


def _signatures(registry: Registry, found: Contribution, needed: bool) -> list[Check]:
    """Who signed it; nothing where nobody did and nobody need."""
    made = signers(registry, "contribution", found.digest)
    if not made:
        return [Check("signature", False, "nobody signed it", {})] if needed else []
    words = f"signed by {', '.join(map(str, made))}"
    # A wrong one says nothing: everybody who may write could put it there.
    trusted = any(each.state == "trusted" for each in made)
    return [Check("signature", trusted or not needed, words, {})]


def refuse(registry: Registry, contribution: Contribution | str, why: str) -> Review:
    """A maintainer's own no, whatever the checks say: the newest review, which stands until the
    next one. Raises ``InputError`` without a reason, or for what is in the newest version.
    """
    from stockpot.community.history import history

    found = (
        find_contribution(registry, contribution) if isinstance(contribution, str) else contribution
    )
    if not why.strip():
        raise InputError(f"{found.name}: say why it is refused")
    if found.id in history(registry, found.line, whole=False).accepted:
        raise InputError(
            f"{found.name} is in the newest version of the line '{found.line}'",
            hint=f"stockpot revert {found.name}",
        )
    before = last_review(registry, found)
    checks = [
        Check(**each) for each in (before["checks"] if before else ()) if each["name"] != MAINTAINER
    ]
    checks.append(Check(MAINTAINER, False, why.strip(), {}))
    done = Review(found.id, found.model, registry.find(found.line), tuple(checks))
    return _keep(registry, done)


def _keep(registry: Registry, done: Review, before: int | None = None) -> Review:
    """Write a review under the next number, which is nobody else's.

    ``before``: how many reviews there were when it began. A maintainer's no that came since stands
    in it, too.
    """
    while True:
        keys = _reviews(registry, done.contribution)
        if before is not None:
            for key in keys[before:]:
                with suppress(CheckpointError, FileNotFoundError):
                    done = _with_word(done, read_document(registry.store, key))
        key = f"reviews/{done.contribution}/{_next(keys):06d}.json"
        content = sealed(key, done.to_json())
        try:
            registry.store.write(key, [content], exclusive=True)
        except FileExistsError:
            continue
        registry.store.flush()
        return done


def _with_word(done: Review, other: Mapping[str, Any]) -> Review:
    """``done`` with the maintainer's no that ``other`` holds, if it holds one."""
    words = [check for check in other["checks"] if check["name"] == MAINTAINER]
    if not words or any(check.name == MAINTAINER for check in done.checks):
        return done
    return replace(done, checks=(*done.checks, *(Check(**check) for check in words)))


def _reviews(registry: Registry, contribution: str) -> list[str]:
    """Keys of a contribution's reviews, oldest first, whether they can be used or not."""
    return [key for key in registry.store.keys(f"reviews/{contribution}") if is_entry(key)]


def _next(keys: Sequence[str]) -> int:
    return int(keys[-1].rsplit("/", 1)[-1].removesuffix(".json")) + 1 if keys else 1


def last_review(registry: Registry, contribution: Contribution) -> Document | None:
    """The newest review of a contribution; None before the first, and where it cannot be used:
    it may have been a refusal.
    """
    keys = _reviews(registry, contribution.id)
    try:
        return read_document(registry.store, keys[-1]) if keys else None
    except (CheckpointError, FileNotFoundError):
        return None


def _lineage(registry: Registry, found: Contribution) -> Check:
    base, model = registry.checkpoint(found.base), registry.checkpoint(found.model)
    try:
        seen = check_lineage(base, model)
    except (LineageError, NonFiniteError) as error:
        return Check("lineage", False, error.message, {})
    missing = [name for name in base.names if name not in model]
    if missing:
        words = f"it lacks '{missing[0]}' ({len(missing)} tensors of its base are missing)"
        return Check("lineage", False, words, {"missing": len(missing)})
    return Check(
        "lineage", True, seen.reason, {"adjusted": seen.adjusted, "distance": seen.distance}
    )


def _layers(registry: Registry, found: Contribution) -> Check:
    seen = compare({found.name: registry.checkpoint(found.model)}, registry.checkpoint(found.base))
    moved = [
        (layer.name, layer.counted, layer.change[-1])
        for layer in seen.layers
        if layer.change is not None and layer.change[-1]
    ]
    if not moved:
        return Check("layers", False, "its weights are those of its base: nothing is new", {})
    return _proportions([(name, counted, change) for name, counted, change in moved if change])


def _component_layers(registry: Registry, found: Contribution) -> Check:
    """The same question of a component: its tensors are changes, of the base's of these names."""
    component = load_component(registry, found)
    base = registry.checkpoint(found.base)
    moved = []
    for name, tensor in component.tensors.items():
        own = same_name(name, base.names)
        if own is None:
            continue
        size = float(np.linalg.norm(base.read(own).astype(np.float64)))
        change = float(tensor.double().norm())
        if size and change:
            moved.append((name, tensor.ndim > 1, change / size))
    if not moved:
        return Check("layers", False, "it changes no tensor of its base", {})
    return _proportions(moved)


def _proportions(moved: Sequence[tuple[str, bool, float]]) -> Check:
    """Whether a tensor changed out of proportion: (name, whether it is a matrix, change)."""
    typical = float(np.median([c for _, matrix, c in moved if matrix] or [c for _, _, c in moved]))
    worst = (0.0, "", 0.0)
    for name, matrix, change in moved:
        times = change / (typical * (MATRIX_TIMES if matrix else VECTOR_TIMES))
        if matrix and change > MATRIX_MOST:
            times = max(times, 1.0 + change)
        worst = max(worst, (times, name, change), key=lambda each: each[0])
    numbers = {"typical": typical, "tensor": worst[1], "change": worst[2]}
    if worst[0] > 1.0:
        words = (
            f"'{worst[1]}' moved by {worst[2]:.1%} of its norm, {worst[2] / typical:.0f} times as "
            f"far as the median matrix: broken, or made to overrule the others in an average"
        )
        return Check("layers", False, words, numbers)
    words = f"the median matrix moved by {typical:.2%}, no tensor out of proportion"
    return Check("layers", True, words, numbers)


def _measure(
    registry: Registry, found: Contribution, meter: Meter, points: int, barrier: float
) -> list[Check]:
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="stockpot-review-") as scratch:
        place = Path(scratch)
        current = _checked_out(registry, found.line, place / "current")
        steps = [step / (points - 1) for step in range(points)]
        if found.kind == COMPONENT:
            models = [_scaled(registry, found, step, place) for step in steps]
            half, how = _summed(registry, found, place), "summed with those in"
        else:
            ends = (
                _checked_out(registry, found.base, place / "base"),
                _checked_out(registry, found.model, place / "model"),
            )
            between = [_mixed(registry, found.base, found.model, s, place) for s in steps[1:-1]]
            models = [ends[0], *between, ends[1]]
            half = _mixed(registry, current[0], found.model, 0.5, place)
            how = "averaged with"
        meter.prepare([*models, half, current])
        for task in meter.tasks:
            try:
                way = [meter.scores(task, *each) for each in models]
                estimate = meter.against(task, half, current)
            except InputError as error:
                # Features that are not finite are the contribution's fault, not the user's.
                checks.append(Check(f"task {task.name}", False, error.message, {}))
                continue
            drop = fall(steps, way)
            words = f"between its base and it the score falls by {drop:.1%} at most"
            words += f" (limit {barrier:.1%})"
            numbers = {"barrier": drop, "values": [float(each.mean()) for each in way]}
            checks.append(Check(f"connectivity {task.name}", drop <= barrier, words, numbers))
            gap = estimate.difference
            assert gap is not None
            words = (
                f"alone {way[-1].mean():.1%}, {how} the current version "
                f"{estimate.overall.mean:.1%}: {gap.mean:+.1%} ({gap.low:+.1%} to {gap.high:+.1%}; "
                f"{task.limit})"
            )
            checks.append(Check(f"task {task.name}", task.holds(gap), words, task_json(estimate)))
    return checks


def _checked_out(registry: Registry, model: str, folder: Path) -> tuple[str, Path]:
    return checkout(registry, model, folder).digest, folder


def _scaled(registry: Registry, found: Contribution, share: float, place: Path) -> tuple[str, Path]:
    """The base of a component with a share of it."""
    folder = place / f"scaled-{share:.6f}"
    digest, _ = _checked_out(registry, found.base, folder)
    write_sum(registry, [found], folder, {"weights": [share]})
    return digest, folder


def _summed(registry: Registry, found: Contribution, place: Path) -> tuple[str, Path]:
    """The version that accepting a component would make, by a plain mean."""
    from stockpot.community.history import history

    known = KnownContributions(registry)
    inside = [known[each] for each in history(registry, found.line).accepted]
    members = {each.id: each for each in inside if each.kind == COMPONENT}
    folder = place / "summed"
    digest, _ = _checked_out(registry, found.line, folder)
    write_sum(registry, list({**members, found.id: found}.values()), folder, {})
    return digest, folder


def _mixed(
    registry: Registry, first: str, second: str, share: float, place: Path
) -> tuple[str, Path]:
    """A model folder ``share`` of the way from one model to another, and its digest."""
    start, end = registry.checkpoint(first), registry.checkpoint(second)
    folder = place / f"mixed-{start.digest()[:12]}-{end.digest()[:12]}-{share:.6f}"
    if not folder.exists():
        checkout(registry, first, folder)
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        near, far = ({name: each.read(name) for name in start.names} for each in (start, end))
        dtypes = {name: start.info(name).dtype for name in start.names}
        mixed = interpolate(near, far, share)
        write_checkpoint(folder / "model.safetensors", mixed, dtypes=dtypes)
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.digest(), folder


def _component_check(registry: Registry, found: Contribution) -> Check:
    """A component adds up with others that were made on the very same base and head."""
    try:
        component = load_component(registry, found)
    except StockpotError as error:
        return Check("component", False, error.message, {})
    base = registry.manifest(found.base)
    stated = stated_base(registry, found)
    if stated not in (None, base.digest):
        words = f"it was made on the base {stated:.12}, the line stands on {base.digest:.12}"
        return Check("component", False, words, {})
    shapes = {name: each.info.shape for name, each in base.tensors().items()}
    for name, tensor in component.tensors.items():
        fits = [own for own in shapes if own == name or own.endswith(f".{name}")]
        fits += [own for own in shapes if name.endswith(f".{own}")]
        if fits and all(shapes[own] != tuple(tensor.shape) for own in fits):
            words = f"'{name}' is {list(tensor.shape)}, in the base it is {list(shapes[fits[0]])}"
            return Check("component", False, words, {})
    for other in contributions(registry, found.line):
        if other.kind != COMPONENT or other.id == found.id:
            continue
        first = load_component(registry, other)
        if (first.base_digest, first.head_digest) != (component.base_digest, component.head_digest):
            words = f"it was made on other weights than {other.name}: they do not add up"
            return Check("component", False, words, {})
    words = f"made on the base of the others, from {component.examples} examples"
    if component.kind != "delta":
        words += "; sums of statistics leave all features as they are"
    numbers = {"examples": component.examples, "kind": component.kind}
    return Check("component", True, words, numbers)
