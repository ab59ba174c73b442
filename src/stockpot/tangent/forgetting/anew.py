"""A run's folder beside one that was made from nothing: what training did not leave is noticed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stockpot.checkpoints import open_checkpoint
from stockpot.files import file_digest
from stockpot.outputs import recipe_digest
from stockpot.provenance import HEADER_KEY, Record, parse_record, read_models, read_record
from stockpot.reading import parse_json, read_json
from stockpot.tangent.jobs import HEAD
from stockpot.tangent.recipe import load_recipe
from stockpot.tangent.run import RESULTS
from stockpot.tangent.schema import TangentResults


def made_otherwise(run: Path, fresh: Path, recipe: Path) -> list[str]:
    """What ``run`` says or holds otherwise than ``fresh``, where the same components were trained.

    Compared are the files of its jobs, and all lists and records, but for what honest folders
    differ in: versions, seconds, paths of the base and of the head.
    """
    problems = sorted(
        f"{path.relative_to(run).as_posix()} is not what training left"
        for path, content in _jobs(run)
        if content not in {content for _, content in _jobs(fresh)}
    )
    own, other = _lists(run), _lists(fresh)
    asked = load_recipe(recipe).model_dump(mode="json")
    other |= {"recipe": asked, "digest": recipe_digest(asked), "head": asked["head"]}
    return problems + [
        f"{name} in its lists and records: not what training left"
        for name in sorted({*own, *other})
        if own.get(name) != other.get(name)
    ]


def _jobs(folder: Path) -> Iterable[tuple[Path, tuple[str, str]]]:
    for path in sorted((folder / "work" / "jobs").glob("*/*")):
        content = file_digest(path)
        if path.name == "done.json":
            value = read_json(path)
            content = f"{value['function']} {value['label']}"
        yield path, (path.name, content)


def _lists(folder: Path) -> dict[str, object]:
    results = TangentResults.read(read_json(folder / RESULTS))
    found: dict[str, object] = {"components": results.model_copy(update={"recipe_digest": ""})}
    whole = read_record(folder)
    found["record"] = replace(_timeless(whole), recipe=None)
    models = read_models(folder)
    found["models"] = sorted(model.name or "" for model in models)
    for model in models:
        record = model.record
        if record is None:
            found["base"] = (model.name, model.digest, model.base, model.overlay, model.parts)
        elif model.source == HEAD:
            found["head of all"] = (model.name, replace(_timeless(record), recipe=None))
            found["head"] = record.recipe
        else:
            found[model.source] = (model.name, _timeless(record))
            with open_checkpoint(folder / model.source) as checkpoint:
                text = checkpoint.metadata.get(HEADER_KEY, "null")
            own = parse_record(parse_json(text), model.source)
            found[f"header of {model.source}"] = _timeless(own)
    return found | {"recipe": whole.recipe, "digest": results.recipe_digest}


def _timeless(record: Record) -> Record:
    return replace(record, versions={})
