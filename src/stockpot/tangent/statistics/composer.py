"""Composition of statistics: exactly the model that joint training on all examples gives."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones import Backbone
from stockpot.checkpoints import MemoryCheckpoint
from stockpot.errors import InputError
from stockpot.files import digest
from stockpot.tangent.component import Component, Kind
from stockpot.tangent.composer import Composed, Composer, Rule, Term
from stockpot.tangent.fitting import shard_fingerprint
from stockpot.tangent.probing import describe_backbone, fixed_inputs, refuse_random
from stockpot.tangent.rows import check_labels
from stockpot.tangent.statistics.maps import FeatureMap
from stockpot.tangent.statistics.solve import Solution, class_means, ridge
from stockpot.tangent.statistics.sums import Sums, collect
from stockpot.training import Feed
from stockpot.training.device import best_device

Solver = Literal["ridge", "means"]
_BATCH = 128
_KEPT = 8
_recent: dict[str, Solution] = {}
"""The last solutions, each by the hash of all that it follows from."""


class StatisticsComposer(Composer):
    """Sums of statistics, and one solution for the sum.

    ``backbone``: the base (above its cut, where it has one). ``features``: what is summed.
    ``classes``: columns of the outputs, in order; a class that no component has seen scores 0.
    ``solver``: "ridge" (its penalty by generalised cross-validation on the composed statistics,
    unless ``penalty`` is given) or "means" (nearest class mean by cosine, SimpleCIL). ``parts``:
    use only so many parts of the features, from the first on; the components are the same.
    ``device``: "cpu", or the GPU when there is one.

    With weights "sum", the default, the composed model is the one that joint training on all
    examples would give, and without a component it is the one that never saw it.
    """

    kind: Kind = "statistics"
    default: Rule = "sum"

    def __init__(
        self,
        backbone: Backbone,
        features: FeatureMap,
        classes: Sequence[str],
        *,
        solver: Solver = "ridge",
        penalty: float | None = None,
        parts: int | None = None,
        device: str | None = None,
    ) -> None:
        if parts is not None and not 0 < parts <= len(features.parts):
            raise InputError(f"{parts} parts of features, the map has {len(features.parts)}")
        if solver not in ("ridge", "means"):
            raise InputError(f"unknown solver {solver!r}", hint="ridge or means")
        if len(set(classes)) != len(classes) or not classes:
            raise InputError("a composer of statistics needs classes, each named once")
        self.backbone, self.features, self.classes = backbone, features, tuple(classes)
        self.solver, self.penalty, self.parts = solver, penalty, parts
        self.device = best_device(device)
        state = {name: tensor.contiguous() for name, tensor in backbone.state().items()}
        self.base_digest = MemoryCheckpoint(state).digest()
        # What phi depends on besides the weights; it stands where deltas have their head.
        self.head_digest = digest([features.to_json(), backbone.fingerprint])
        self.function = describe_backbone(backbone)
        self._phi = features.bind(backbone, self.device)
        inputs = fixed_inputs(backbone)
        if inputs is not None:
            run = functools.partial(backbone.module.eval(), _on(inputs, self.device))
            refuse_random(run, f"backbone '{backbone.spec.name}'")

    def check(self, component: Component) -> None:
        """The base and the feature map have to be the composer's, the classes among its own."""
        component.check_base(self.base_digest, self.head_digest)
        component.check_fits(self.function, (), "this backbone")
        unknown = [name for name in component.classes if name not in self.classes]
        if unknown:
            raise InputError(
                f"component '{component.task}' has the class '{unknown[0]}', "
                "which this composer does not know",
                hint="name it in `classes`",
            )
        if self.solver == "ridge" and "gram" not in component.tensors:
            raise InputError(
                f"component '{component.task}' holds class means only",
                hint="compose it with solver='means', or make it with a gram",
            )

    def phi(self, batch: Any) -> Tensor:
        """Features of a batch, float64 (N, D): of the model's inputs, or activations at the cut."""
        return self._phi(_on(batch, self.device))

    def component(
        self,
        feed: Feed,
        labels: np.ndarray,
        rows: np.ndarray,
        *,
        task: str,
        fingerprint: str,
        gram: bool = True,
    ) -> Component:
        """Sum the statistics of ``rows`` of ``feed``; there is nothing to train.

        ``labels``: int64, of every row of the feed, positions in the composer's ``classes``.
        ``fingerprint``: hash of the whole data. ``gram``: without it only class means can be
        composed. Memory: one D x D matrix of float64, whatever the number of rows.
        Raises ``InputError`` for no rows or labels outside the classes.
        """
        rows, labels = np.sort(np.asarray(rows)), check_labels(labels, task)
        if not len(rows):
            raise InputError(f"component '{task}': there are no rows")
        feed.to(self.device)
        parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        stream = ((self.phi(feed.batch(part)), labels[part]) for part in parts)
        sums = collect(stream, self.classes, self.features.size(self.backbone), gram=gram)
        return self.wrap(sums, task=task, fingerprint=shard_fingerprint(fingerprint, rows))

    def wrap(self, sums: Sums, *, task: str, fingerprint: str) -> Component:
        """Statistics that were summed elsewhere as a component; classes without examples go."""
        seen = [name for name, n in zip(sums.classes, sums.counts, strict=True) if n > 0]
        return Component(
            kind=self.kind,
            base_digest=self.base_digest,
            head_digest=self.head_digest,
            task=task,
            classes=tuple(seen),
            examples=round(sums.examples),
            data_fingerprint=fingerprint,
            tensors=Sums.from_tensors(sums.tensors(), seen).tensors(),
            seed=self.features.seed,
            settings={"features": self.features.to_json()},
            function=self.function,
        )

    def solve(self, sums: Sums, penalty: float | None = None) -> Solution:
        """The classifier of some statistics; ``penalty`` instead of the composer's own rule."""
        blocks = self.features.blocks(self.backbone)
        if self.solver == "means":
            return replace(class_means(sums), blocks=tuple(range(len(blocks))))
        return ridge(
            sums, penalty or self.penalty, blocks=blocks, most=self.parts, device=self.device
        )

    def _build(self, sums: Mapping[str, Tensor], terms: Sequence[Term], **made: Any) -> Composed:
        return ComposedStatistics(self, sums, terms, **made)


