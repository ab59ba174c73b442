"""A model as a folder that opens where its base did, head included."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones.backbone import Backbone, State, load_backbone
from stockpot.backbones.configuration import headless, input_size, write_configuration
from stockpot.backbones.layout import ABOUT, HEAD, WEIGHTS, Layout, parse_layout
from stockpot.backbones.library import Expression, express
from stockpot.backbones.model import Model, backbone_part
from stockpot.backbones.sources import quiet_library
from stockpot.backbones.spec import BackboneSpec
from stockpot.backbones.usage import usage
from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.declared import first_problem
from stockpot.errors import BackboneError
from stockpot.files import write_json
from stockpot.programs import forbidden
from stockpot.provenance import Record, RunModel, write_card, write_record
from stockpot.reading import read_json
from stockpot.schema import fields

BUFFERS = "buffers.safetensors"
SCHEMA = 2

_LIBRARIES = {"transformers": "transformers", "timm": "timm", "function": None}


def save_folder(
    folder: Path,
    backbone: Backbone,
    state: Mapping[str, Tensor],
    *,
    record: Record,
    classes: Sequence[str] = (),
    images: Mapping[str, Any] | None = None,
    text: str = "",
    measured_on: Mapping[str, str] | None = None,
) -> Record:
    """Write ``state`` (as from ``Model.state``) to ``folder``; returns the record with its digest.

    Where a class of the base's library computes what the model does, ``model.safetensors`` holds
    what that class would save, head included, and the configuration names class and labels. Else
    it holds the featurizer under the base's names, and ``head.safetensors`` ``weight`` (outputs, D)
    and ``bias``. ``buffers.safetensors`` holds, where training changed buffers that checkpoints of
    the base do not hold, those. ``head.json`` says which, and what :func:`load_model` needs;
    ``stockpot.json`` and ``README.md`` say where the weights came from and how they are opened.

    ``classes``: names in the order of the outputs, empty for a regression. ``images``: how files
    were decoded before the backbone saw them, ``{"size": pixels, "resize": "stretch" or "crop"}``.
    ``text``: Markdown for the card. ``measured_on``: the rows behind the record's metrics.
    """
    weights = whole_weights(backbone, state)
    if buffers := backbone.changed_buffers(backbone_part(state)):
        save_state(folder / BUFFERS, buffers)
    head = {name: state[f"head.{name}"] for name in ("weight", "bias")}
    expression = find_expression(backbone, state)
    if expression is None:
        save_state(folder / WEIGHTS, weights)
        save_state(folder / HEAD, head)
    else:
        save_state(folder / WEIGHTS, joined(expression.layout, weights, head, expression.names))
    write_configuration(folder, backbone, expression, classes, images)
    spec = backbone.spec.model_dump(mode="json", exclude={"freeze_below", "weights"})
    if backbone.spec.kind != "function":
        spec["name"] = "."
    about = {
        "schema": SCHEMA if expression else 1,
        "classes": list(classes),
        "backbone": spec,
        "images": None if images is None else dict(images),
    }
    if expression is not None:
        about |= {"layout": expression.layout.to_json(), "headless": headless(backbone)}
    write_json(folder / ABOUT, about)
    with open_checkpoint(folder / WEIGHTS) as checkpoint:
        record = replace(record, digest=checkpoint.digest())
    write_record(folder, record)
    kind = {"text": "text-classification", "image": "image-classification"}.get(backbone.modality)
    write_card(
        folder,
        record,
        library_name=_LIBRARIES[backbone.spec.kind],
        pipeline_tag=kind if expression is not None else None,
        text=text,
        measured_on=measured_on,
        usage=usage(
            backbone.spec,
            backbone.modality,
            expression,
            classes,
            images,
            input_size(backbone, images),
        ),
    )
    return record


def whole_weights(backbone: Backbone, state: Mapping[str, Tensor]) -> State:
    """The featurizer under the base's names: what ``state`` has of it, else the base's."""
    return backbone.state(backbone_part(state))


def find_expression(backbone: Backbone, state: Mapping[str, Tensor]) -> Expression | None:
    """The class of the base's library that computes what the model with ``state`` does, if any.

    None does where training changed buffers that no checkpoint of that class holds.
    """
    if backbone.spec.kind == "function" or backbone.changed_buffers(backbone_part(state)):
        return None
    batch = backbone.example()
    if batch is None:
        return None
    module = backbone.module
    head = state["head.weight"].float().numpy(), state["head.bias"].float().numpy()
    weights = whole_weights(backbone, state)
    return express(backbone.network, module.run, module.readout, head, batch, weights)


def joined(
    layout: Layout,
    weights: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None,
    names: Collection[str],
) -> State:
    """Featurizer and ``head`` (None: without) under the ``names`` of a library's class."""
    whole = {f"{layout.prefix}{name}": tensor for name, tensor in weights.items()}
    whole = {name: tensor for name, tensor in whole.items() if name not in layout.names}
    if head is not None:
        placed = layout.place(head["weight"].numpy(), head["bias"].numpy())
        whole |= {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in placed.items()}
    return {name: tensor for name, tensor in whole.items() if name in names}


