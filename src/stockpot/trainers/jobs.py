"""What the jobs do: compose the weights that trainings start from, and train.

A job's folder holds ``model``, a model folder, and ``training.json``. Where a training diverged
``training.json`` says so, there is no model, and no training starts from it. ``notes`` in it are
for people.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.checkpoints import Checkpoint, open_checkpoint
from stockpot.checkpoints.dtypes import Array, narrow
from stockpot.checkpoints.matching import match_names
from stockpot.checkpoints.writer import folder_writer
from stockpot.errors import InputError
from stockpot.files import write_json
from stockpot.merging.companions import copy_companions
from stockpot.merging.output import METADATA
from stockpot.provenance import Parent, Record, read_record, versions, write_record
from stockpot.reading import read_json
from stockpot.trainers.contract import TrainingRequest, name_of, open_trainer
from stockpot.trainers.output import (
    check_family,
    check_output,
    check_trained,
    keep_weights,
    matching,
    nonfinite,
)

MODEL, FACTS = "model", "training.json"

Values = Mapping[str, Any]
Folders = Mapping[str, Path]


def left_out(folder: Path) -> str:
    """Why a job's model cannot be used, "" where it can."""
    return str(read_json(folder / FACTS, "the facts of a training").get("left_out", ""))


def notes_of(folder: Path) -> list[str]:
    """What is worth a note about a job's model."""
    return list(read_json(folder / FACTS, "the facts of a training").get("notes", ()))


def located(source: str | Path, root: Path) -> str:
    """A path from ``root``, where there is one, or the name as it is: a hub id."""
    return str(root / source) if (root / source).exists() else str(source)


def start(
    out: Path,
    inputs: Folders,
    *,
    sources: list[Values],
    head_tensors: list[str],
    base_digest: str,
    base: str,
    root: str,
) -> None:
    """An init: the base's weights, an auxiliary's or a mean of some, under the shared head.

    ``sources``: ``name`` ("base", or of an auxiliary), ``weights`` (a path or hub id with its
    ``content``, or None for what a job trained) and ``share``. The head is what the base lacks, or
    ``head_tensors`` names; it is that of the first training (``inputs["head"]``), or the base's.
    """
    if lost := [why for folder in inputs.values() if (why := left_out(folder))]:
        write_json(out / FACTS, {"left_out": lost[0]})
        return
    folder = inputs["head"] / MODEL if "head" in inputs else Path(base)
    with ExitStack() as stack:
        names = [str(source["name"]) for source in sources]
        wild = {
            str(one["name"]): located(one["weights"], Path(root))
            for one in sources
            if one["weights"] is not None
        }
        jobs = {name: inputs[name] / MODEL for name in names if name in inputs}
        paths: dict[str, str | Path] = {**wild, **jobs, "base": Path(base)}
        opened = [stack.enter_context(open_checkpoint(path)) for path in (folder, *paths.values())]
        (model, *others), _ = match_names(opened)
        by_name = dict(zip(paths, others, strict=True))
        ground = by_name["base"]
        shared = {
            name
            for name in matching(model, ground)
            if not any(fnmatch(name, pattern) for pattern in head_tensors)
        }
        parts = [(by_name[str(one["name"])], float(one["share"])) for one in sources]
        for name, (other, _) in zip(names, parts, strict=True):
            check_family(other, ground, name)
        for source in sources:
            other = by_name[str(source["name"])]
            if source["weights"] is not None and other.digest() != source["content"]:
                raise InputError(f"{source['weights']} has changed since the run began")
        (out / MODEL).mkdir(exist_ok=True)
        with folder_writer(out / MODEL, model.tensors, METADATA) as writer:
            for name in model.names:
                writer.write(name, 0, _mixed(model, ground, parts, name, name in shared))
        parents = [
            Parent(str(source["name"]), one.digest(), "init", share if len(parts) > 1 else None)
            for source, (one, share) in zip(sources, parts, strict=True)
        ]
        if "head" in inputs:
            parents.append(Parent("head", model.digest(), "head"))
    copy_companions(folder, out / MODEL)
    recipe = {"sources": sources, "head_tensors": head_tensors}
    _write_record(out / MODEL, "merge", "init", parents, recipe)
    write_json(out / FACTS, {})


