"""What has to be installed for a ranking, known before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot.extras import named, notice, require_wanted
from stockpot.ranking.request import load_request
from stockpot.ranking.zoo import load_zoo


def check_packages(task: Path, zoo: Path | None, *extras: str, changes: Sequence[str] = ()) -> None:
    """Read task and zoo, and raise ``MissingDependencyError`` where ranking is not possible here.

    A model of the zoo whose own package is missing is no obstacle: it is left out, with the reason.
    ``extras``: what else is wanted.

    Raises ``RecipeError`` or ``TaskError`` for files that are wrong.
    """
    request, _ = load_request(task, changes)
    notice(request.task.model_dump(mode="json"))
    entries = [] if zoo is None else load_zoo(zoo).entries.values()
    models = [entry.model_dump(mode="json") for entry in entries]
    require_wanted("rank", *extras, purpose="ranking", useful=named(models))
