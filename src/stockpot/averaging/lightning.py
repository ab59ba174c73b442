"""The average of the weights inside the loop of Lightning's Trainer."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stockpot.averaging.live import ModuleAverage, decay_of
from stockpot.compat import ensure_torchvision
from stockpot.errors import InputError
from stockpot.extras import require

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


def import_lightning() -> Any:
    """``lightning.pytorch``, or ``pytorch_lightning`` where that is there alone.

    Raises ``MissingDependencyError`` where there is neither.
    """
    ensure_torchvision(quiet=True)
    if find_spec("lightning") is None and find_spec("pytorch_lightning") is not None:
        return import_module("pytorch_lightning")
    require("lightning", "an average inside Lightning")
    return import_module("lightning.pytorch")


class LightningAverage(import_lightning().Callback):  # type: ignore[misc]
    """Keeps an average of the weights while a Trainer fits, and saves a checkpoint of it last.

    The training itself is not changed. The average so far is in every checkpoint of the Trainer: a
    fit that goes on from one goes on with its average. ``output`` is loaded as any checkpoint, by
    ``load_from_checkpoint``; optimizer and loops are left out of it.

    Args:
        output: file of the averaged checkpoint; by default ``average.ckpt`` in
            ``default_root_dir``.
        shape: "uniform" or "ema:0.999", an optimizer step at a time.
        start: the first optimizer step whose weights count, by ``trainer.global_step``.
        every: so many steps from one that counts to the next.

    Raises ``InputError`` before the first step: for weights that are spread over processes (FSDP,
    DeepSpeed), an output that is a folder, a ``start`` beyond the end, and a fit that goes on from
    a checkpoint without this average.
    """

    def __init__(
        self,
        output: str | Path | None = None,
        *,
        shape: str = "ema:0.999",
        start: int = 1,
        every: int = 1,
    ) -> None:
        super().__init__()
        decay_of(shape)
        if start < 1 or every < 1:
            raise InputError(f"start and every are 1 or more, got {start} and {every}")
        self.output = None if output is None else Path(output)
        self.shape, self.start, self.every = shape, start, every
        self.average: ModuleAverage | None = None
        self._step = 0
        self._resumed: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Several averages of one fit are told apart by their settings."""
        return str(self._generate_state_key(shape=self.shape, start=self.start, every=self.every))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on where the checkpoint that is resumed stopped."""
        if type(trainer.strategy).__name__.startswith(_SHARDED):
            problem = f"the weights are spread over processes ({type(trainer.strategy).__name__})"
            raise InputError(problem, hint="save checkpoints, and stockpot average them")
        if self.start > trainer.estimated_stepping_batches:
            raise InputError(
                f"start: got {self.start} of {trainer.estimated_stepping_batches} steps"
            )
        if self._file(trainer).is_dir():
            raise InputError(f"{self._file(trainer)} is a folder", hint="name a file")
        self.average = ModuleAverage(pl_module, self.shape)
        self._step = trainer.global_step
        if self._step >= self.start:
            if self._resumed is None:
                hint = f"set start above step {self._step}, or begin anew"
                problem = "the checkpoint has no average to go on from, of these settings"
                raise InputError(problem, hint=hint)
            self.average.load(self._resumed)

    def on_train_batch_end(self, trainer: Any, *known: Any, **more: Any) -> None:
        """Take in the weights after an optimizer step."""
        if trainer.global_step == self._step:
            return  # gradients are gathered
        self._step = trainer.global_step
        since = self._step - self.start
        if self.average is not None and since >= 0 and since % self.every == 0:
            self.average.add()

    def state_dict(self) -> dict[str, Any]:
        """The average so far, for the Trainer's checkpoint."""
        return {} if self.average is None else self.average.dump()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the average of a checkpoint until the fit begins."""
        self._resumed = state_dict if state_dict.get("sums") else None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the averaged checkpoint."""
        if self.average is None or not self.average.mean.count:
            log = logging.getLogger("stockpot")
            log.warning("the fit ended before step %s: there is no average", self.start)
            return
        with self.average.applied():
            trainer.save_checkpoint(self._file(trainer), weights_only=True)

    def _file(self, trainer: Any) -> Path:
        return self.output or Path(trainer.default_root_dir) / "average.ckpt"
