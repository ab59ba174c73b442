"""DomainBed's image augmentation, a whole batch at a time and without torchvision.

RandomResizedCrop (area .7 to 1, aspect 3/4 to 4/3), horizontal flip, ColorJitter(.3, .3, .3, .3)
and RandomGrayscale (.1). Crop and flip are one resampling. The colour operations are affine in the
colour of a pixel, so that all of them together are one 3 x 3 matrix and an offset per image. Two
things differ from torchvision because of that: values are clamped to [0, 1] once, at the end, and
hue turns in the plane of constant luma (YIQ) instead of going through HSV.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


def augment(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Random crop, flip, colour jitter and grayscale.

    ``images``: float (N, 3, H, W) in [0, 1]; returns the same shape and range. All randomness comes
    from ``generator``, whatever the device.
    """
    images = crop_and_flip(images, generator)
    return jitter(images, generator)


def crop_and_flip(
    images: Tensor,
    generator: np.random.Generator,
    *,
    area: tuple[float, float] = (0.7, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """A random crop of each image, scaled to the full size (bilinear), half of them mirrored."""
    n, _, height, width = images.shape
    area_drawn = generator.uniform(*area, n) * height * width
    shape = np.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1]), n))
    crop_w = np.minimum(np.sqrt(area_drawn * shape), width)
    crop_h = np.minimum(np.sqrt(area_drawn / shape), height)
    left = generator.uniform(0, 1, n) * (width - crop_w)
    top = generator.uniform(0, 1, n) * (height - crop_h)
    mirror = np.where(generator.random(n) < 0.5, -1.0, 1.0)
    theta = np.zeros((n, 2, 3))
    theta[:, 0, 0] = mirror * crop_w / width
    theta[:, 0, 2] = (2 * left + crop_w) / width - 1
    theta[:, 1, 1] = crop_h / height
    theta[:, 1, 2] = (2 * top + crop_h) / height - 1
    grid = functional.affine_grid(
        torch.from_numpy(theta).to(images.device, images.dtype),
        list(images.shape),
        align_corners=False,
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def jitter(
    images: Tensor,
    generator: np.random.Generator,
    *,
    strength: float = 0.3,
    gray: float = 0.1,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, in random order; some images turned gray."""
    n = images.shape[0]
    means = images.mean((2, 3)).double().cpu().numpy()
    matrix = np.broadcast_to(np.eye(3), (n, 3, 3)).copy()
    offset = np.zeros((n, 3))
    factors = generator.uniform(1 - strength, 1 + strength, (3, n))
    turn = generator.uniform(-strength, strength, n) * 2 * math.pi
    steps = [
        functools.partial(_brightness, factors[0]),
        functools.partial(_contrast, factors[1]),
        functools.partial(_saturation, factors[2]),
        functools.partial(_hue, turn),
    ]
    for which in generator.permutation(len(steps)):
        now = np.einsum("nij,nj->ni", matrix, means) + offset
        change, shift = steps[which](now)
        matrix, offset = change @ matrix, np.einsum("nij,nj->ni", change, offset) + shift
    to_gray = generator.random(n) < gray
    change = np.where(to_gray[:, None, None], np.ones((3, 1)) * _LUMA, np.eye(3))
    matrix, offset = change @ matrix, np.einsum("nij,nj->ni", change, offset)
    flat = torch.baddbmm(
        torch.from_numpy(offset).to(images.device, images.dtype).unsqueeze(-1),
        torch.from_numpy(matrix).to(images.device, images.dtype),
        images.flatten(2),
    )
    return flat.clamp_(0, 1).view_as(images)


Affine = tuple[np.ndarray, np.ndarray]


def _brightness(factor: np.ndarray, mean: np.ndarray) -> Affine:
    return factor[:, None, None] * np.eye(3), np.zeros_like(mean)


def _contrast(factor: np.ndarray, mean: np.ndarray) -> Affine:
    """Blend with the image's mean gray."""
    gray = (mean @ _LUMA)[:, None]
    return factor[:, None, None] * np.eye(3), (1 - factor[:, None]) * gray * np.ones(3)


def _saturation(factor: np.ndarray, mean: np.ndarray) -> Affine:
    """Blend every pixel with its own gray."""
    keep = factor[:, None, None]
    return keep * np.eye(3) + (1 - keep) * (np.ones((3, 1)) * _LUMA), np.zeros_like(mean)


def _hue(angle: np.ndarray, mean: np.ndarray) -> Affine:
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return _RGB @ turn @ _YIQ, np.zeros_like(mean)