def train(
    out: Path,
    inputs: Folders,
    *,
    trainer: Values,
    identity: str,
    role: Literal["head", "auxiliary", "run"],
    name: str,
    data: str | None,
    content: str,
    hyperparameters: Values,
    seed: int,
    threads: int,
    base_digest: str,
    base: str,
    root: str,
) -> None:
    """One training by somebody's trainer, from the base or from ``inputs["init"]``.

    Raises ``InputError`` where what it wrote is no model of the init's family.
    """
    if "init" in inputs and (why := left_out(inputs["init"])):
        write_json(out / FACTS, {"left_out": why})
        return
    init, model = inputs["init"] / MODEL if "init" in inputs else Path(base), out / MODEL
    output = model if trainer["weights"] is None else out / "written"
    for folder in (model, output):
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
    known = None if data is None else Path(root) / data
    told = str(known) if known is not None and known.exists() else data and name_of(data)
    request = TrainingRequest(init, output, told, seed, hyperparameters)
    before = read_record(init).digest if "init" in inputs else base_digest
    log = out / "log.txt"
    open_trainer(trainer, Path(root)).train(request, log, threads)
    check_output(output, log)
    if trainer["weights"] is not None:
        keep_weights(output, trainer["weights"], init, model)
    with ExitStack() as stack:
        ground = stack.enter_context(open_checkpoint(init))
        if ground.digest() != before:
            raise InputError(
                f"the trainer changed the weights that it started from, {init}",
                hint="put the base's back; a trainer writes to its output alone",
            )
        made = stack.enter_context(open_checkpoint(model))
        (made, ground), _ = match_names([made, ground])
        notes = check_trained(made, ground, role)
        if (place := nonfinite(made)) is not None:
            if role == "head":
                raise InputError(f"the head's training has diverged: '{place}' is not finite")
            shutil.rmtree(model)
            what = "it" if role == "run" else name
            write_json(out / FACTS, {"left_out": f"{what} has diverged: '{place}' is not finite"})
            return
        parents = [Parent("base" if "init" not in inputs else "init", before, "init")]
    source = {"trainer": trainer, "data": data}
    recipe = {**source, "hyperparameters": hyperparameters, "seed": seed}
    _write_record(model, "finetune", name, parents, recipe, content)
    write_json(out / FACTS, {"notes": notes})


def _mixed(
    model: Checkpoint,
    ground: Checkpoint,
    parts: Sequence[tuple[Checkpoint, float]],
    name: str,
    is_shared: bool,
) -> Array:
    """Storage values of one tensor of an init; what a source lacks is the base's."""
    if not is_shared:
        return model.raw(name)
    info = model.info(name)
    fitting = [
        (one if name in one and one.info(name).shape == info.shape else ground, share)
        for one, share in parts
    ]
    if len(fitting) == 1:
        one = fitting[0][0]
        if one.info(name).dtype == info.dtype:
            return one.raw(name)
        return narrow(one.read(name).reshape(-1), info.dtype)
    total = np.zeros(info.size, np.float64)
    for one, share in fitting:
        total += share * one.read(name).reshape(-1).astype(np.float64)
    return narrow(total, info.dtype)


def _write_record(
    folder: Path,
    kind: str,
    name: str,
    parents: Sequence[Parent],
    recipe: Any,
    data: str | None = None,
) -> None:
    with open_checkpoint(folder) as written:
        digest = written.digest()
    record = Record(
        kind=kind,
        name=name,
        parents=tuple(parents),
        recipe=recipe,
        data=data,
        versions=versions("torch", "transformers", "trl"),
        digest=digest,
    )
    write_record(folder, record)
