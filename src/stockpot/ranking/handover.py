"""Hand the winner on: a recipe for ``recycle`` that starts from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stockpot.files import write_text
from stockpot.provenance import RunModel, read_models
from stockpot.ranking.prepare import Prepared
from stockpot.ranking.tuning import Tuned
from stockpot.ranking.zoo import ModelEntry

_FILES = ("path", "validation", "test", "weights")


def write_recipe(path: Path, prepared: Prepared, name: str, entry: ModelEntry) -> None:
    """Write a recipe that starts from the model ``name``; its paths start at its own folder."""
    import yaml

    request, task = prepared.request, prepared.task
    training = request.training.model_dump(exclude_none=True)
    if entry.learning_rate is not None:
        training["learning_rate"] = entry.learning_rate
    if request.limit_per_domain is not None:
        training["limit_per_domain"] = request.limit_per_domain
    held_out: list[str] | str = list(request.held_out) or "all"
    recipe: dict[str, object] = {
        "title": f"{prepared.title}, from {name}",
        "task": _moved(
            request.task.model_dump(mode="json", exclude_none=True), prepared.root, path
        ),
        "backbone": _moved(
            entry.spec.model_dump(mode="json", exclude_defaults=True), prepared.zoo.root, path
        ),
        "held_out": held_out,
        "seed": request.seed,
        "training": training,
    }
    lines = [
        f"# Written by `stockpot rank`: '{name}' came first of {len(prepared.entries)} models."
    ]
    if len(task.domains) < 2:
        lines.append(
            f"# '{task.name}' has one domain: recycle judges on test rows of it. Name a column or\n"
            "# use folders that say where each example comes from to judge on domains never seen."
        )
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    write_text(path, "\n".join(lines) + "\n" + text)


def kept_models(tuned: Sequence[Tuned], title: str, output: Path) -> list[RunModel]:
    """Bases and models of whole fine-tunings, in their order, as seen from ``output``; the ranking
    is called ``title``.
    """
    found: dict[str, RunModel] = {}
    for one in tuned:
        if one.folder is None or not one.whole:
            continue
        for made in read_models(one.folder):
            inside = one.folder / made.source
            source = os.path.relpath(inside, output) if inside.exists() else made.source
            name = one.model if made.digest is not None else f"{title}: {one.model}"
            found.setdefault(source, replace(made, source=source, name=name))
    return list(found.values())


def _moved(spec: dict[str, object], root: Path, recipe: Path) -> dict[str, object]:
    """The spec with paths that start at ``root`` written from the recipe's folder."""
    here = recipe.parent.absolute()

    def moved(value: str) -> str:
        path = root / Path(value).expanduser()
        return os.path.relpath(path.absolute(), here) if path.exists() else value

    found = dict(spec)
    files = ("path", "weights") if found.get("kind") == "datasets" else _FILES
    for key in files:
        value = found.get(key)
        if isinstance(value, str):
            found[key] = moved(value)
    for key in ("function", "name"):
        value = found.get(key)
        if isinstance(value, str):
            place, colon, attribute = value.rpartition(":")
            if colon and place.endswith(".py"):
                found[key] = f"{moved(place)}:{attribute}"
            elif not colon and found.get("kind") in ("transformers", "timm"):
                found[key] = moved(value)
    return found
