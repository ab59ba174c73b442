"""How good a model folder is on a task, with intervals over the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.errors import InputError, TaskError
from stockpot.evaluation.intervals import Interval, paired_bootstrap
from stockpot.evaluation.metrics import METRICS, fitting_metric, metrics_beside
from stockpot.inference.inputs import Inputs
from stockpot.inference.predictor import BATCH, Predictor, load
from stockpot.tasks import Task, load_task, parse_task_spec, select_domains
from stockpot.tasks.specs import TaskSpec
from stockpot.tasks.task import quoted


@dataclass(frozen=True)
class Evaluation:
    """``value``: the metric over all rows with an interval; ``domains``: the same for each domain.

    ``metric``: a name, by default "accuracy" (0 to 1) or "r2" (at most 1). ``also``: other metrics
    over all rows. ``examples``: rows of each domain.
    """

    task: str
    metric: str
    value: Interval
    domains: Mapping[str, Interval]
    examples: Mapping[str, int]
    also: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "task": self.task,
            "metric": self.metric,
            **self.value.to_json(),
            "examples": sum(self.examples.values()),
            "also": dict(self.also),
            "domains": {
                name: {**interval.to_json(), "examples": self.examples[name]}
                for name, interval in self.domains.items()
            },
        }


def evaluate(
    model: str | Path | Predictor,
    task: str | Path | Mapping[str, Any] | Task,
    *,
    domains: Sequence[str] | None = None,
    metric: str | None = None,
    batch_size: int = BATCH,
    device: str | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    resamples: int = 2000,
    skip_corrupt: bool = False,
    quiet: bool = True,
) -> Evaluation:
    """Score a model folder on a task, over all rows and by domain.

    Args:
        model: the folder, or what :func:`~stockpot.inference.load` returned.
        task: a YAML file with a task, or with a recipe that has one; the same as a mapping; a task.
        domains: only these, by default all.
        metric: as in a recipe; by default accuracy, or R2 for numbers.
        root: where the code of a function backbone lies, and where a mapping's paths start.
        seed: of the bootstrap and of tasks that are drawn.
        resamples: of the bootstrap; a 95 % interval over the rows. It says nothing of other runs.
        skip_corrupt: leave out images that cannot be read.

    Images are decoded as in the model's training, whatever size the task names. Classes are matched
    by name.

    Raises:
        InputError: other inputs or classes than the model's, named; a task that cannot be read.
    """
    predictor = model if isinstance(model, Predictor) else load(model, root=root)
    if not isinstance(task, Task):
        task = load_task_for(task, predictor, root=root, skip_corrupt=skip_corrupt, seed=seed)
    task = select_domains(task, domains)
    labels = aligned_labels(task, predictor)
    judge = fitting_metric(metric, task.kind)
    rows = Inputs(task.inputs, tuple(map(str, range(len(task)))))
    outputs = predictor.predict(rows, batch_size=batch_size, device=device, quiet=quiet).outputs

    def interval(cells: Mapping[tuple[str, int], np.ndarray]) -> Mapping[str, Interval]:
        found = paired_bootstrap(
            {"model": cells},
            None,
            resamples=resamples,
            seed=seed,
        )
        return found["model"].domains

    own = {name: task.rows(name) for name in task.domains}
    by_domain = {
        (name, 0): judge.row_values(outputs[each], labels[each]) for name, each in own.items()
    }
    return Evaluation(
        task=task.name,
        metric=judge.name,
        value=interval({("all", 0): judge.row_values(outputs, labels)})["all"],
        domains=interval(by_domain),
        examples={name: len(each) for name, each in own.items()},
        also={name: METRICS[name].value(outputs, labels) for name in metrics_beside(judge)},
    )


def load_task_for(
    task: str | Path | Mapping[str, Any],
    predictor: Predictor,
    *,
    root: str | Path | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> Task:
    """The task of a file or mapping, images decoded as in the model's training."""
    spec, home = _read_spec(task, Path(root or "."))
    return load_task(_as_trained(spec, predictor), root=home, skip_corrupt=skip_corrupt, seed=seed)


def _read_spec(task: str | Path | Mapping[str, Any], root: Path) -> tuple[TaskSpec, Path]:
    value: Any = task
    where = "the task"
    if isinstance(task, str | Path):
        from stockpot.yaml_lines import load_with_lines

        path = Path(task)
        where, root = str(path), path.parent
        value, _ = load_with_lines(path, "task")
    if isinstance(value, Mapping) and isinstance(value.get("task"), Mapping):
        value = value["task"]
    if not isinstance(value, Mapping):
        raise TaskError(f"{where} is no mapping", hint="it needs 'kind', as a recipe's task")
    try:
        return parse_task_spec(value), root
    except TaskError as error:
        raise TaskError(f"{where}: {error.message}", hint=error.hint) from error


def _as_trained(spec: TaskSpec, predictor: Predictor) -> TaskSpec:
    """The spec with the model's own size and way of resizing, where it decodes images."""
    if predictor.images is None or not {"size", "resize"} <= set(type(spec).model_fields):
        return spec
    return spec.model_copy(update=dict(predictor.images))


def aligned_labels(task: Task, predictor: Predictor) -> np.ndarray:
    """The task's labels in the model's numbering.

    Raises ``InputError`` where the model takes or predicts something else.
    """
    if task.modality != predictor.modality:
        raise InputError(
            f"the model takes {predictor.modality} inputs, "
            f"task '{task.name}' has {task.modality} inputs"
        )
    if (task.kind == "regression") == bool(predictor.classes):
        says = "classes" if predictor.classes else "numbers"
        raise InputError(f"the model predicts {says}, task '{task.name}' is a {task.kind}")
    if task.kind == "regression":
        return task.labels
    unknown = [name for name in task.classes if name not in predictor.classes]
    if unknown:
        raise InputError(
            f"task '{task.name}' has the class {quoted(unknown)}, "
            f"which the model has not; its classes are {quoted(predictor.classes)}",
            hint="classes are matched by name: rename them in the data",
        )
    numbers = np.array([predictor.classes.index(name) for name in task.classes], dtype=np.int64)
    return numbers[task.labels]
