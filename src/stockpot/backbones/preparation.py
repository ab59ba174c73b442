"""From a task's raw inputs to what a model's forward takes.

``encode`` is done once for a whole task, ``batch`` once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stockpot.errors import BackboneError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Transform = Callable[[Tensor], Tensor]


class Preparation(Protocol):
    """What every kind of input offers."""

    def encode(self, raw: Any) -> Any:
        """What is worth doing once for all rows."""
        ...

    def batch(
        self,
        encoded: Any,
        rows: np.ndarray,
        device: torch.device,
        transform: Transform | None = None,
    ) -> Any:
        """Model input for ``rows``; ``transform`` sees images as float (N, C, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True)
class ArrayPreparation:
    """Images as uint8 (N, H, W, 3), or any float32 (N, ...), which goes in as it is.

    ``mean`` and ``std`` are per channel for pixels in [0, 1]. ``size`` resizes images to a square
    (bilinear with antialiasing). Images leave as float32 (N, 3, H, W) in channels_last order, in
    which convolutions on CPU are two to three times as fast.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None

    def encode(self, raw: Any) -> Any:
        """Arrays and tensors stay as they are; anything else is a ``BackboneError``."""
        if not isinstance(raw, np.ndarray | Tensor):
            raise BackboneError(
                f"this backbone takes images or arrays, got {type(raw).__name__}",
                hint="texts need a 'transformers' backbone",
            )
        return raw

    def batch(
        self,
        encoded: Any,
        rows: np.ndarray,
        device: torch.device,
        transform: Transform | None = None,
    ) -> Tensor:
        """Rows as float32; images scaled, transformed, resized and normalised."""
        if isinstance(encoded, Tensor):
            taken = encoded[torch.from_numpy(rows).to(encoded.device)].to(device)
        else:
            taken = torch.from_numpy(np.ascontiguousarray(encoded[rows])).to(device)
        if taken.dtype != torch.uint8:
            return taken.float()
        pixels = taken.permute(0, 3, 1, 2).float().div_(255)
        if transform is not None:
            pixels = transform(pixels)
        if self.size is not None and pixels.shape[-2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bilinear", antialias=True
            ).clamp_(0, 1)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TextPreparation:
    """Texts as token ids, cut at ``max_length`` and padded to the longest of the batch."""

    tokenizer: Any
    max_length: int

    def encode(self, raw: Any) -> list[np.ndarray]:
        """Token ids of every text, int64, unpadded."""
        if isinstance(raw, np.ndarray | Tensor) or not all(isinstance(text, str) for text in raw):
            raise BackboneError(
                f"this backbone takes a list of texts, got {type(raw).__name__}",
                hint="images need a 'timm' or 'function' backbone",
            )
        if not len(raw):
            return []
        ids = self.tokenizer(list(raw), truncation=True, max_length=self.max_length)["input_ids"]
        return [np.asarray(one, dtype=np.int64) for one in ids]

    def batch(
        self,
        encoded: Sequence[np.ndarray],
        rows: np.ndarray,
        device: torch.device,
        transform: Transform | None = None,
    ) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 (N, L); texts are never transformed."""
        taken = [encoded[row] for row in rows]
        lengths = np.array([len(one) for one in taken])
        width = max(int(lengths.max(initial=1)), 1)
        ids = np.full((len(taken), width), self.tokenizer.pad_token_id or 0, dtype=np.int64)
        for row, one in enumerate(taken):
            ids[row, : len(one)] = one
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }
