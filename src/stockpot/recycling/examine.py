"""Look at the data, the backbone and all weights before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stockpot.backbones import Backbone, load_backbone
from stockpot.checkpoints import open_checkpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import InputError, LineageError
from stockpot.inspection import Lineage, check_lineage
from stockpot.recycling.cells import check_auxiliary, check_splits
from stockpot.recycling.effects import check
from stockpot.recycling.judging import other_metrics, selection_metric
from stockpot.recycling.plan import Facts
from stockpot.recycling.recipe import Auxiliary, Recipe
from stockpot.recycling.settings import class_weights
from stockpot.tasks import Task, load_task
from stockpot.tasks.specs import TaskSpec
from stockpot.training.objective import check_objective


@dataclass(frozen=True)
class Examined:
    """What was looked at, and the facts that name its content in the jobs.

    ``lineage`` holds the evidence on the weights from the wild, by auxiliary.
    """

    task: Task
    backbone: Backbone
    facts: Facts
    lineage: Mapping[str, Lineage]


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
    body.check_takes(task)
    if recipe.backbone.kind == "function":
        load_backbone(recipe.backbone, root=root)  # as jobs do, which have no example
    check(recipe, task, body)
    contents: dict[str, str] = {}
    examples = {}
    lineage: dict[str, Lineage] = {}
    for auxiliary in recipe.auxiliaries:
        if auxiliary.weights is not None:
            path = root / Path(auxiliary.weights).expanduser()
            lineage[auxiliary.name] = _check_wild(auxiliary, path, body)
            with open_checkpoint(path) as checkpoint:
                contents[auxiliary.name] = checkpoint.digest()
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
        fixed_splits=task.splits is not None,
        metric=selection_metric(recipe, task.kind).name,
        examples=task.counts(),
        auxiliary_examples=examples,
    )
    return Examined(task, body, facts, lineage)


def _check_wild(auxiliary: Auxiliary, path: Path, body: Backbone) -> Lineage:
    """Weights from the wild: same architecture, finite, and a descendant of the base.

    What is asked about is what will be trained and averaged. Frozen layers stay the base's: they
    would vouch for weights whose trained layers are strangers, or speak against good ones.
    """
    trained = list(body.adopt(load_state(path), str(path)))
    evidence = check_lineage(body.state(), path, names=trained)
    if evidence.doubt and not auxiliary.accept_doubt:
        raise LineageError(
            f"auxiliary '{auxiliary.name}' ({path}): {evidence.doubt}",
            hint="leave it out, or set 'accept_doubt: true' on it and see what the results say",
        )
    return evidence


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
