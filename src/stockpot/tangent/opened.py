"""A run opened for composing and evaluating: its data, base and head, each shard's rows apart."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones import Activations, Model
from stockpot.errors import InputError
from stockpot.execution import make_backend, run_jobs
from stockpot.tangent.choice import make_composer
from stockpot.tangent.composer import Composer
from stockpot.tangent.forgetting.inventory import Derived, record
from stockpot.tangent.forgetting.tombstones import Tombstones
from stockpot.tangent.head import load_head
from stockpot.tangent.jobs import HEAD
from stockpot.tangent.linear import TangentModel
from stockpot.tangent.plan import ExaminedRecipe, examine, rows_of
from stockpot.tangent.recipe import TangentRecipe
from stockpot.tangent.rows import Portion, make_portion
from stockpot.tangent.run import decoded_images
from stockpot.tangent.shards import Division, portions
from stockpot.tasks import Task, take_rows
from stockpot.training import Feed
from stockpot.training.device import best_device
from stockpot.training.feed import RawFeed
from stockpot.training.rows import open_feed


@dataclass(frozen=True, eq=False)
class Opened:
    """A recipe with its data, base and head, ready to compose and evaluate."""

    recipe: TangentRecipe
    task: Task
    division: Division
    model: TangentModel
    feed: Feed
    composer: Composer


def open_run(
    recipe: Path, folder: Path, *, skip_corrupt: bool = False, stones: Tombstones | None = None
) -> Opened:
    """Data, base and head of components that ``train`` wrote to ``folder``.

    ``stones``: rows that are left out; by default those that were forgotten in ``folder``. Its head
    says which classes there are, whatever data is left.
    Raises ``InputError`` where the folder holds no components.
    """
    if not (folder / HEAD).is_file():
        raise InputError(f"{folder} holds no components", hint="run `stockpot tangent train` first")
    known = Tombstones.read(folder)
    stones = known if stones is None else stones
    with decoded_images(folder, known) as cache:
        examined = examine(recipe, cache, skip_corrupt, stones=stones, head=folder / HEAD)
    network = Model(examined.backbone, len(examined.task.classes))
    load_head(folder / HEAD, network)
    model = TangentModel(
        network, parameters=examined.recipe.parameters, precision=examined.recipe.precision
    )
    return Opened(
        examined.recipe,
        examined.task,
        examined.division,
        model.to(best_device()),
        _feed(examined, folder),
        make_composer(examined.recipe.composer, model, examined.backbone, examined.task.classes),
    )


def _feed(examined: ExaminedRecipe, folder: Path) -> Feed:
    """The rows themselves, or their activations, kept in ``folder`` for each shard."""
    task, division = examined.task, examined.division
    if examined.backbone.trunk is None:
        return RawFeed(task, examined.backbone, augmentation=False)
    blocks = examined.recipe.composer.blocks if examined.recipe.composer.kind == "statistics" else 0
    holdings = [
        (portion, ("features", shard.name))
        for shard in division.shards
        for portion in portions(task, division, shard, blocks)
    ]
    holdings += [
        (make_portion(task, division.hashes, rows), ("test features", name))
        for name, rows in division.test.items()
        if len(rows)
    ]
    parts = [(one.rows, _Rows(examined, one, folder, derived)) for one, derived in holdings]
    lengths = None
    if task.modality == "text":
        encoded = examined.backbone.preparation.encode(task.inputs)
        lengths = np.array([len(one) for one in encoded])
    return ShardFeed(len(task), parts, lengths)


class _Rows:
    """Opens the activations of some rows, computed where ``train`` has not left them.

    Once something was forgotten in a folder, nothing new is kept there but what ``train`` makes.
    """

    def __init__(
        self, examined: ExaminedRecipe, portion: Portion, folder: Path, derived: tuple[str, str]
    ) -> None:
        self.examined, self.portion, self.folder = examined, portion, folder
        self.stones = Tombstones.read(folder)
        cache = str((folder / "work" / "cache").resolve())
        places = {"root": str(examined.root), "cache": cache}
        self.kind, name = derived
        self.job = rows_of(examined, portion, places, name)[0]["features"]
        self.derived = Derived(path=f"work/jobs/{self.job.key}", kind=self.kind, shards=(name,))
        self.scratch: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self) -> Feed:
        work = self.folder / "work"
        if self.stones and not (self.folder / self.derived.path).exists():
            self.scratch = tempfile.TemporaryDirectory(prefix="stockpot-")
            work = Path(self.scratch.name)
        else:
            record(self.folder, [self.derived])
        with decoded_images(self.folder, self.stones):
            path = run_jobs([self.job], work, make_backend("serial", 1))[self.job]
        rows = take_rows(self.examined.task, self.portion.rows)
        rows = replace(rows, fingerprint=self.portion.content)
        return open_feed(rows, self.examined.backbone, path)


class ShardFeed:
    """Activations of a task's rows, kept shard by shard and opened when first asked for.

    ``parts``: positions in the task, and what opens the feed of these rows in that order.
    ``lengths``: tokens of every row, for texts.
    """

    def __init__(
        self,
        count: int,
        parts: Sequence[tuple[np.ndarray, Callable[[], Feed]]],
        lengths: np.ndarray | None,
    ) -> None:
        self.lengths = lengths
        self.device = torch.device("cpu")
        self._openers = [opener for _, opener in parts]
        self._feeds: dict[int, Feed] = {}
        self._owner = np.full(count, -1)
        self._local = np.zeros(count, dtype=np.int64)
        for number, (rows, _) in enumerate(parts):
            self._owner[rows], self._local[rows] = number, np.arange(len(rows))

    def __len__(self) -> int:
        return len(self._owner)

    def to(self, device: torch.device) -> None:
        """Hand out batches on ``device``."""
        self.device = device

    def batch(self, rows: np.ndarray, *, augment: np.random.Generator | None = None) -> Any:
        """Activations of ``rows``, in their order; nothing is augmented."""
        rows = np.asarray(rows)
        owners = self._owner[rows]
        if (owners < 0).any():
            raise InputError("a row belongs to no component and to no test")
        numbers = np.unique(owners).tolist()
        parts = [self._open(n).batch(self._local[rows[owners == n]]) for n in numbers]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([np.flatnonzero(owners == n) for n in numbers]))
        return _join(parts, torch.from_numpy(order).to(self.device))

    def _open(self, number: int) -> Feed:
        if number not in self._feeds:
            self._feeds[number] = self._openers[number]()
        feed = self._feeds[number]
        feed.to(self.device)
        return feed


def _join(parts: Sequence[Activations], order: Tensor) -> Activations:
    """Rows of several feeds in one order; token sequences are padded to the longest."""
    if parts[0].mask is None:
        whole = torch.cat([part.values for part in parts])[order]
        if whole.ndim == 4:
            whole = whole.contiguous(memory_format=torch.channels_last)
        return Activations(whole)
    width = max(part.values.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    values = [pad(p.values, (0, 0, 0, width - p.values.shape[1])) for p in parts]
    masks = [pad(p.mask, (0, width - p.values.shape[1])) for p in parts if p.mask is not None]
    return Activations(torch.cat(values)[order], torch.cat(masks)[order])
