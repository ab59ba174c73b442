"""One fine-tuning by several processes: each takes a share of a step's rows, and gradients add up.

Processes are started by ``torchrun`` or ``accelerate launch``; each runs the same program on a
device of its own. A step's gradient is the sum of its shares' in their order, so the weights depend
on the number of shares and not on how many processes worked on them: two processes on CPU give the
bytes of one that takes the two shares one after the other. Buffers (running statistics) are those
that the first share leaves, as in torch's DistributedDataParallel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones.buffers import unchanged_buffers
from stockpot.backbones.model import Model
from stockpot.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped,unused-ignore]

_BUCKET = 1 << 22
"""Elements of gradients that processes exchange at once; each holds one such piece per process."""


class Shares:
    """How a step is cut, and what its shares have added up to.

    Args:
        count: shares of a step (None: one a process). Raises ``InputError`` where they do not
            divide evenly among the processes.
        accumulate: batches that are added up to one step, each of ``count`` shares.
    """

    def __init__(
        self, accelerator: Accelerator, count: int | None = None, accumulate: int = 1
    ) -> None:
        self.processes: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        self.count = count if count is not None else self.processes
        if self.count < 1 or self.count % self.processes:
            raise InputError(
                f"{self.count} shares of a step cannot be dealt to {self.processes} processes",
                hint="choose a multiple of the number of processes",
            )
        self.count *= accumulate
        self._total: dict[Tensor, Tensor] = {}
        self._values: list[float] = []
        self._first: dict[str, Tensor] = {}

    def check(self, rows: int) -> None:
        """Raises ``InputError`` where a step has fewer rows than shares."""
        if self.count > rows:
            raise InputError(
                f"{self.count} shares of a step of {rows} rows",
                hint="use fewer processes or a larger batch_size",
            )

    @property
    def own(self) -> range:
        """Numbers of the shares that this process works on."""
        return range(self.rank, self.count, self.processes)

    def rows(self, rows: np.ndarray, number: int) -> np.ndarray:
        """Rows of one share; domains, which lie one after the other, are cut evenly."""
        return rows[number :: self.count]

    def seed_words(self, number: int) -> tuple[int, ...]:
        """What tells the randomness of a share from that of the others."""
        return () if self.count == 1 else (number,)

    def add(self, parameters: Iterable[Tensor], value: float) -> None:
        """Take the gradients of this process' share, and those of the others of this round."""
        if self.count == 1:
            self._values = [value]
            return
        trained = [p for p in parameters if p.grad is not None]
        for parameter in trained:
            assert parameter.grad is not None
            gradient = parameter.grad.reshape(-1)
            total = self._total.setdefault(parameter, torch.zeros_like(gradient))
            for start in range(0, gradient.numel(), _BUCKET):
                piece = slice(start, start + _BUCKET)
                for other in self._gathered(gradient[piece].contiguous()):
                    total[piece] += other
        like = trained[0] if trained else torch.zeros(())
        mine = torch.tensor([value], dtype=torch.float64, device=like.device)
        self._values += [float(one) for one in self._gathered(mine)]
        for parameter in trained:
            parameter.grad = None

    @contextmanager
    def buffers(self, model: Model, number: int) -> Iterator[None]:
        """Around the pass of one share: each begins with the buffers that the step began with."""
        if self.count == 1:
            yield
            return
        with unchanged_buffers(model.backbone.network):
            yield
            if number == 0:
                live = model.backbone.changing()
                self._first = {name: buffer.detach().clone() for name, buffer in live.items()}

    def finish(self, model: Model) -> float:
        """Put gradients and buffers where they belong; returns the loss of the whole step."""
        if self.count > 1:
            for name, buffer in model.backbone.changing().items():
                first, *_ = self._gathered(self._first.get(name, buffer).contiguous())
                buffer.copy_(first)
        for parameter, total in self._total.items():
            parameter.grad = total.view_as(parameter)
        value = sum(self._values)
        self._total, self._values = {}, []
        return value

    def _gathered(self, own: Tensor) -> list[Tensor]:
        if self.processes == 1:
            return [own]
        found = [torch.empty_like(own) for _ in range(self.processes)]
        torch.distributed.all_gather(found, own)
        return found
