"""The one door through which this room reads and writes weights files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from stockpot.errors import BackboneError


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file or folder; pickles are opened without running code."""
    if not path.exists():
        raise BackboneError(f"there is no weights file {path}")
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """One safetensors file."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {"format": "pt"})
