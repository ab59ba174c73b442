"""From what was trained for each task to predictions after each task, one way for each method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from stockpot.tangent.statistics.composer import StatisticsComposer
from stockpot.tangent.statistics.maps import FeatureMap
from stockpot.tangent.statistics.solve import Solution, class_means, ridge, ridge_of_rows
from stockpot.tangent.statistics.sums import Sums, collect
from stockpot.tasks import Task, named_generator
from stockpot.training import Feed, predict
from stockpot.training.predict import map_rows
from stockpot.training.probe import linear_probe
from stockpot.training.rows import open_feed

_STATE = "model.safetensors"
_SMALL = 4096  # features, up to which sums are compared with sums over all rows at once


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
    notes: Notes = {"penalty": None, "solve_seconds": 0.0} if "phi" in setup.inputs else {}
    start = time.perf_counter()
    if row.trains == "plain map" and row.combine == "joint":
        outputs = _of_probe(setup)
    elif row.trains.endswith(" map"):
        outputs = _of_statistics(setup, row.combine == "means", notes)
    elif row.combine == "first":
        outputs = _of_first(setup, notes)
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


Vectors = Callable[[np.ndarray], Tensor]


def _kept(setup: Setup) -> Vectors:
    """Feature vectors that were kept, by row, float32 (N, D)."""
    known = np.load(setup.inputs["phi"] / "rows.npy")
    values = np.load(setup.inputs["phi"] / "phi.npy", mmap_mode="r")
    return lambda rows: torch.from_numpy(values[np.searchsorted(known, rows)])


def _of_probe(setup: Setup) -> Iterator[np.ndarray]:
    """Logistic regression on the base's features, its penalty by a tenth of the rows."""
    vectors, labels = _kept(setup), setup.task.labels
    rows = np.concatenate(setup.rows)
    rows = named_generator(0, "probe").permutation(np.sort(rows))
    parts = rows[len(rows) // 10 :], rows[: len(rows) // 10]
    fit, check = [(vectors(part).numpy(), labels[part]) for part in parts]
    count = len(setup.task.classes)
    weight, bias = linear_probe(*fit, *check, n_outputs=count, kind="classification")
    yield vectors(setup.test).numpy() @ weight.T + bias


def _of_first(setup: Setup, notes: Notes) -> Iterator[np.ndarray]:
    """RanPAC whose features are those of a fine-tuning on the first task (its first session)."""
    assert setup.features is not None
    model, feed = setup.model(), setup.feed()
    model.load_state(load_state(setup.inputs["task-0"] / _STATE))
    model.eval()
    projection = setup.features.projection(setup.backbone.feature_dim)

    def vectors(rows: np.ndarray) -> Tensor:
        plain = map_rows(model.features, feed, rows, torch.device("cpu"))
        return torch.relu(torch.from_numpy(plain).double() @ projection)

    rows = np.unique(np.concatenate(setup.rows))
    values = vectors(rows)
    seen = _solutions(setup, lambda own: values[np.searchsorted(rows, own)], notes)
    test = vectors(setup.test)
    for solution in seen:
        yield (test @ solution.weight).numpy()


def _solutions(setup: Setup, vectors: Vectors, notes: Notes) -> Iterator[Solution]:
    """The ridge regression after each task, on the rows of all tasks by then."""
    assert setup.features is not None
    labels, classes = setup.task.labels, setup.task.classes
    lengths = setup.features.blocks(setup.backbone)
    start = time.perf_counter()
    for count in range(1, len(setup.rows) + 1):
        rows = np.sort(np.concatenate(setup.rows[:count]))
        if len(rows) < sum(lengths):  # equal to the sums' solution up to rounding, and quicker
            own = torch.from_numpy(labels[rows])
            solution = ridge_of_rows(vectors(rows), own, len(classes), blocks=lengths)
        else:
            sums = collect([(vectors(rows), labels[rows])], classes, sum(lengths))
            solution = ridge(sums, blocks=lengths)
        notes["penalty"] = solution.penalty
        notes["solve_seconds"] = (time.perf_counter() - start) / count
        yield solution


def _of_statistics(setup: Setup, means: bool, notes: Notes) -> Iterator[np.ndarray]:
    """Statistics, one component a task, from feature vectors that were kept."""
    assert setup.features is not None
    vectors, labels, classes = _kept(setup), setup.task.labels, setup.task.classes
    size = setup.features.size(setup.backbone)
    test = vectors(setup.test).double()
    notes["component_bytes"] = 8 * (size + 1) * (len(setup.tasks[0]) + (size // 2) * (not means))
    if means:
        for count in range(1, len(setup.rows) + 1):
            rows = np.sort(np.concatenate(setup.rows[:count]))
            sums = collect([(vectors(rows), labels[rows])], classes, size, gram=False)
            yield (test @ class_means(sums).weight).numpy()
        return
    for solution in _solutions(setup, vectors, notes):
        yield (test @ solution.weight).numpy()
    if size <= _SMALL:
        _note_gaps(setup, vectors, test, solution.penalty, notes)


def _note_gaps(
    setup: Setup, vectors: Vectors, test: Tensor, penalty: float | None, notes: Notes
) -> None:
    """How far sums of components are from sums over all rows at once, with one penalty."""
    assert setup.features is not None
    labels, classes = setup.task.labels, setup.task.classes
    composer = StatisticsComposer(setup.backbone, setup.features, classes, penalty=penalty)

    def component(rows: np.ndarray, name: str) -> Component:
        sums = collect([(vectors(rows), labels[rows])], classes, test.shape[1])
        return composer.wrap(sums, task=name, fingerprint=setup.task.fingerprint)

    components = [component(rows, f"task-{index}") for index, rows in enumerate(setup.rows)]
    for key, parts, left in (
        ("gap_to_joint", components, setup.rows),
        ("gap_to_retrained", components[1:], setup.rows[1:]),
    ):
        again = component(np.sort(np.concatenate(left)), "all at once")
        one, two = (
            composer.solve(Sums.from_tensors(composer.partial(each).sums, classes))
            for each in (parts, [again])
        )
        notes[key] = _gap(test @ one.weight, test @ two.weight)


def _gap(one: Tensor, two: Tensor) -> float:
    """Largest difference of outputs, relative to the largest output."""
    return float((one - two).abs().max() / two.abs().max())
