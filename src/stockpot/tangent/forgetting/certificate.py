"""What is left of a component after it was removed: measured, and written down to be checked."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stockpot.errors import InputError
from stockpot.provenance import versions
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Composed
from stockpot.tangent.forgetting.membership import auc, margins
from stockpot.tangent.forgetting.schema import (
    Accuracies,
    Accuracy,
    Certificate,
    CertifiedComponent,
    Gap,
    Membership,
    Residue,
    RetrainedGap,
    Times,
)
from stockpot.training import Feed

_BATCH = 128


@dataclass(frozen=True, eq=False)
class AuditData:
    """The rows on which a removal is looked at.

    ``members``: training rows of what is removed; ``test``: rows that nothing was trained on.
    ``labels`` (int64) are of all rows of ``feed``, columns of the outputs. ``others``: rows that
    nothing was trained on, to tell members from; by default ``test``.
    """

    feed: Feed
    labels: np.ndarray
    members: np.ndarray
    test: np.ndarray
    others: np.ndarray | None = None


def certify(
    composed: Composed,
    names: Sequence[str],
    evidence: AuditData,
    *,
    retrained: Sequence[Component] | None = None,
    training_seconds: float | None = None,
    instead: Sequence[Component] = (),
) -> tuple[Composed, Certificate]:
    """Remove the components ``names`` from ``composed``; returns what is left, and the certificate.

    The rest is summed again, never subtracted, and compared, bit by bit and in its outputs, with a
    model composed anew of the rest in the opposite order, and of ``retrained`` ones where given.
    For contrast the residue of subtracting in floating point is measured as well. Membership is
    looked for among ``evidence.members``, against test rows of the same classes, before and after.
    ``training_seconds``: what training the rest takes, for the comparison of times. ``instead``:
    components that take the place of the removed ones, made again without some examples.

    Raises ``InputError`` for unknown names, nothing left, or evidence too small to test membership.
    """
    start = time.perf_counter()
    if instead:
        others = [component for component, _ in composed.parts if component.task not in names]
        after = composed.composer.compose([*others, *instead], composed.rule)
    else:
        after = composed.without(*names)
    seconds = time.perf_counter() - start
    kept = {term.digest for term in after.terms}
    removed = [component for component, _ in composed.parts if component.digest not in kept]
    rest = list(after.parts)
    weights = after.rule or [weight for _, weight in rest[::-1]]
    never = after.composer.compose([component for component, _ in rest[::-1]], weights)
    again: RetrainedGap | None = None
    if retrained is not None:
        other = after.composer.compose(list(retrained), after.rule or _like(after, retrained))
        again = RetrainedGap(
            **vars(compare(after, other, evidence)),
            digests=tuple(sorted(component.digest for component in retrained)),
            equal_components=sorted(kept) == sorted(c.digest for c in retrained),
        )
    return after, Certificate(
        version=Certificate.current,
        kind="forgetting-certificate",
        composer=after.composer.kind,
        base_digest=removed[0].base_digest,
        head_digest=removed[0].head_digest,
        removed=tuple(map(describe, removed)),
        kept=tuple(describe(component) for component, _ in rest),
        weights=after.rule if isinstance(after.rule, str) else tuple(after.rule or weights[::-1]),
        before=composed.digest,
        after=after.digest,
        against_composed=compare(after, never, evidence),
        against_retrained=again,
        residue_of_subtracting=residue([c for c, _ in composed.parts], removed),
        membership=membership(composed, after, evidence) if _enough(evidence, instead) else None,
        accuracy=Accuracies(before=_accuracy(composed, evidence), after=_accuracy(after, evidence)),
        seconds=Times(forgetting=seconds, training_the_rest=training_seconds),
        versions=versions("torch"),
        issued=now(),
    )


def _enough(evidence: AuditData, instead: Sequence[Component]) -> bool:
    """A single example has no distribution that could be told from another."""
    return not instead or len(evidence.members) > 1


def now() -> str:
    """This moment, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def compare(first: Composed, second: Composed, evidence: AuditData) -> Gap:
    """The largest difference of two compositions, on the members and the test rows."""
    one, two = first.state(), second.state()
    largest, bits = 0.0, sorted(one) == sorted(two)
    for name in sorted(set(one) & set(two)):
        bits &= torch.equal(one[name], two[name])
        gap = (one[name].double() - two[name].double()).abs()
        largest = max(largest, float(gap.max()) if gap.numel() else 0.0)
    rows = np.concatenate([evidence.members, evidence.test])
    told = outputs(first, evidence.feed, rows) - outputs(second, evidence.feed, rows)
    return Gap(weights=largest, outputs=float(np.abs(told).max()), equal_bits=bool(bits))


