"""The demo's recipe, with the places of its weights and data filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from stockpot.files import write_text

_FILES = {
    "minilm": "",
    "sre": "",
    "sentiment": "sentiment.csv",
    "glosses": "glosses.csv",
}


def write_recipe(folders: Mapping[str, Path], path: Path) -> Path:
    """Write the demo's recipe to ``path``; ``folders`` is what :func:`fetch` returned."""
    template = files("stockpot.demo").joinpath("recipe.yaml").read_text(encoding="utf-8")
    places = {
        # A JSON string is a YAML string, whatever the path holds.
        name: json.dumps(str((folders[name] / file).resolve()), ensure_ascii=False)
        for name, file in _FILES.items()
    }
    write_text(path, template.format(**places))
    return path
