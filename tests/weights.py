"""Real weights for tests marked ``weights``: looked for, never downloaded by a test.

They lie in ``$STOCKPOT_ASSETS``, or where the demo keeps its own, and come there by
``stockpot demo --fetch-only`` (minilm, sre) and ``python benchmarks/lineage.py --fetch`` (the zoo).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stockpot.demo.packages import cache_folder

_FOLDERS = ("minilm", "sre", "sentiment", "glosses", "lite0")


def weights(name: str) -> Path:
    """Folder (demo assets) or safetensors file (zoo) of ``name``; skips the test without it."""
    chosen = os.environ.get("STOCKPOT_ASSETS")
    root = Path(chosen).expanduser() if chosen else cache_folder() / "assets"
    if name in _FOLDERS:
        path, command = root / name, "stockpot demo --fetch-only"
    else:
        path = root / "zoo" / f"{name}.safetensors"
        command = "python benchmarks/lineage.py --fetch"
    if not path.exists():
        pytest.skip(f"no weights '{name}' in {root}: run `{command}`")
    return path