def read_about(folder: str | Path) -> dict[str, Any]:
    """What ``head.json`` of a model folder says.

    Raises ``BackboneError`` where there is none, one of a newer stockpot, or one that says what no
    model folder can.
    """
    path = Path(folder) / ABOUT
    if not path.is_file():
        raise BackboneError(f"{folder} holds no model with a head: there is no {ABOUT}")
    try:
        about: dict[str, Any] = read_json(path, "what a model folder says", error=BackboneError)
        known = fields.count(about["schema"], "schema") <= SCHEMA
        if known:
            _check_about(about)
    except (KeyError, TypeError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else first_problem(error)
        raise BackboneError(f"{path} cannot be read: {what}") from error
    if not known:
        raise BackboneError(
            f"{path} has schema {about['schema']}, this stockpot reads up to {SCHEMA}",
            hint="upgrade stockpot",
        )
    return about


def _check_about(about: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` for what no model folder can say."""
    classes = [fields.name(name, "classes") for name in fields.items(about["classes"], "classes")]
    if len(set(classes)) < len(classes):
        raise ValueError("'classes' names a class twice")
    spec = BackboneSpec(**fields.table(about["backbone"], "backbone"))
    own = Path(spec.name)
    if spec.kind != "function" and (spec.weights or own.is_absolute() or ".." in own.parts):
        raise ValueError(f"'backbone' lies elsewhere: {spec.weights or spec.name!r:.100}")
    images = fields.optional(fields.table, about.get("images"), "images")
    if images is not None:
        fields.number(images["size"], "images: size", 1, 10_000)
        fields.name(images["resize"], "images: resize")
    layout = parse_layout(about)
    if layout is not None:
        layout.check()


def load_model(
    folder: str | Path, *, root: str | Path | None = None
) -> tuple[Model, tuple[str, ...]]:
    """Load what :func:`save_folder` wrote: the model in evaluation mode, and its classes.

    Predict with ``model(model.backbone.prepare(inputs))``, where ``inputs`` are texts, or uint8
    images (N, H, W, 3). ``root``: where the code of a function backbone lies; a model folder never
    brings code of its own. Raises ``BackboneError`` where the folder holds no such model.
    """
    folder = Path(folder)
    found = read_about(folder)
    for _, reason in forbidden(found, Path(root or ".")):
        raise BackboneError(f"{folder / ABOUT}: {reason}")
    spec = dict(found["backbone"])
    if spec["kind"] == "function":
        spec["weights"] = str((folder / WEIGHTS).resolve())
    start = Path(root or ".") if spec["kind"] == "function" else folder
    layout = parse_layout(found)
    try:
        with quiet_library(spec["kind"]):
            backbone = load_backbone(BackboneSpec(**spec), root=start)
        if (folder / BUFFERS).is_file():
            backbone.load(load_state(folder / BUFFERS))
        weight, bias = _read_head(folder, layout, backbone)
    except BackboneError as error:
        raise BackboneError(f"{folder}: {error.message}", hint=error.hint) from error
    classes = tuple(found["classes"])
    outputs = len(classes) or len(bias)
    if len(bias) != outputs or weight.shape != (outputs, backbone.feature_dim):
        raise BackboneError(
            f"{folder}: its head has shape {list(weight.shape)}; there are {len(classes)} classes "
            f"and {backbone.feature_dim} features"
        )
    model = Model(backbone, len(bias))
    model.set_head(weight, bias)
    model.eval()
    return model, classes


def _read_head(folder: Path, layout: Layout | None, backbone: Backbone) -> tuple[Any, Any]:
    """Weight and bias of the head of a folder, whose weights are those of the backbone."""
    if layout is None:
        head = load_state(folder / HEAD)
        try:
            return head["weight"].numpy(), head["bias"].numpy()
        except KeyError as error:
            raise BackboneError(f"{HEAD} lacks the tensor {error}") from error
    with open_checkpoint(folder) as checkpoint:
        own = {f"{layout.prefix}{name}" for name in backbone.state()}
        # The library draws what it misses at random. A pooler is left out where it is not used.
        for name in sorted(own ^ set(checkpoint.names)):
            if name in own and "pooler" not in name:
                raise BackboneError(f"the weights lack '{name}', which its config asks for")
            if name not in own and name not in layout.names:
                raise BackboneError(f"its config has no place for '{name}' of the weights")
        tensors = {n: np.array(checkpoint.read(n)) for n in layout.names if n in checkpoint}
    return layout.read(tensors, backbone.feature_dim)


def base_weights(backbone: Backbone, root: Path) -> tuple[str | Path | None, str]:
    """Where a base's weights lie (folder, file or hub id; None: a function made them), and their
    content hash, as a registry to which they are added names them.

    ``root``: where relative paths of the spec start.
    """
    spec = backbone.spec
    place: str | Path | None = backbone.folder
    if spec.weights is not None:
        place = root / Path(spec.weights).expanduser()
    if place is None:
        return None, MemoryCheckpoint(backbone.state()).digest()
    with open_checkpoint(place) as checkpoint:
        found = checkpoint.digest()
    local = spec.weights is not None or (root / Path(spec.name).expanduser()).is_dir()
    return (place if local else spec.name), found


def place_base(backbone: Backbone, root: Path, output: Path) -> RunModel:
    """The base of what a run left in ``output``, for its ``models.json``.

    Weights that a function made lie nowhere: they are written to ``output/work``.
    """
    place, found = base_weights(backbone, root)
    name = Path(backbone.spec.name).name
    if place is None:
        name = name.rpartition(":")[2]
        place = output / "work" / f"base-{found[:12]}.safetensors"
        if not place.is_file():
            save_state(place, backbone.state())
    source = place if isinstance(place, str) else os.path.relpath(place.absolute(), output)
    return RunModel(source, name, digest=found)
