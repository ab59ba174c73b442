"""Composition: components on one base as one model, summed once in a fixed order.

Nothing is ever subtracted from a sum: taking a component away sums the others again, so that the
result has the bytes of a model that never had it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from stockpot.checkpoints import MemoryCheckpoint
from stockpot.errors import InputError
from stockpot.tangent.component import Component, Kind

if TYPE_CHECKING:
    from torch import Tensor

    from stockpot.tangent.linear import TangentModel

Rule = Literal["uniform", "sum", "examples"]
Weights = Sequence[float] | Rule | None


@dataclass(frozen=True)
class Term:
    """One component's part in a composition."""

    digest: str
    task: str
    classes: tuple[str, ...]
    examples: int
    weight: float


@dataclass(frozen=True)
class Partial:
    """A weighted sum of components, float64, that other sums can be added to.

    What a group of sites hands on instead of its components. ``sums`` by tensor name.
    """

    terms: tuple[Term, ...]
    sums: Mapping[str, Tensor]


class Composed(ABC):
    """A model made of components. ``parts`` are what it can be summed from again."""

    def __init__(
        self,
        composer: Composer,
        terms: Sequence[Term],
        parts: Sequence[tuple[Component, float]],
        rule: Rule | None,
    ) -> None:
        self.composer = composer
        self.terms = tuple(terms)
        self.parts = tuple(parts)
        self.rule = rule

    @abstractmethod
    def predict(self, inputs: Any) -> Tensor:
        """Outputs (N, C) over all classes of the head, without gradient.

        ``inputs``: what the base takes, or activations at its cut.
        """

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """All tensors that make the prediction besides the base."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that any component has seen, sorted."""
        return tuple(sorted({name for term in self.terms for name in term.classes}))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of ``state()``."""
        return MemoryCheckpoint(self.state()).digest()

    def without(self, *names: str) -> Composed:
        """The composition of the other components, summed again from them.

        ``names``: tasks or digests (12 hex digits or more). Weights by rule are made anew for those
        that remain. Raises ``InputError`` for a name that is not part of it.
        """
        gone = {self._find(name) for name in names}
        rest = [part for part in self.parts if part[0].digest not in gone]
        return self._again(rest)

    def plus(self, component: Component, weight: float = 1.0) -> Composed:
        """With one more component; ``weight`` counts where the others' weights were given."""
        return self._again([*self.parts, (component, weight)])

    def scaled(self, factor: float) -> Composed:
        """All weights times ``factor``."""
        components, weights = [c for c, _ in self.parts], [w * factor for _, w in self.parts]
        return self.composer.compose(components, weights)

    def _again(self, parts: Sequence[tuple[Component, float]]) -> Composed:
        given: Weights = self.rule or [weight for _, weight in parts]
        return self.composer.compose([component for component, _ in parts], given)

    def _find(self, name: str) -> str:
        if not self.parts:
            raise InputError(
                "this composition was made of partial sums and cannot be summed again",
                hint="compose the components themselves",
            )
        by_task = [t.digest for t in self.terms if t.task == name]
        by_digest = [t.digest for t in self.terms if len(name) >= 12 and t.digest.startswith(name)]
        found = by_task or by_digest
        if len(found) != 1:
            known = ", ".join(sorted(f"'{term.task}'" for term in self.terms))
            problem = "no component" if not found else f"{len(found)} components"
            raise InputError(
                f"the composition has {problem} '{name}'",
                hint=f"its components: {known}" if not found else "give the digest",
            )
        return found[0]


class Composer(ABC):
    """Makes one model of components of one kind on one base.

    Subclasses say how a sum becomes a model (``_build``). The contract every composer keeps is in
    ``stockpot.tangent.testing``.
    """

    kind: Kind
    default: Rule

    @abstractmethod
    def _build(self, sums: Mapping[str, Tensor], terms: Sequence[Term], **made: Any) -> Composed:
        """A model of the weighted float64 sums; pass ``made`` on to ``Composed``."""

    @abstractmethod
    def check(self, component: Component) -> None:
        """``BaseMismatchError`` or ``InputError`` for a component that does not belong here."""

    def compose(self, components: Sequence[Component], weights: Weights = None) -> Composed:
        """Sum components.

        ``weights``: "uniform" (1/K), "sum" (1 each), "examples" (by number of examples, adding up
        to 1), or one finite number each; by default the composer's own rule. The order of the
        components does not change a byte of the result.
        Raises ``BaseMismatchError`` for a component of another base, ``InputError`` for none, one
        of another kind, or one that stands twice.
        """
        rule = weights if isinstance(weights, str) else self.default if weights is None else None
        values = resolve_weights(components, rule if rule else weights)
        partial = self.partial(components, values)
        parts = tuple(zip(components, values, strict=True))
        return self._build(partial.sums, partial.terms, parts=parts, rule=rule)

    def partial(self, components: Sequence[Component], weights: Weights = "sum") -> Partial:
        """The weighted sum alone, float64, to be joined with others by ``finish``."""
        values = resolve_weights(components, weights)
        self._check_all(components)
        order = sorted(zip(components, values, strict=True), key=lambda part: part[0].digest)
        return Partial(
            tuple(Term(c.digest, c.task, c.classes, c.examples, w) for c, w in order),
            weighted_sum([c.tensors for c, _ in order], [w for _, w in order]),
        )

    def finish(self, partials: Sequence[Partial], scale: float = 1.0) -> Composed:
        """A model of partial sums, in the order of their first digests, times ``scale``.

        Equal to the composition of all their components up to rounding in float64.
        """
        if not partials:
            raise InputError("nothing to compose: no partial sums")
        ordered = sorted(partials, key=lambda partial: [term.digest for term in partial.terms])
        terms = sorted((t for p in ordered for t in p.terms), key=lambda term: term.digest)
        _refuse_twice([(term.digest, term.task) for term in terms])
        sums = weighted_sum([partial.sums for partial in ordered], [scale] * len(ordered))
        scaled = [Term(t.digest, t.task, t.classes, t.examples, t.weight * scale) for t in terms]
        return self._build(sums, scaled, parts=(), rule=None)

    def _check_all(self, components: Sequence[Component]) -> None:
        for component in components:
            if component.kind != self.kind:
                raise InputError(
                    f"component '{component.task}' holds {component.kind}, expected {self.kind}",
                    hint=f"use the composer for {component.kind}",
                )
            self.check(component)
            component.check_fits(
                components[0].function, components[0].columns, f"'{components[0].task}'"
            )
        _refuse_twice([(component.digest, component.task) for component in components])


