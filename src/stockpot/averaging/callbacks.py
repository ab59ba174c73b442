"""The average of the weights inside the loop of transformers' Trainer, and of those built on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stockpot.averaging.live import ModuleAverage, decay_of
from stockpot.compat import import_transformers
from stockpot.errors import InputError
from stockpot.files import atomic_folder

NAME = "stockpot_average.pt"
"""The average so far, in a checkpoint folder of the trainer."""


class AverageCallback(import_transformers().TrainerCallback):  # type: ignore[misc]
    """Keeps an average of the weights while a Trainer trains, and saves it as a model at the end.

    The training itself is not changed. The average so far is written into each checkpoint folder:
    a run that is resumed from ``output_dir`` goes on with it.

    Args:
        output: folder of the averaged model; by default ``average`` in the ``output_dir``.
        shape: "uniform" or "ema:0.999", an optimizer step at a time.
        start: the first optimizer step whose weights count.
        every: so many steps from one that counts to the next.

    Raises ``InputError`` before the first step: for weights that are spread over processes (FSDP,
    DeepSpeed), a model that cannot be saved, a folder that holds other things, a ``start`` beyond
    the end, and a resumed run whose checkpoint has no average.
    """

    def __init__(
        self,
        output: str | Path | None = None,
        *,
        shape: str = "ema:0.999",
        start: int = 1,
        every: int = 1,
    ) -> None:
        decay_of(shape)
        if start < 1 or every < 1:
            raise InputError(f"start and every are 1 or more, got {start} and {every}")
        self.output = None if output is None else Path(output)
        self.shape, self.start, self.every = shape, start, every
        self.average: ModuleAverage | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Begin, or go on where the checkpoint that is resumed stopped."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            problem = "the weights are spread over processes (FSDP, DeepSpeed)"
            raise InputError(problem, hint="save checkpoints, and stockpot average them")
        if not hasattr(known["model"], "save_pretrained"):
            problem = f"{type(known['model']).__name__} has no save_pretrained"
            raise InputError(problem, hint="use ModuleAverage in a callback of your own")
        if self.start > state.max_steps:
            raise InputError(f"start: got {self.start} of {state.max_steps} steps")
        output = self._output(args)
        if output.exists() and not _is_model(output):
            raise InputError(f"{output} holds more than a model", hint="choose another output")
        self.average = ModuleAverage(known["model"], self.shape)
        if state.global_step >= self.start:
            file = _checkpoint(args, state) / NAME
            if not file.is_file():
                hint = f"set start above step {state.global_step}, or begin anew"
                raise InputError(f"{file} is missing: there is no average to go on from", hint=hint)
            self.average.load(torch.load(file, map_location="cpu", weights_only=True))

    def on_step_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Take in the weights after an optimizer step."""
        since = state.global_step - self.start
        if self.average is not None and since >= 0 and since % self.every == 0:
            self.average.add()

    def on_save(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Leave the average so far beside the weights."""
        folder = _checkpoint(args, state)
        if self.average is not None and state.is_world_process_zero and folder.is_dir():
            torch.save(self.average.dump(), folder / NAME)

    def on_train_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Write the averaged model, with its tokenizer or processor."""
        if self.average is None or not state.is_world_process_zero:
            return
        with (
            self.average.applied() as model,
            atomic_folder(self._output(args), replace=True) as folder,
        ):
            model.save_pretrained(folder)  # type: ignore[operator]
            if known.get("processing_class") is not None:
                known["processing_class"].save_pretrained(folder)

    def _output(self, args: Any) -> Path:
        return self.output or Path(args.output_dir) / "average"


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _is_model(folder: Path) -> bool:
    """Whether a folder is a model and no more, so that another one may replace it."""
    return (folder / "config.json").is_file() and not any(p.is_dir() for p in folder.iterdir())
