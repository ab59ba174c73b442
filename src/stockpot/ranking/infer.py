"""What a zoo does not say of a model: its kind and its name, from what lies in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import BackboneError
from stockpot.reading import read_json

_FUNCTION = re.compile(r"^(?!hf-hub:)[^\s]+:[A-Za-z_]\w*$")
_FEATURES = (".npy", ".npz")


def complete(value: Any, root: Path) -> Any:
    """An entry of a zoo with its kind; a text is a model's folder, hub id or file of features.

    ``root``: where relative paths start. Anything else than a text or a mapping is returned as it
    is, for the schema to refuse. Raises ``BackboneError`` where the kind cannot be known.
    """
    if isinstance(value, str):
        if value.endswith(_FEATURES):
            return {"kind": "features", "path": value}
        folder = root / Path(value).expanduser()
        label = {"id": folder.resolve().name} if is_model(folder) else {}
        return {"kind": kind_of(value, root), "name": value, **label}
    if not isinstance(value, Mapping) or "kind" in value:
        return value
    if "path" in value and "name" not in value:
        return {"kind": "features", **value}
    name = value.get("name")
    return {"kind": kind_of(name, root), **value} if isinstance(name, str) else value


def kind_of(name: str, root: Path) -> str:
    """``transformers``, ``timm`` or ``function``, by the name alone or what lies in its folder.

    Raises ``BackboneError`` where that does not tell.
    """
    folder = root / Path(name).expanduser()
    if folder.is_dir():
        return _kind_of_folder(folder)
    if _FUNCTION.match(name):
        return "function"
    if name.startswith(("hf-hub:", "timm/")) or ("/" not in name and _is_timm(name)):
        return "timm"
    raise BackboneError(
        f"nothing says what '{name}' is: no folder of that name, no function, no model of timm",
        hint="say its kind: transformers, timm, function or features",
    )


def is_model(folder: Path) -> bool:
    """Whether a folder says what model it holds."""
    return (folder / "config.json").is_file()


def models_in(folder: Path) -> tuple[list[str], list[str]]:
    """The models that a folder holds, itself or below, and its other folders, by name."""
    if is_model(folder):
        return ["."], []
    below = sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")
    return (
        [each.name for each in below if is_model(each)],
        [each.name for each in below if not is_model(each)],
    )


def _kind_of_folder(folder: Path) -> str:
    if not is_model(folder):
        raise BackboneError(
            f"{folder} is no folder of a model: it has no config.json",
            hint="a model's folder is what save_pretrained or `stockpot recycle` writes",
        )
    config = read_json(folder / "config.json")
    if isinstance(config, Mapping) and "model_type" in config:
        return "transformers"
    if isinstance(config, Mapping) and "architecture" in config:
        return "timm"
    raise BackboneError(
        f"{folder / 'config.json'} has neither 'model_type' (transformers) nor 'architecture' "
        "(timm)",
        hint="say the model's kind",
    )


def _is_timm(name: str) -> bool:
    from stockpot.extras import installed

    if not installed("timm"):
        return False
    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    import timm

    return bool(timm.is_model(name.partition(".")[0]))
