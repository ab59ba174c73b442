"""A model as a folder: weights under their base's names, its configuration, the head beside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from stockpot.backbones.backbone import Backbone, load_backbone
from stockpot.backbones.model import Model, backbone_part
from stockpot.backbones.spec import BackboneSpec
from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.errors import BackboneError
from stockpot.files import write_json
from stockpot.provenance import Made, Record, write_card, write_record

WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"
BUFFERS = "buffers.safetensors"
ABOUT = "head.json"

# Configuration and tokenizer files of a base; its weights, card and history are not copied.
_KEEP = ("*.json", "*.txt", "*.model", "*/config.json")
_LEAVE = ("*.index.json", "stockpot.json", "asset.json", ABOUT, "LICENSE*")
_LIBRARIES = {"transformers": "transformers", "timm": "timm", "function": None}


def save_folder(
    folder: Path,
    backbone: Backbone,
    state: Mapping[str, Tensor],
    *,
    record: Record,
    classes: Sequence[str] = (),
) -> Record:
    """Write ``state`` (as from ``Model.state``) to ``folder``; returns the record with its digest.

    ``model.safetensors`` holds the whole featurizer under the base's names, so that the folder
    loads in transformers or timm as the base did; ``head.safetensors`` holds ``weight`` (outputs,
    D) and ``bias``; ``buffers.safetensors``, where training changed buffers that the base's
    checkpoints do not hold, those; ``head.json`` what :func:`load_model` needs; ``stockpot.json``
    and ``README.md`` where the weights came from.
    """
    trained = backbone_part(state)
    save_state(folder / WEIGHTS, backbone.state(trained))
    if buffers := backbone.changed_buffers(trained):
        save_state(folder / BUFFERS, buffers)
    head = {name: state[f"head.{name}"] for name in ("weight", "bias")}
    save_state(folder / HEAD, head)
    _write_configuration(folder, backbone)
    spec = backbone.spec.model_dump(mode="json", exclude={"freeze_below", "weights"})
    if backbone.spec.kind != "function":
        spec["name"] = "."
    write_json(folder / ABOUT, {"schema": 1, "classes": list(classes), "backbone": spec})
    with open_checkpoint(folder / WEIGHTS) as checkpoint:
        record = replace(record, digest=checkpoint.digest())
    write_record(folder, record)
    write_card(folder, record, library_name=_LIBRARIES[backbone.spec.kind])
    return record


def load_model(
    folder: str | Path, *, root: str | Path | None = None
) -> tuple[Model, tuple[str, ...]]:
    """Load what :func:`save_folder` wrote: the model in evaluation mode, and its classes.

    Predict with ``model(model.backbone.prepare(inputs))``, where ``inputs`` are texts, or uint8
    images (N, H, W, 3). ``root``: where the code of a function backbone lies; a model folder never
    brings code of its own. Raises ``BackboneError`` where the folder holds no such model.
    """
    folder = Path(folder)
    about = folder / ABOUT
    if not about.is_file():
        raise BackboneError(f"{folder} holds no model with a head: there is no {ABOUT}")
    found = json.loads(about.read_text(encoding="utf-8"))
    spec = dict(found["backbone"])
    if spec["kind"] == "function":
        spec["weights"] = str((folder / WEIGHTS).resolve())
    start = Path(root or ".") if spec["kind"] == "function" else folder
    backbone = load_backbone(BackboneSpec(**spec), root=start)
    if (folder / BUFFERS).is_file():
        backbone.load(load_state(folder / BUFFERS))
    head = load_state(folder / HEAD)
    model = Model(backbone, len(head["bias"]))
    model.set_head(head["weight"], head["bias"])
    model.eval()
    return model, tuple(found["classes"])


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


def place_base(backbone: Backbone, root: Path, output: Path) -> Made:
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
    return Made(source, name, digest=found)


def _write_configuration(folder: Path, backbone: Backbone) -> None:
    """The files by which transformers or timm know the architecture, and the tokenizer."""
    network: Any = backbone.network
    if backbone.folder is not None:
        for pattern in _KEEP:
            for file in backbone.folder.glob(pattern):
                if file.is_file() and not any(file.match(leave) for leave in _LEAVE):
                    target = folder / file.relative_to(backbone.folder)
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, target)
    elif backbone.spec.kind == "transformers":
        network.config.save_pretrained(folder)
        tokenizer = getattr(backbone.preparation, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    elif backbone.spec.kind == "timm":
        configuration = {
            "architecture": network.pretrained_cfg.get("architecture", backbone.spec.name),
            "num_classes": 0,
            "num_features": backbone.feature_dim,
            "model_args": {n: v for n, v in backbone.spec.options.items() if n != "pretrained"},
            "pretrained_cfg": _plain(network.pretrained_cfg),
        }
        write_json(folder / "config.json", configuration)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of timm's configuration that is JSON."""
    kept = {}
    for name, value in values.items():
        try:
            json.dumps(value)
        except TypeError:
            continue
        kept[name] = value
    return {**kept, "num_classes": 0}
