"""The final model as a folder that loads as its base did, with its family tree in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.backbones import Backbone
from stockpot.backbones.folder import save_folder
from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint
from stockpot.checkpoints.torch_io import load_state
from stockpot.execution import Job
from stockpot.provenance import Parent, Record
from stockpot.recycling.examine import Examined
from stockpot.recycling.jobs import read_metrics
from stockpot.recycling.plan import Plan
from stockpot.recycling.recipe import Recipe


def save_final(
    folder: Path,
    recipe: Recipe,
    examined: Examined,
    plan: Plan,
    folders: Mapping[Job, Path],
    results: Mapping[str, Any],
) -> None:
    """Write weights, head, the base's configuration, model card and provenance into ``folder``."""
    job = plan.final_cell.models[recipe.final_protocol]
    state = load_state(folders[job] / "model.safetensors")
    metrics = read_metrics(folders[job])
    members = metrics["members"]
    weights = metrics["how"].get("coefficients", {})
    facts = examined.facts
    base = Path(recipe.backbone.name).name
    parents = [Parent(base, _base_digest(examined.backbone), role="base")]
    for auxiliary in recipe.auxiliaries:
        role = "wild" if auxiliary.weights is not None else "auxiliary"
        parents.append(Parent(auxiliary.name, facts.auxiliaries[auxiliary.name], role=role))
    runs = {name: need for name, need in job.inputs.items() if name.startswith("run:")}
    for name in members:
        weight = weights.get(name, 1 / len(members))
        parents.append(Parent(name, runs[f"run:{name}"].key, role="run", weight=weight))
    found = {"id_accuracy": metrics["best"]["id_accuracy"]}
    if "accuracy" in metrics["best"]:
        found["held_out_accuracy"] = metrics["best"]["accuracy"]
    record = Record(
        kind="merge",
        name=recipe.title,
        parents=tuple(parents),
        recipe=recipe.model_dump(mode="json"),
        data=facts.task,
        metrics=found,
        versions=results["versions"],
    )
    save_folder(
        folder,
        examined.backbone,
        state,
        record=record,
        classes=examined.task.classes,
    )


def _base_digest(backbone: Backbone) -> str:
    """Content hash of the base's weights, as a registry knows them: those of its file if any."""
    if backbone.folder is not None:
        with open_checkpoint(backbone.folder) as checkpoint:
            return checkpoint.digest()
    return MemoryCheckpoint(backbone.state()).digest()
