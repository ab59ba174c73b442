"""Merge methods, one file each. ``BUILTIN`` maps a method's name to the module that defines it."""

from __future__ import annotations

BUILTIN: dict[str, str] = {
    "linear": "linear",
    "stock": "stock",
    "task_arithmetic": "task_arithmetic",
}
