"""Averages of the weights along one run: the moving average, and SWAD's loss valley."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stockpot.backbones.backbone import State


class RunningMean:
    """The mean of all states added, with sums in float64 and one rounding at the end.

    ``decay``: of the weight of what was added before, with every further state; 1 for the uniform
    mean.
    """

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = decay
        self.count: float = 0
        self.sums: State = {}

    @torch.no_grad()
    def add(self, state: Mapping[str, Tensor]) -> None:
        """Take in one iterate."""
        self._fade()
        if not self.sums:
            # A copy even of what is float64 already: the sums are added to in place.
            self.sums = {
                name: tensor.detach().to(torch.float64, copy=True) for name, tensor in state.items()
            }
        else:
            torch._foreach_add_(
                list(self.sums.values()),
                [state[name].detach() for name in self.sums],
            )
        self.count += 1

    def _fade(self) -> None:
        if self.decay != 1.0 and self.sums:
            torch._foreach_mul_(list(self.sums.values()), self.decay)
            self.count *= self.decay

    def merge(self, other: RunningMean) -> None:
        """Take in all iterates of another mean."""
        if not other.count:
            return
        if self.sums:
            torch._foreach_add_(list(self.sums.values()), [other.sums[n] for n in self.sums])
        else:
            self.sums = {name: tensor.clone() for name, tensor in other.sums.items()}
        self.count += other.count

    def mean(self) -> State:
        """The average as float32 on the CPU; empty before anything was added."""
        return {
            name: (total / self.count).float().cpu().contiguous()
            for name, total in self.sums.items()
        }

    def dump(self) -> dict[str, Any]:
        """What ``load`` needs, as plain values and tensors."""
        return {"count": self.count, "sums": self.sums}

    @classmethod
    def load(cls, value: Mapping[str, Any], device: torch.device) -> RunningMean:
        """Go on where ``dump`` was called."""
        made = cls()
        made.count = value["count"]
        made.sums = {name: tensor.to(device) for name, tensor in value["sums"].items()}
        return made


class LossValley:
    """Where to start and stop averaging, from the validation loss (Cha et al. 2021, Algorithm 1).

    The run is seen as segments between evaluations, each with the mean of its iterates and the
    validation loss at its end. The valley starts at the first segment whose loss is the smallest of
    ``converge`` in a row; the threshold is (1 + ``ratio``) times the mean loss of those. It ends
    before the first ``tolerance`` segments in a row that all lie above the threshold. All iterates
    of the segments between count alike. Where it never starts, the average is that of the last
    segment.
    """

    def __init__(self, converge: int = 3, tolerance: int = 6, ratio: float = 0.3) -> None:
        self.converge, self.tolerance, self.ratio = converge, tolerance, ratio
        self.losses: list[float] = []
        self.start: int | None = None
        self.end: int | None = None
        self.threshold = float("inf")
        self.inside = RunningMean()
        self.pending: list[tuple[int, RunningMean]] = []

    def add(self, segment: RunningMean, loss: float) -> None:
        """Take in the iterates since the last evaluation, and the validation loss there."""
        if self.end is not None:
            return
        index = len(self.losses)
        self.losses.append(loss)
        self.pending.append((index, segment))
        if self.start is None:
            first = index - self.converge + 1
            window = self.losses[max(first, 0) :]
            if first >= 0 and window[0] == min(window):
                self.start = first
                self.threshold = (1 + self.ratio) * sum(window) / len(window)
            self.pending = [p for p in self.pending if p[0] > index - self.converge]
        if self.start is None:
            return
        first = index - self.tolerance + 1
        if first < self.start:
            return
        if min(self.losses[first:]) > self.threshold:
            self.end = first
            self.pending = []
        else:
            self._confirm(first)

    def mean(self) -> State:
        """The average over the valley as it stands, float32 on the CPU."""
        total = RunningMean()
        total.merge(self.inside)
        if self.start is None:
            return self.pending[-1][1].mean() if self.pending else {}
        good = [i for i, _ in self.pending if self.losses[i] <= self.threshold]
        for index, segment in self.pending:
            if good and index <= good[-1]:
                total.merge(segment)
        return total.mean()

    def _confirm(self, last: int) -> None:
        for index, segment in self.pending:
            if index <= last:
                self.inside.merge(segment)
        self.pending = [p for p in self.pending if p[0] > last]

    def dump(self) -> dict[str, Any]:
        """What ``load`` needs, as plain values and tensors."""
        return {
            "losses": self.losses,
            "start": self.start,
            "end": self.end,
            "threshold": self.threshold,
            "inside": self.inside.dump(),
            "pending": [[index, segment.dump()] for index, segment in self.pending],
        }

    def restore(self, value: Mapping[str, Any], device: torch.device) -> None:
        """Go on where ``dump`` was called."""
        self.losses = list(value["losses"])
        self.start, self.end = value["start"], value["end"]
        self.threshold = value["threshold"]
        self.inside = RunningMean.load(value["inside"], device)
        self.pending = [(i, RunningMean.load(s, device)) for i, s in value["pending"]]
