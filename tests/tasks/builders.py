"""Small data sets on disk for the tests of tasks."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (16, 12)) -> Image.Image:
    """An image (width, height) of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def image_folder(
    root: Path,
    domains: tuple[str, ...] = ("art", "photo", "sketch"),
    classes: tuple[str, ...] = ("cat", "dog"),
    each: int = 5,
) -> Path:
    """``root/domain/class/i.png``, every image different."""
    for d, domain in enumerate(domains):
        for c, label in enumerate(classes):
            folder = root / domain / label
            folder.mkdir(parents=True)
            for i in range(each):
                picture(10_000 * d + 100 * c + i).save(folder / f"{i}.png")
    return root


def idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes in MNIST's file format; packed where the name ends in .gz."""
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    data += array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist(folder: Path, train: int = 120, test: int = 60, end: str = ".gz") -> Path:
    """Four MNIST files of noise; every image different."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    for name, size in (("train", train), ("t10k", test)):
        images = generator.integers(256, size=(size, 28, 28))
        labels = np.arange(size) % 10
        idx(folder / f"{name}-images-idx3-ubyte{end}", images)
        idx(folder / f"{name}-labels-idx1-ubyte{end}", labels)
    return folder