class ComposedStatistics(Composed):
    """One linear classifier on phi. ``solution`` says which penalty was chosen, and why."""

    composer: StatisticsComposer

    def __init__(
        self,
        composer: StatisticsComposer,
        sums: Mapping[str, Tensor],
        terms: Sequence[Term],
        **made: Any,
    ) -> None:
        super().__init__(composer, terms, **made)
        self._digest = MemoryCheckpoint(dict(sums)).digest()
        self.solution = _solved(composer, sums, self._digest)
        features, used = composer.features, self.solution.blocks
        # What has no weight is not computed: gradients of every example cost most of a prediction.
        self._phi = features.bind(composer.backbone, composer.device, only=used)
        lengths = features.blocks(composer.backbone)
        blocks = torch.split(self.solution.weight, list(lengths))
        self._weight = torch.cat([blocks[index] for index in used])

    @torch.no_grad()
    def predict(self, inputs: Any) -> Tensor:
        """phi(x) W, float64 (N, C) over the composer's classes; about 1 for the true class."""
        with torch.enable_grad():  # phi is made of gradients
            phi = self._phi(_on(inputs, self.composer.device)).detach()
        return phi.cpu() @ self._weight

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the sums that were solved: the same on every machine."""
        return self._digest

    def state(self) -> Mapping[str, Tensor]:
        """The classifier's weights (D, C), float64."""
        return {"weight": self.solution.weight}


def _solved(composer: StatisticsComposer, sums: Mapping[str, Tensor], content: str) -> Solution:
    """The solution of sums with this digest; one run composes the same components many times."""
    question = (content, composer.head_digest, composer.classes, composer.solver)
    key = digest([*question, composer.penalty, composer.parts, str(composer.device)])
    if key not in _recent:
        _recent[key] = composer.solve(Sums.from_tensors(sums, composer.classes))
        if len(_recent) > _KEPT:
            del _recent[next(iter(_recent))]
    return _recent[key]


def _on(batch: Any, device: torch.device) -> Any:
    from stockpot.backbones import Activations

    if isinstance(batch, Activations):
        mask = None if batch.mask is None else batch.mask.to(device)
        return Activations(batch.values.to(device), mask)
    if isinstance(batch, Mapping):
        return {name: value.to(device) for name, value in batch.items()}
    return batch.to(device)
