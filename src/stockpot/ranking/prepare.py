"""Look at the task, the zoo and the history before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockpot.errors import InputError, StockpotError
from stockpot.execution.arguments import data_argument
from stockpot.files import digest
from stockpot.ranking.effects import check
from stockpot.ranking.features import Failed, sample_order
from stockpot.ranking.features.offline import check_present
from stockpot.ranking.features.revision import revision
from stockpot.ranking.request import Request
from stockpot.ranking.zoo import FeatureEntry, ModelEntry, Zoo
from stockpot.tasks import Split, Task, load_task, split_task
from stockpot.tasks.task import Array
from stockpot.training.rows import open_task


@dataclass(frozen=True)
class Prepared:
    """A checked question. ``order``: the training rows as a sample order (scores never see what
    models are judged by). ``entries``: those whose files are there; ``failed``: the others."""

    request: Request
    root: Path
    zoo: Zoo
    task: Task
    split: Split
    order: Array
    entries: dict[str, ModelEntry | FeatureEntry]
    failed: tuple[Failed, ...]

    @property
    def metric(self) -> str:
        """What a fine-tuning's value is."""
        return "accuracy" if self.task.kind == "classification" else "r2"

    @property
    def judged(self) -> int:
        """Examples that models are judged by."""
        return int(sum(map(len, (self.split.test or self.split.validation).values())))

    @property
    def title(self) -> str:
        """The report's headline."""
        return self.request.title or self.task.name


def prepare_task(
    request: Request,
    root: Path,
    zoo: Zoo,
    *,
    cache: Path,
    skip_corrupt: bool = False,
    download: bool = False,
) -> Prepared:
    """Load the task, divide it, and see which models of the zoo are there.

    ``cache``: folder for decoded images. Raises ``InputError`` where the task is wrong, or where no
    model of the zoo can be used.
    """
    entries: dict[str, ModelEntry | FeatureEntry] = {}
    failed = [Failed(name, reason) for name, reason in zoo.others.items()]
    for name, entry in zoo.entries.items():
        try:
            revision(entry, zoo.root)
            if isinstance(entry, ModelEntry) and not download:
                check_present(entry, zoo.root)
        except StockpotError as error:
            failed.append(Failed(name, str(error).splitlines()[0]))
        else:
            entries[name] = entry
    if failed and not entries:
        raise InputError(
            f"no model of the zoo can be used; '{failed[-1].name}': {failed[-1].reason}",
            hint="see the paths in the zoo; --download lets hub models be fetched",
        )
    spec = request.task
    task = load_task(spec, root=root, skip_corrupt=skip_corrupt, cache=cache, seed=request.seed)
    check(request, task, zoo)
    if request.limit_per_domain is not None:
        data = data_argument(
            spec,
            task.fingerprint,
            seed=request.seed,
            limit=request.limit_per_domain,
            skip_corrupt=skip_corrupt,
        )
        task = open_task(data, str(root), str(cache))
    split = split_task(
        task,
        held_out=request.held_out,
        seed=request.seed,
        validation_fraction=request.validation_fraction,
    )
    train = np.concatenate(list(split.train.values()))
    order = sample_order(task, train, seed=request.seed)
    return Prepared(request, root, zoo, task, split, order, entries, tuple(failed))


def task_name(prepared: Prepared) -> str:
    """Under which name results on this task stand in a history store: name and content."""
    content = digest(
        [
            prepared.task.fingerprint,
            prepared.request.held_out,
            prepared.request.limit_per_domain,
            prepared.request.training.model_dump(mode="json"),
        ]
    )
    return f"{prepared.task.name}#{content[:8]}"