def membership(before: Composed, after: Composed, evidence: AuditData) -> Membership:
    """AUC of telling the members from test rows of the same classes, before and after."""
    classes = np.unique(evidence.labels[evidence.members])
    pool = evidence.test if evidence.others is None else evidence.others
    others = pool[np.isin(evidence.labels[pool], classes)]
    earlier, later = (
        [
            margins(outputs(model, evidence.feed, rows), evidence.labels[rows])
            for rows in (evidence.members, others)
        ]
        for model in (before, after)
    )
    return Membership(
        attack="population, margin of the true class",
        level=0.95,
        before=auc(*earlier),
        after=auc(*later),
        kept_earlier=auc(*(one - two for one, two in zip(earlier, later, strict=True))),
    )


@torch.no_grad()
def outputs(model: Composed, feed: Feed, rows: np.ndarray) -> np.ndarray:
    """Outputs of a composition for rows of a feed, float64 (N, C)."""
    parts = [
        model.predict(feed.batch(rows[start : start + _BATCH])).double().cpu().numpy()
        for start in range(0, len(rows), _BATCH)
    ]
    if not parts:
        raise InputError("there are no rows to look at")
    return np.concatenate(parts)


def _accuracy(model: Composed, evidence: AuditData) -> Accuracy:
    removed, test = (
        float((outputs(model, evidence.feed, rows).argmax(1) == evidence.labels[rows]).mean())
        for rows in (evidence.members, evidence.test)
    )
    return Accuracy(removed=removed, test=test)


def residue(everything: Sequence[Component], removed: Sequence[Component]) -> Residue:
    """What taking ``removed`` away from the sum of ``everything``, in the tensors' own type, would
    have left: the ``largest`` difference to the sum of the rest, and how many ``numbers`` differ.
    """
    rest = [c for c in everything if c.digest not in {gone.digest for gone in removed}]
    largest, differing = 0.0, 0
    whole = _plain_sum(everything)
    for name, exact in _plain_sum(rest).items():
        left = whole[name].clone()
        for component in removed:
            if name in component.tensors:
                left -= component.tensors[name].to(left.dtype)
        gap = (left.double() - exact.double()).abs()
        largest = max(largest, float(gap.max()) if gap.numel() else 0.0)
        differing += int((gap > 0).sum())
    return Residue(largest=largest, numbers=differing)


def _plain_sum(components: Sequence[Component]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    for component in components:
        for name, tensor in component.tensors.items():
            sums[name] = sums[name] + tensor if name in sums else tensor.clone()
    return sums


def _like(after: Composed, retrained: Sequence[Component]) -> list[float]:
    """The weights of the kept components for retrained ones of the same names."""
    by_task = {term.task: term.weight for term in after.terms}
    missing = [component.task for component in retrained if component.task not in by_task]
    if missing:
        raise InputError(f"a retrained component has the name '{missing[0]}', which was not kept")
    return [by_task[component.task] for component in retrained]


def describe(component: Component) -> CertifiedComponent:
    """A component in a certificate."""
    return CertifiedComponent(
        name=component.task,
        digest=component.digest,
        data_fingerprint=component.data_fingerprint,
        classes=component.classes,
        examples=component.examples,
    )
