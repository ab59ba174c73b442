"""From what was trained for each task to predictions after each task, one way for each method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones import Backbone, Model
from stockpot.checkpoints.torch_io import load_state
from stockpot.continual.methods import METHODS
from stockpot.continual.metrics import allowed_classes, choose
from stockpot.continual.recipe import Mode
from stockpot.tangent.component import Component
from stockpot.tangent.composer import AverageComposer, ComposedDelta, weighted_sum
from stockpot.tangent.fitting import predict_delta
from stockpot.tangent.head import load_head
from stockpot.tangent.jobs import COMPONENT, HEAD
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.statistics.composer import ComposedStatistics, StatisticsComposer
from stockpot.tangent.statistics.maps import FeatureMap
from stockpot.tangent.statistics.sums import Sums, collect
from stockpot.tasks import Task
from stockpot.training import Feed, predict
from stockpot.training.rows import open_feed

_STATE = "model.safetensors"


@dataclass(frozen=True)
class Setup:
    """What one method's predictions in one trial are made from.

    ``tasks``: class numbers of each task; ``rows``: training rows of each; ``inputs``: folders by
    name: "head", "features", "task-0", "task-1", ... or "joint", and "phi".
    """

    task: Task
    backbone: Backbone
    mode: Mode
    tasks: Sequence[Sequence[int]]
    rows: Sequence[np.ndarray]
    test: np.ndarray
    inputs: Mapping[str, Path]
    features: FeatureMap | None = None

    def model(self) -> Model:
        """The base with the shared head."""
        model = Model(self.backbone, len(self.task.classes))
        load_head(self.inputs["head"] / HEAD, model)
        return model

    def feed(self) -> Feed:
        """The activations that were kept."""
        return open_feed(self.task, self.backbone, self.inputs["features"])

    def trained(self, file: str) -> list[Path]:
        """The file that training left for each task, or the one of joint training."""
        if "joint" in self.inputs:
            return [self.inputs["joint"] / file]
        return [self.inputs[f"task-{index}"] / file for index in range(len(self.tasks))]


Notes = dict[str, float | None]
"""What is worth noting of a method's predictions, as ``MethodNotes`` has it for one trial."""


def predictions(setup: Setup, method: str) -> tuple[np.ndarray, Notes]:
    """Predicted classes (T, N), or (1, N) for joint training, and what is worth noting."""
    row = METHODS[method]
    notes: Notes = {}
    start = time.perf_counter()
    if row.combine in ("statistics", "means"):
        outputs = _of_statistics(setup, row.combine == "means", notes)
    elif row.trains == "tangent":
        outputs = _of_deltas(setup)
    else:
        outputs = _of_states(setup, row.combine, row.trains)
    labels = setup.task.labels[setup.test]
    found = []
    for step, each in enumerate(outputs):
        at = len(setup.tasks) - 1 if row.combine == "joint" else step
        allowed = allowed_classes(setup.mode, setup.tasks, at, labels, len(setup.task.classes))
        found.append(choose(each, allowed))
    return np.stack(found), {**notes, "seconds": time.perf_counter() - start}


def _of_deltas(setup: Setup) -> Iterator[np.ndarray]:
    """Tangent components, composed anew after each task."""
    model, feed = TangentModel(setup.model()), setup.feed()
    composer = AverageComposer(model)
    components = [Component.load(path) for path in setup.trained(COMPONENT)]
    for count in range(1, len(components) + 1):
        composed = composer.compose(components[:count])
        assert isinstance(composed, ComposedDelta)
        yield predict_delta(model, composed.delta, feed, setup.test)


def _of_states(setup: Setup, combine: str, trains: str) -> Iterator[np.ndarray]:
    """Non-linear models: the last one, their average, or the mean of what they say."""
    model, feed = setup.model(), setup.feed()
    states = [load_state(path) for path in setup.trained(_STATE)]
    said: list[np.ndarray] = []
    for count in range(1, len(states) + 1):
        state: Mapping[str, Tensor] = states[count - 1]
        if combine == "weights":
            mean = weighted_sum(states[:count], [1 / count] * count)
            state = {name: tensor.to(state[name].dtype) for name, tensor in mean.items()}
        model.load_state(state)
        outputs = predict(model, feed, setup.test)
        if combine == "outputs":
            if trains == "cross_entropy":
                outputs = torch.from_numpy(outputs).softmax(1).numpy()
            said.append(outputs)
            outputs = np.mean(said, axis=0)
        yield outputs


def _of_statistics(setup: Setup, means: bool, notes: Notes) -> Iterator[np.ndarray]:
    """Statistics, one component a task, from feature vectors that were kept."""
    assert setup.features is not None
    composer = StatisticsComposer(
        setup.backbone,
        setup.features,
        setup.task.classes,
        solver="means" if means else "ridge",
    )
    known = np.load(setup.inputs["phi"] / "rows.npy")
    values = np.load(setup.inputs["phi"] / "phi.npy", mmap_mode="r")

    def vectors(rows: np.ndarray) -> Tensor:
        taken: np.ndarray = values[np.searchsorted(known, rows)]
        return torch.from_numpy(taken)

    def component(rows: np.ndarray, name: str) -> Component:
        batch = (vectors(rows), setup.task.labels[rows])
        sums = collect([batch], setup.task.classes, values.shape[1], gram=not means)
        return composer.wrap(sums, task=name, fingerprint=setup.task.fingerprint)

    test = vectors(setup.test).double()
    components = [component(rows, f"task-{index}") for index, rows in enumerate(setup.rows)]
    start = time.perf_counter()
    for count in range(1, len(components) + 1):
        composed = composer.compose(components[:count])
        assert isinstance(composed, ComposedStatistics)
        outputs = test @ composed.solution.weight
        notes["penalty"] = penalty = composed.solution.penalty
        yield outputs.numpy()
    notes["solve_seconds"] = (time.perf_counter() - start) / len(components)
    notes["component_bytes"] = sum(8 * t.numel() for t in components[0].tensors.values())
    # With the penalty that was chosen: the gaps are those of the sums.
    for key, parts, rows in (
        ("gap_to_joint", components, setup.rows),
        ("gap_to_retrained", components[1:], setup.rows[1:]),
    ):
        again = component(np.sort(np.concatenate(rows)), "all at once")
        one, two = (
            composer.solve(
                Sums.from_tensors(composer.partial(each).sums, setup.task.classes),
                penalty,
            )
            for each in (parts, [again])
        )
        notes[key] = _gap(test @ one.weight, test @ two.weight)


def _gap(one: Tensor, two: Tensor) -> float:
    """Largest difference of outputs, relative to the largest output."""
    return float((one - two).abs().max() / two.abs().max())
