"""Look at the data, the backbone and all weights before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stockpot.backbones import Backbone, load_backbone
from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import BackboneError, InputError
from stockpot.inspection import check_lineage
from stockpot.recycling.cells import check_auxiliary, check_splits
from stockpot.recycling.judging import other_metrics, selection_metric
from stockpot.recycling.plan import Facts
from stockpot.recycling.recipe import Auxiliary, Recipe
from stockpot.recycling.settings import class_weights
from stockpot.tasks import Task, load_task
from stockpot.tasks.specs import TaskSpec
from stockpot.training.objective import check_objective


@dataclass(frozen=True)
class Examined:
    """What was looked at, and the facts that name its content in the jobs."""

    task: Task
    backbone: Backbone
    facts: Facts


def examine(
    recipe: Recipe, root: Path, cache: Path | None, *, skip_corrupt: bool = False
) -> Examined:
    """Load and check all inputs of a recipe; nothing is trained, and nothing but ``cache`` written.

    Raises ``InputError`` (a subclass) naming file, domain, line or tensor.
    """

    def load(spec: TaskSpec) -> Task:
        return load_task(spec, root=root, skip_corrupt=skip_corrupt, cache=cache, seed=recipe.seed)

    task = load(recipe.task)
    check_splits(recipe, task)
    other_metrics(recipe, task.kind)
    training = recipe.training
    check_objective(
        task.kind, task.classes, class_weights(training), training.label_smoothing, "training."
    )
    body = load_backbone(recipe.backbone, root=root, example=task.inputs[:2])
    if (body.modality == "text") != (task.modality == "text"):
        raise BackboneError(
            f"backbone '{recipe.backbone.name}' takes {body.modality} inputs, "
            f"task '{task.name}' has {task.modality} inputs"
        )
    contents = {}
    examples = {}
    for auxiliary in recipe.auxiliaries:
        if auxiliary.weights is not None:
            contents[auxiliary.name] = _check_wild(auxiliary.weights, body, root)
            continue
        other = task if auxiliary.task is None else load(auxiliary.task)
        _check_auxiliary(auxiliary, other, task)
        if auxiliary.task is not None:
            check_auxiliary(recipe, auxiliary, other)
        contents[auxiliary.name] = other.fingerprint
        examples[auxiliary.name] = other.counts()
    facts = Facts(
        domains=task.domains,
        task=task.fingerprint,
        backbone=body.fingerprint,
        auxiliaries=contents,
        root=str(root),
        cache=str(cache or ""),
        skip_corrupt=skip_corrupt,
        metric=selection_metric(recipe, task.kind).name,
        examples=task.counts(),
        auxiliary_examples=examples,
    )
    return Examined(task, body, facts)


def _check_wild(weights: str, body: Backbone, root: Path) -> str:
    """Weights from the wild: same architecture, finite, and a descendant of the base."""
    path = root / Path(weights).expanduser()
    with open_checkpoint(path) as checkpoint:
        name = checkpoint.digest()
    body.adopt(load_state(path), str(path))
    check_lineage(body.state(), path)
    return name


def _check_auxiliary(auxiliary: Auxiliary, other: Task, task: Task) -> None:
    if auxiliary.rotation and task.modality != "image":
        raise InputError(
            f"auxiliary '{auxiliary.name}': rotation needs images, "
            f"task '{task.name}' has {task.modality} inputs"
        )
    if other.modality != task.modality:
        raise InputError(
            f"auxiliary '{auxiliary.name}' has {other.modality} inputs, "
            f"task '{task.name}' has {task.modality} inputs"
        )
