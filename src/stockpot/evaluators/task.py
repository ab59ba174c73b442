"""An evaluator that is a task of stockpot: model folders on its rows, by a metric of stockpot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stockpot.backbones.buffers import all_tensors
from stockpot.backbones.folder import read_about
from stockpot.backbones.layout import HEAD, parse_layout
from stockpot.checkpoints import Checkpoint
from stockpot.errors import BackboneError, EvaluationError, InputError, StockpotError
from stockpot.evaluation.metrics import Metric, fitting_metric
from stockpot.evaluators.contract import Evaluator, Rows, Scores, changing
from stockpot.files import digest
from stockpot.inference.inputs import Inputs
from stockpot.inference.predictor import Predictor, load
from stockpot.inference.scores import aligned_labels, load_task_for, read_asked
from stockpot.tasks import Task

_MEANS = ("accuracy", "log_loss", "mae")


class TaskEvaluator(Evaluator):
    """The scores of a model folder of stockpot (``recycle``, ``rank``) on a task's rows.

    ``task``: a YAML file with a task, or with a recipe, whose metric then counts. The folder's
    model is loaded once; later weights are put into it in place.

    Raises ``InputError`` for models that are no such folder, or predict something else.
    """

    takes_rows = True
    differentiable = True

    def __init__(self, task: Path, *, metric: str | None = None) -> None:
        self.label = f"task {task.name}"
        metric = metric or read_asked(task, task.parent)[0].metric
        self._path, self._wanted = task, metric
        self.metric = metric or "accuracy"
        self._predictor: Predictor | None = None
        self._series: object = None
        self.identity = digest(["task", task.read_text(encoding="utf-8"), metric])

    def prepare(self, model: Checkpoint) -> None:
        """Load the model of a folder, and the task as that model reads it."""
        folder = model.home
        if folder is None:
            raise InputError(f"{model.label} lies in no model folder of stockpot")
        if (folder / HEAD).is_file():
            raise InputError(
                f"{folder} keeps its head in {HEAD}, apart from the weights",
                hint="evaluate with a function that loads both",
            )
        self._predictor = predictor = load(folder)
        self._layout = parse_layout(read_about(folder))
        self._task: Task = load_task_for(self._path, predictor)
        self._labels = aligned_labels(self._task, predictor)
        self._metric: Metric = fitting_metric(self._wanted, self._task.kind)
        self.metric = self._metric.name
        self.is_mean = self.metric in _MEANS
        self.size = len(self._labels)
        self.identity = digest(["task", self._task.fingerprint, self.metric])

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores:
        """Scores by the metric, a minus sign before one of which lower is better."""
        if self._predictor is None:
            self.prepare(model)
        assert self._predictor is not None
        self._load(self._predictor, model)
        rows = np.arange(len(self._labels)) if rows is None else rows
        try:
            found = self._predictor.predict(self._inputs(rows))
            return self._metric.row_scores(found.outputs, self._labels[rows])
        except StockpotError as error:
            raise EvaluationError(f"{self.label}: {error.message}") from error

    def gradient(self, model: Checkpoint, rows: Rows | None = None) -> dict[str, np.ndarray]:
        """Of the mean log-likelihood, or of minus the mean squared error."""
        if self._predictor is None:
            self.prepare(model)
        assert self._predictor is not None
        assert self._layout is not None
        self._load(self._predictor, model)
        rows = np.arange(len(self._labels)) if rows is None else rows
        network, head = self._predictor.model.backbone.network, self._predictor.model.head
        parameters = dict(network.named_parameters())
        tensors = [head.weight, head.bias, *parameters.values()]
        for one in tensors:
            one.requires_grad_(True)
        outputs = self._predictor.outputs(self._inputs(rows)).float()
        labels = torch.from_numpy(np.ascontiguousarray(self._labels[rows])).to(outputs.device)
        if self._predictor.classes:
            score = -torch.nn.functional.cross_entropy(outputs, labels.long())
        else:
            score = -(outputs - labels.reshape(outputs.shape).float()).square().mean()
        weight, bias, *rest = torch.autograd.grad(score, tensors, allow_unused=True)
        own = self._layout.back(weight.cpu().numpy(), bias.cpu().numpy())
        return own | {
            self._layout.prefix + name: slope.cpu().numpy()
            for name, slope in zip(parameters, rest, strict=True)
            if slope is not None
        }

    def _inputs(self, rows: Rows) -> Inputs:
        inputs = self._task.inputs
        chosen = [inputs[row] for row in rows] if isinstance(inputs, list) else inputs[rows]
        return Inputs(chosen, tuple(map(str, rows)))

    @torch.no_grad()
    def _load(self, predictor: Predictor, model: Checkpoint) -> None:
        assert self._layout is not None
        own = all_tensors(predictor.model.backbone.network)
        for name in changing(model, self._series):
            short = name.removeprefix(self._layout.prefix)
            if name not in self._layout.names and short in own:
                own[short].copy_(torch.from_numpy(np.array(model.read(name))))
        head = {name: np.array(model.read(name)) for name in self._layout.names if name in model}
        try:
            weight, bias = self._layout.read(head, predictor.model.backbone.feature_dim)
        except BackboneError as error:
            raise EvaluationError(f"{model.label}: {error.message}") from error
        predictor.model.set_head(weight, bias)
        self._series = getattr(model, "series", None)
