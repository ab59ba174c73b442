"""How good a model folder is on a task, with intervals over the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.backbones.spec import BackboneSpec
from stockpot.errors import InputError, TaskError
from stockpot.evaluation.intervals import Estimate, Interval, paired_bootstrap
from stockpot.evaluation.metrics import METRICS, fitting_metric, metrics_beside
from stockpot.inference.inputs import Inputs
from stockpot.inference.judged import joined, judged_rows
from stockpot.inference.predictor import BATCH, Predictor, load
from stockpot.recycling.recipe import Recipe
from stockpot.tasks import Task, load_task, parse_task_spec
from stockpot.tasks.specs import TaskSpec
from stockpot.tasks.task import quoted, take
from stockpot.yaml_lines import load_with_lines, validated


class Asked(Recipe):
    """A recipe of ``recycle`` as far as it says what to judge a model on."""

    backbone: BackboneSpec | None = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Evaluation:
    """``value``: the metric over all rows with an interval; ``domains``: the same for each domain;
    ``over_domains``: their plain mean, which is what ``recycle`` reports.

    ``metric``: a name, by default "accuracy" (0 to 1) or "r2" (at most 1). ``also``: other metrics
    over all rows. ``examples``: rows of each domain. ``trained_on``: of each domain, whether these
    rows trained the model or chose it; None: not known. ``about``: one line that says so.
    """

    task: str
    metric: str
    value: Interval
    domains: Mapping[str, Interval]
    over_domains: Interval
    examples: Mapping[str, int]
    also: Mapping[str, float]
    trained_on: Mapping[str, bool | None]
    about: str

    @property
    def any_trained_on(self) -> bool | None:
        """Whether some of the rows trained the model or chose it; None: not known."""
        return None if None in self.trained_on.values() else any(self.trained_on.values())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "task": self.task,
            "metric": self.metric,
            **self.value.to_json(),
            "examples": sum(self.examples.values()),
            "trained_on": self.any_trained_on,
            "about": self.about,
            "also": dict(self.also),
            "over_domains": self.over_domains.to_json(),
            "domains": {
                name: {
                    **interval.to_json(),
                    "examples": self.examples[name],
                    "trained_on": self.trained_on[name],
                }
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
    """Score a model folder on rows of a task that neither trained nor chose it, and by domain.

    Which rows those are: see :func:`~stockpot.inference.judged.judged_rows`. Where it is not known,
    or a domain has none, the result says so.

    Args:
        model: the folder, or what :func:`~stockpot.inference.load` returned.
        task: a YAML file with a task, or with a recipe that has one; the same as a mapping; a task.
        domains: only these; one without such rows is judged on all of its rows.
        metric: as in a recipe; by default the recipe's, else accuracy, or R2 for numbers.
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
    asked = None
    if not isinstance(task, Task):
        asked, home = read_asked(task, Path(root or "."))
        task = _load(asked, home, predictor, skip_corrupt=skip_corrupt, seed=seed)
        metric = metric or asked.metric
    judge = fitting_metric(metric, task.kind)
    judged = judged_rows(task, predictor.folder, asked, domains)
    task, positions = judged.task, joined(judged.rows)
    labels = aligned_labels(task, predictor)
    rows = Inputs(take(task.inputs, positions), tuple(map(str, positions)), f"task '{task.name}'")
    done = predictor.predict(rows, batch_size=batch_size, device=device, quiet=quiet)
    outputs = dict(zip(positions.tolist(), done.outputs, strict=True))

    def estimate(rows: Mapping[str, np.ndarray]) -> Estimate:
        values = {
            (name, 0): judge.row_values(np.stack([outputs[row] for row in own]), labels[own])
            for name, own in rows.items()
        }
        estimates = paired_bootstrap(
            {"model": values},
            None,
            resamples=resamples,
            seed=seed,
            metric=judge.name,
            within=(judge.low, judge.high),
            strata={name: judge.strata(labels[own]) for name, own in rows.items()},
        )
        return estimates["model"]

    truth, by_domain = labels[positions], estimate(judged.rows)
    return Evaluation(
        task=task.name,
        metric=judge.name,
        value=estimate({"all": positions}).overall,
        domains=by_domain.domains,
        over_domains=by_domain.overall,
        examples={name: len(own) for name, own in judged.rows.items()},
        also={name: METRICS[name].value(done.outputs, truth) for name in metrics_beside(judge)},
        trained_on=judged.trained_on,
        about=judged.about,
    )


def load_task_for(
    task: str | Path | Mapping[str, Any],
    predictor: Predictor,
    *,
    root: str | Path | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> Task:
    """All rows of the task of a file or mapping, images decoded as in the model's training."""
    asked, home = read_asked(task, Path(root or "."))
    return _load(asked, home, predictor, skip_corrupt=skip_corrupt, seed=seed)


def _load(asked: Asked, home: Path, predictor: Predictor, *, skip_corrupt: bool, seed: int) -> Task:
    if "seed" in asked.model_fields_set:
        seed = asked.seed
    spec = _as_trained(asked.task, predictor)
    return load_task(spec, root=home, skip_corrupt=skip_corrupt, seed=seed)


def read_asked(task: str | Path | Mapping[str, Any], root: Path) -> tuple[Asked, Path]:
    """A task alone, or a recipe of ``recycle``; and where its paths start.

    Raises ``TaskError`` for a task and ``RecipeError`` for a recipe with what is not known.
    """
    value, lines, where = task, None, "the task"
    if isinstance(task, str | Path):
        path = Path(task)
        where, root = str(path), path.parent
        value, lines = load_with_lines(path, "task")
    if not isinstance(value, Mapping):
        raise TaskError(f"{where} is no mapping", hint="it needs 'kind', as a recipe's task")
    if isinstance(value.get("task"), Mapping):
        return validated(Asked, value, source=where, lines=lines), root
    try:
        return Asked(task=parse_task_spec(value)), root
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
