"""The final model as a folder that loads as its base did, with its family tree in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stockpot.backbones.folder import find_expression, save_folder
from stockpot.checkpoints.torch_io import load_state
from stockpot.evaluation.metrics import METRICS
from stockpot.execution import Job
from stockpot.files import atomic_folder
from stockpot.provenance import Record, RunModel, write_models
from stockpot.recycling.cells import tested_as
from stockpot.recycling.contents import content_of
from stockpot.recycling.examine import Examined
from stockpot.recycling.ingredients import find_ingredients
from stockpot.recycling.judging import measured
from stockpot.recycling.kept import kept_sentences
from stockpot.recycling.metrics import read_metrics
from stockpot.recycling.plan import Cell, Plan
from stockpot.recycling.recipe import Recipe
from stockpot.recycling.schema import RecycleResults
from stockpot.tasks import Task, image_decoding, split_task

FOLDER = "model"


def save_final(
    output: Path,
    recipe: Recipe,
    examined: Examined,
    plan: Plan,
    folders: Mapping[Job, Path],
    results: RecycleResults,
) -> None:
    """Write weights, head, the base's configuration, model card and provenance into
    ``output/model``, and beside it the list of all models that it came from.
    """
    assert plan.final_cell is not None
    protocol = results.final.protocol
    job = plan.final_cell.models[protocol]
    metrics = read_metrics(folders[job])
    content = content_of(protocol, plan.final_cell, folders)
    state = load_state(folders[job] / "model.safetensors")
    expression = find_expression(examined.backbone, state)
    made = find_ingredients(
        recipe, examined, plan, folders, results.versions, output, protocol, expression
    )
    record = Record(
        kind="merge" if content.is_average else "finetune",
        name=recipe.title,
        parents=made.parents,
        recipe=recipe.model_dump(mode="json"),
        data=examined.facts.task,
        metrics=measured(
            metrics.main, METRICS[examined.facts.metric], tested_as(plan.final_cell.domains)
        ),
        versions=results.versions,
    )
    with atomic_folder(output / FOLDER, replace=True) as folder:
        save_folder(
            folder,
            examined.backbone,
            state,
            record=record,
            classes=examined.task.classes,
            images=image_decoding(examined.task, getattr(recipe.task, "resize", None)),
            text="\n".join(f"- {sentence}" for sentence in kept_sentences(results)),
            measured_on=_rows_of(record.metrics, examined.task, plan.final_cell),
        )
    write_models(output, [*made.models, RunModel(FOLDER)])


def _rows_of(metrics: Mapping[str, float], task: Task, cell: Cell) -> dict[str, str]:
    """What the card says of the rows behind each metric: those of the kept weights themselves."""
    parts = split_task(task, **cell.probe.arguments["split"])
    tested = f"test rows of {', '.join(parts.test)}"
    if cell.domains:
        tested = f"{', '.join(parts.test)}: held out, in the one split these weights come from"
    elif not task.shared:
        tested += "; they trained and chose nothing"
    chose = "they chose weights and protocol"
    validation = f"validation rows of {', '.join(parts.validation)}; {chose}"
    return {name: validation if name.startswith("id_") else tested for name in metrics}
