"""The layer of a tensor, as its name tells it."""

from __future__ import annotations


def layer_of(name: str) -> str:
    """The layer of a tensor: its name up to the last number, or without its last part."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:-1])