class AverageComposer(Composer):
    """Deltas of a linearised model (the paper's composition): f + J f . sum_k w_k delta_k.

    By default the uniform mean, which makes outputs the mean of the components' outputs.
    ``classes``: names of the head's columns, which components have to share.
    """

    kind: Kind = "delta"
    default: Rule = "uniform"

    def __init__(self, model: TangentModel, classes: Sequence[str] = ()) -> None:
        self.model, self.columns = model, tuple(classes)

    def check(self, component: Component) -> None:
        """Base, head, function, columns and names of the tensors have to be the model's."""
        component.check_base(self.model.base_digest, self.model.head_digest)
        function = self.model.function_at(component.function.get("shape", ()))
        component.check_fits(function, self.columns, "this model")
        known = set(self.model.names)
        unknown = [name for name in component.tensors if name not in known]
        if unknown:
            raise InputError(
                f"component '{component.task}' changes '{unknown[0]}', which has no tangent here",
                hint="linearise with the `parameters` and `from_block` it was trained with",
            )

    def _build(self, sums: Mapping[str, Tensor], terms: Sequence[Term], **made: Any) -> Composed:
        return ComposedDelta(self, sums, terms, **made)


class ComposedDelta(Composed):
    """A linearised model with one summed delta: the cost of one component for any number."""

    composer: AverageComposer

    def __init__(
        self,
        composer: AverageComposer,
        sums: Mapping[str, Tensor],
        terms: Sequence[Term],
        **made: Any,
    ) -> None:
        super().__init__(composer, terms, **made)
        self.model = composer.model
        # One rounding of the float64 sum, to the type that deltas have.
        self.delta = self.model.prepare(sums)

    @torch.no_grad()
    def predict(self, inputs: Any) -> Tensor:
        """f(x; theta) + J f . delta, (N, C)."""
        return self.model.forward(inputs, self.delta)

    def state(self) -> Mapping[str, Tensor]:
        """The summed delta by parameter name."""
        return self.delta


def resolve_weights(components: Sequence[Component], weights: Weights) -> list[float]:
    """One finite number for each component; ``InputError`` where that cannot be."""
    count = len(components)
    if not count:
        raise InputError("nothing to compose: no components", hint="the base alone needs none")
    if weights is None or weights == "sum":
        return [1.0] * count
    if weights == "uniform":
        return [1.0 / count] * count
    if weights == "examples":
        total = sum(component.examples for component in components)
        if total == 0:
            raise InputError("weights 'examples': no component has any examples")
        return [component.examples / total for component in components]
    if isinstance(weights, str):
        raise InputError(f"unknown weights '{weights}'", hint="uniform, sum, examples or numbers")
    if len(weights) != count:
        raise InputError(f"{len(weights)} weights for {count} components")
    found = [float(weight) for weight in weights]
    if not all(math.isfinite(weight) for weight in found):
        raise InputError(f"weights must be finite, got {found}")
    return found


@torch.no_grad()
def weighted_sum(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> dict[str, Tensor]:
    """sum_k w_k t_k in float64, tensor by tensor, in the order given; a missing one is zero."""
    sums: dict[str, Tensor] = {}
    for state, weight in zip(states, weights, strict=True):
        for name in sorted(state):
            part = state[name].detach().double()
            if name not in sums:
                sums[name] = part * weight
            elif sums[name].shape != part.shape:
                raise InputError(
                    f"tensor '{name}' has shape {tuple(part.shape)} in one component and "
                    f"{tuple(sums[name].shape)} in another"
                )
            else:
                sums[name].add_(part, alpha=weight)
    return sums


def _refuse_twice(names: Sequence[tuple[str, str]]) -> None:
    seen: set[str] = set()
    for digest, task in names:
        if digest in seen:
            raise InputError(
                f"component '{task}' stands twice", hint="give it once, with twice the weight"
            )
        seen.add(digest)
