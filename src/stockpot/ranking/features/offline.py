"""Nothing is downloaded unless the user says so: see what is here, and close the door."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stockpot.errors import BackboneError
from stockpot.ranking.zoo import ModelEntry

_HINT = "allow it with --download, or name local files"


def check_present(entry: ModelEntry, root: Path) -> None:
    """``BackboneError`` where loading ``entry`` would have to ask the network."""
    spec = entry.spec
    if spec.kind == "transformers":
        name = spec.name
        is_path = name.startswith((".", "/", "~")) or (root / name).is_dir()
        if not is_path and name.count("/") <= 1 and not _cached(name, "config.json"):
            raise BackboneError(f"'{name}' is not on this machine", hint=_HINT)
    if spec.kind == "timm" and spec.options.get("pretrained"):
        _check_timm(spec.name)
    if spec.kind == "timm" and spec.name.startswith("hf-hub:"):
        name = spec.name.removeprefix("hf-hub:")
        if not _cached(name, "model.safetensors") and not _cached(name, "pytorch_model.bin"):
            raise BackboneError(f"'{name}' is not on this machine", hint=_HINT)


def _check_timm(name: str) -> None:
    """timm's own weights: in the hub's cache, or in torch's."""
    import torch

    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        return  # an unknown name: building it gives the better message
    repository, address = config.hf_hub_id, config.url
    files = ("model.safetensors", "pytorch_model.bin")
    if repository and any(_cached(repository, file) for file in files):
        return
    if address and (Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name).exists():
        return
    raise BackboneError(f"the weights of '{name}' are not on this machine", hint=_HINT)


def _cached(name: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, file), str)
    except HFValidationError:
        return False


@contextmanager
def network(*, allowed: bool) -> Iterator[None]:
    """Unless ``allowed``, the hub's client answers from its cache alone while the block runs."""
    if allowed:
        yield
        return
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
