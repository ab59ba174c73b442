"""The files beside the weights by which transformers and timm know a model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.backbones.backbone import Backbone
from stockpot.backbones.layout import ABOUT
from stockpot.backbones.library import Expression
from stockpot.backbones.preparation import ArrayPreparation, TextPreparation
from stockpot.checkpoints.safetensors_file import check_link
from stockpot.files import write_json
from stockpot.reading import read_json

# Configuration and tokenizer files of a base; its weights, card and history are not copied.
_KEEP = ("*.json", "*.txt", "*.model", "*/config.json")
_LEAVE = ("*.index.json", "stockpot.json", "asset.json", ABOUT, "LICENSE*")
# What timm would look for elsewhere, or take for a size that was not trained.
_TIMM_LEAVE = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag")
_TIMM_TEST = ("test_input_size", "test_crop_pct", "min_input_size", "pool_size", "label_names")
_BILINEAR = 2  # as Pillow numbers it


def write_configuration(
    folder: Path,
    backbone: Backbone,
    expression: Expression | None,
    classes: Sequence[str],
    images: Mapping[str, Any] | None,
) -> None:
    """Write the base's configuration and tokenizer, with the head as ``expression`` has it.

    ``images``: how files were decoded before they came to the backbone, ``size`` and ``resize``.
    """
    _copy(backbone, folder)
    if backbone.spec.kind == "transformers":
        _write_transformers(folder, backbone, expression, classes)
        if isinstance(backbone.preparation, ArrayPreparation):
            write_json(folder / "preprocessor_config.json", _image_processor(backbone, images))
        elif expression is not None:
            _limit_tokenizer(folder, backbone.preparation)
    elif backbone.spec.kind == "timm":
        write_json(folder / "config.json", _timm_config(backbone, expression, classes, images))


def headless(backbone: Backbone) -> dict[str, Any]:
    """What ``config.json`` says instead where the same weights have no head; None: nothing."""
    if backbone.spec.kind == "timm":
        return {"num_classes": 0, "label_names": None}
    names = ("id2label", "label2id", "problem_type")
    return {"architectures": [type(backbone.network).__name__], **dict.fromkeys(names)}


def input_size(backbone: Backbone, images: Mapping[str, Any] | None) -> int | None:
    """Side in pixels of what the network sees; None for texts, and where that is not known."""
    if not isinstance(backbone.preparation, ArrayPreparation):
        return None
    return backbone.preparation.size or (images["size"] if images else None)


def _copy(backbone: Backbone, folder: Path) -> None:
    if backbone.folder is None:
        return
    for pattern in _KEEP:
        for file in backbone.folder.glob(pattern):
            if file.is_file() and not any(file.match(leave) for leave in _LEAVE):
                check_link(file, file.parent)
                target = folder / file.relative_to(backbone.folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def _write_transformers(
    folder: Path, backbone: Backbone, expression: Expression | None, classes: Sequence[str]
) -> None:
    network: Any = backbone.network
    config = copy.deepcopy(network.config)
    config.dtype = "float32"  # as the weights are written; the base's may have been narrower
    config.architectures = [type(network).__name__]
    if expression is not None:
        names = list(classes) or [f"LABEL_{index}" for index in range(expression.outputs)]
        config.architectures = [expression.class_name]
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        config.problem_type = (
            "regression" if expression.outputs == 1 else "single_label_classification"
        )
    config.save_pretrained(folder)
    tokenizer = getattr(backbone.preparation, "tokenizer", None)
    if tokenizer is not None and backbone.folder is None:
        tokenizer.save_pretrained(folder)


def _limit_tokenizer(folder: Path, preparation: Any) -> None:
    """``truncation=True`` cuts texts where training did."""
    assert isinstance(preparation, TextPreparation)
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        preparation.tokenizer.save_pretrained(folder)
    values = read_json(path)
    write_json(path, {**values, "model_max_length": preparation.max_length})


def _image_processor(backbone: Backbone, images: Mapping[str, Any] | None) -> dict[str, Any]:
    """transformers' name for: resize, scale to [0, 1], normalise, as in training."""
    preparation = backbone.preparation
    assert isinstance(preparation, ArrayPreparation)
    size = input_size(backbone, images)
    common = {
        "do_resize": size is not None,
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preparation.mean),
        "image_std": list(preparation.std),
    }
    if size is not None and images and images["resize"] == "crop":
        return {
            "image_processor_type": "BitImageProcessor",
            **common,
            "size": {"shortest_edge": size},
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_convert_rgb": True,
        }
    square = {"height": size or 224, "width": size or 224}
    return {"image_processor_type": "ViTImageProcessor", **common, "size": square}


def _timm_config(
    backbone: Backbone,
    expression: Expression | None,
    classes: Sequence[str],
    images: Mapping[str, Any] | None,
) -> dict[str, Any]:
    network: Any = backbone.network
    preparation = backbone.preparation
    assert isinstance(preparation, ArrayPreparation)
    pretrained = _plain(network.pretrained_cfg)
    architecture = pretrained.get("architecture") or backbone.spec.name
    for name in (*_TIMM_LEAVE, *_TIMM_TEST):
        pretrained.pop(name, None)
    outputs = 0 if expression is None else expression.outputs
    size = input_size(backbone, images)
    crop = images is not None and images["resize"] == "crop"
    pretrained |= {
        "num_classes": outputs,
        "mean": list(preparation.mean),
        "std": list(preparation.std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center" if crop else "squash",
    }
    if size is not None:
        pretrained["input_size"] = [pretrained.get("input_size", (3,))[0], size, size]
    base = _read_json(backbone.folder / "config.json") if backbone.folder is not None else {}
    options = {n: v for n, v in backbone.spec.options.items() if n != "pretrained"}
    values = {
        "architecture": architecture,
        "num_classes": outputs,
        "num_features": backbone.feature_dim,
        "model_args": {**base.get("model_args", {}), **options},
        "pretrained_cfg": pretrained,
    }
    return values | ({"label_names": list(classes)} if expression is not None and classes else {})


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of timm's configuration that is JSON."""
    kept = {}
    for name, value in values.items():
        try:
            json.dumps(value)
        except TypeError:
            continue
        kept[name] = value
    return kept
