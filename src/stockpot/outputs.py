"""An output folder belongs to the recipe that filled it: another one never replaces it unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stockpot.errors import OutputError
from stockpot.files import digest

RECIPE_DIGEST = "recipe_digest"
"""The key under which results carry what ``recipe_digest`` gives."""


def recipe_digest(*parts: dict[str, Any]) -> str:
    """Hash of what a recipe says, defaults included; its title is only shown and does not count."""
    return digest([{key: part[key] for key in part if key != "title"} for part in parts])


def check_output(folder: Path, results: str, recipe: str, *, overwrite: bool) -> None:
    """Raise ``OutputError`` where ``folder`` is a file, or holds the results of another recipe.

    ``results``: name of the JSON file that the verb writes last. ``recipe``: this recipe's digest.
    Results that do not say what recipe they are of count as another's. A run that was interrupted
    before it wrote results has nothing to lose, and any recipe goes on from its finished jobs.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", hint="give a folder for the output")
    if overwrite or not (folder / results).exists():
        return
    try:
        known = json.loads((folder / results).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or known.get(RECIPE_DIGEST) != recipe:
        raise OutputError(
            f"{folder} holds the results of another recipe",
            hint="give another folder, or --overwrite (in Python overwrite=True): jobs that have "
            "not changed are not run again",
        )
