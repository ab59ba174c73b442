"""What a trainer left: a model of its init's family, whole, or refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stockpot.checkpoints import Checkpoint, open_checkpoint
from stockpot.checkpoints.dtypes import STORAGE, is_float
from stockpot.checkpoints.matching import is_buffer
from stockpot.checkpoints.writer import folder_writer
from stockpot.errors import InputError
from stockpot.merging.companions import copy_companions
from stockpot.merging.output import METADATA

_SHOWN = 6  # files that a message names
_FAMILY = 0.5  # of a model's weights, what has to be the base's by name and shape


def check_output(model: Path, log: Path) -> None:
    """Raises ``InputError`` where nothing was left, or an adapter alone."""
    if not model.is_dir() or not any(model.iterdir()):
        raise InputError(
            "the trainer ended well and left nothing in its output",
            hint=f"it has to save its model there; what it printed is in {log}",
        )
    if (model / "adapter_config.json").is_file():
        raise InputError(
            "the trainer wrote an adapter", hint="merge it into its model before it is saved"
        )


def keep_weights(output: Path, pattern: str, init: Path, model: Path) -> None:
    """Make a model folder of the one file in ``output`` that has a name like ``pattern``, with what
    lies beside the init's weights; ``output`` is removed. Raises ``InputError``."""
    files = sorted(output.glob(pattern))
    if len(files) != 1:
        there = sorted(str(one.relative_to(output)) for one in output.rglob("*") if one.is_file())
        raise InputError(
            f"trainer.weights: {len(files)} files of the trainer's output are like '{pattern}'",
            hint=f"it left {', '.join(there[:_SHOWN])}",
        )
    with open_checkpoint(files[0]) as weights:
        model.mkdir()
        with folder_writer(model, weights.tensors, METADATA) as writer:
            for name in weights.names:
                writer.write(name, 0, weights.raw(name))
    copy_companions(init, model)
    shutil.rmtree(output)


def matching(model: Checkpoint, other: Checkpoint) -> list[str]:
    """Weights of ``model`` that ``other`` has by name and shape."""
    return [
        name
        for name in weights_of(model)
        if name in other and other.info(name).shape == model.info(name).shape
    ]


def weights_of(model: Checkpoint) -> list[str]:
    """Floating tensors, without buffers that a model makes itself."""
    infos = model.tensors.values()
    return [one.name for one in infos if is_float(one.dtype) and not is_buffer(one)]


def check_family(model: Checkpoint, ground: Checkpoint, what: str) -> None:
    """Raises ``InputError`` where less than half of the weights have their like in ``ground``."""
    common = sum(model.info(name).size for name in matching(model, ground))
    whole = sum(model.info(name).size for name in weights_of(model))
    if common < _FAMILY * whole:
        raise InputError(
            f"{what} is no model of the init's family: {common:,} of its {whole:,} weights have "
            "name and shape of one of the init's"
        )


def check_trained(
    model: Checkpoint, ground: Checkpoint, role: Literal["head", "auxiliary", "run"]
) -> list[str]:
    """Notes on what a training left of its init, ``ground``.

    A run has to have the tensors of its init, no more and no less; the training of a head makes
    new ones, and may leave out those of another task. Raises ``InputError``.
    """
    check_family(model, ground, "what the trainer wrote")
    shared, lacking = set(matching(model, ground)), _lacking(model, ground)
    if role == "run":
        _refuse_new([name for name in weights_of(model) if name not in shared], ground)
    if role == "run" and lacking:
        raise InputError(
            f"the trainer's model lacks {_such(lacking)} of its init",
            hint="let the trainer save all weights, or give a base without these",
        )
    notes = _narrowed(model, ground)
    if role == "head" and lacking:
        notes.append(f"the head's training left out {_such(lacking)} of the base")
    return notes


def _refuse_new(new: Sequence[str], ground: Checkpoint) -> None:
    if not new:
        return
    other = ", in another shape" if new[0] in ground else ""
    raise InputError(
        f"the trainer's model has {_such(new)} that its init lacks{other}: every run would begin "
        "with another one",
        hint="where this is a new head, say 'head' in the recipe, so that all runs start from one "
        "head; else let the trainer save only what the init has",
    )


def _lacking(model: Checkpoint, ground: Checkpoint) -> list[str]:
    """Weights of ``ground`` that ``model`` lacks; one that is tied to another of its own is not."""
    absent = [name for name in weights_of(ground) if name not in model]
    present = [name for name in weights_of(ground) if name in model]

    def is_tied(name: str) -> bool:
        shape, own = ground.info(name).shape, ground.raw(name)
        return any(
            np.array_equal(own, ground.raw(other))
            for other in present
            if ground.info(other).shape == shape
        )

    return [name for name in absent if not is_tied(name)]


def _such(names: Sequence[str]) -> str:
    return f"'{names[0]}'" if len(names) == 1 else f"{len(names)} tensors, such as '{names[0]}',"


def _narrowed(model: Checkpoint, ground: Checkpoint) -> list[str]:
    """A note where weights are stored with fewer bytes than those that they started from."""
    for name in matching(model, ground):
        own, other = model.info(name).dtype, ground.info(name).dtype
        if STORAGE[own].itemsize < STORAGE[other].itemsize:
            return [
                f"the trainer stores {own} where its init has {other}: small changes are lost, and "
                "averages are rounded to it"
            ]
    return []


def nonfinite(model: Checkpoint) -> str | None:
    """A tensor that holds NaN or infinity."""
    return next(
        (
            name
            for name in weights_of(model)
            if model.first_nonfinite(name, 0, model.info(name).size) is not None
        ),
        None,
    )
