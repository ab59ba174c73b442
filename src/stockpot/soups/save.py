"""The kept model as a folder that loads as its ingredients do, with its family tree beside it."""

from __future__ import annotations

import os
from pathlib import Path

from stockpot.checkpoints import Checkpoint, open_checkpoint
from stockpot.checkpoints.composite import component_files
from stockpot.checkpoints.writer import folder_writer
from stockpot.evaluation.wording import declared
from stockpot.files import atomic_folder
from stockpot.merging.companions import copy_companions
from stockpot.merging.output import METADATA, library_of, short_label
from stockpot.provenance import Parent, Record, RunModel, write_card, write_models, write_record
from stockpot.soups.collect import SoupOutcome
from stockpot.soups.schema import SoupResults
from stockpot.soups.words import sentences

FOLDER = "model"


def save_soup(output: Path, outcome: SoupOutcome, results: SoupResults) -> None:
    """Write ``output/model`` and ``output/models.json``. Raises ``OutputError``."""
    engine, blend = outcome.maker.engine, outcome.kept.blend
    model = engine.checkpoint(blend)
    with atomic_folder(output / FOLDER, replace=True) as folder:
        components = component_files(engine.ingredients[0])
        with folder_writer(folder, model.tensors, METADATA, components=components) as writer:
            for name, stored in engine.stream(model.names, blend):
                writer.write(name, 0, stored)
        if model.home is not None:
            copy_companions(model.home, folder)
        with open_checkpoint(folder) as written:
            record = _record(outcome, results, written.digest())
        write_record(folder, record)
        text = "\n".join(f"- {sentence}" for sentence in sentences(results))
        write_card(folder, record, library_name=library_of(folder), text=text)
    write_models(output, [*_parents(output, outcome), RunModel(FOLDER)])


def _record(outcome: SoupOutcome, results: SoupResults, digest: str) -> Record:
    engine, blend = outcome.maker.engine, outcome.kept.blend
    totals = blend.totals
    parents = [
        Parent(short_label(one.label), known, "model", float(weight))
        for one, known, weight in zip(engine.ingredients, engine.digests, totals, strict=True)
        if weight
    ]
    if engine.base is not None:
        parents.append(Parent(short_label(engine.base.label), engine.base.digest(), "base"))
    metric = results.evaluator.metric
    scores = {"judging": results.kept.judge, "choosing": results.kept.choose}
    return Record(
        kind="merge",
        name=results.title,
        parents=tuple(parents),
        recipe={
            **results.recipe,
            "kept": results.kept.name,
            "groups": list(results.groups),
            "coefficients": {one.name: list(one.shares) for one in results.ingredients},
            **({"method": blend.method, **dict(blend.parameters)} if blend.method else {}),
        },
        data=results.evaluator.label,
        metrics={
            f"{rows}_{metric}": declared(metric).sign * value
            for rows, value in scores.items()
            if value is not None
        },
        versions=results.versions,
        digest=digest,
    )


def _parents(output: Path, outcome: SoupOutcome) -> list[RunModel]:
    """The base and the ingredients, as far as they lie somewhere."""
    engine = outcome.maker.engine
    base = None if engine.base is None else engine.base.digest()
    listed: list[tuple[Checkpoint, str, str, str | None]] = []
    models = list(outcome.trained.starts)
    if engine.base is not None and base is not None and not models:
        listed.append((engine.base, str(outcome.ingredients.base_name), base, None))
    for one, name, known in zip(
        engine.ingredients, outcome.ingredients.names, engine.digests, strict=True
    ):
        listed.append((one, name, known, base))
    return models + [
        RunModel(_place(one, output), name, digest=known, base=of)
        for one, name, known, of in listed
        if one.path is not None
    ]


def _place(model: Checkpoint, output: Path) -> str:
    path = Path(model.label).expanduser()
    return os.path.relpath(path.absolute(), output.absolute()) if path.exists() else model.label
