"""RotatedMNIST and ColoredMNIST as DomainBed builds them, from the four MNIST files.

The digits are dealt to the domains by the partition seed alone. The public code deals them by the
seed of each run (``domainbed/datasets.py``: ``torch.randperm`` after the run's ``manual_seed``), so
that one member of an average has trained on what another holds out.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stockpot.errors import TaskError
from stockpot.tasks.arrays import array_fingerprint
from stockpot.tasks.images import require_pillow
from stockpot.tasks.splits import named_generator
from stockpot.tasks.task import Array, Task, build_task

ANGLES = (0, 15, 30, 45, 60, 75)
COLOUR_RATES = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
LABEL_NOISE = 0.25
FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)

Deal = Callable[[Array, Array, int, np.random.Generator], tuple[Array, Array]]


def load_rotated_mnist(folder: Path, *, name: str | None = None, seed: int = 0) -> Task:
    """Ten digits turned by 0 to 75 degrees, one domain an angle: float32 (N, 1, 28, 28) in [0, 1].

    Domain i takes ``permutation[i::6]`` of training and test digits together; Pillow turns them
    counter-clockwise with bilinear sampling and black corners.
    """

    def turn(
        images: Array, digits: Array, domain: int, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        from PIL import Image

        turned = [
            np.asarray(Image.fromarray(image).rotate(ANGLES[domain], Image.Resampling.BILINEAR))
            for image in images
        ]
        return np.stack(turned)[:, None], digits

    require_pillow()
    domains = [str(angle) for angle in ANGLES]
    classes = [str(digit) for digit in range(10)]
    return _deal(folder, "RotatedMNIST", name, domains, classes, turn, seed)


def load_colored_mnist(folder: Path, *, name: str | None = None, seed: int = 0) -> Task:
    """Digit below five or not, by shape or by colour: float32 (N, 2, 28, 28) in [0, 1].

    A quarter of the labels is wrong; the colour agrees with the label in 90 %, 80 % and 10 % of
    the examples of a domain, so that what predicts best in training misleads in the last one.
    Domain i takes ``permutation[i::3]``. y = [digit < 5] flipped with probability .25; colour = y
    flipped with probability .1, .2, .9; the image fills the channel ``colour``, the other is zero.
    """
    rates = list(COLOUR_RATES.values())

    def colour(
        images: Array, digits: Array, domain: int, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        labels = (digits < 5) ^ (generator.random(len(digits)) < LABEL_NOISE)
        colours = labels ^ (generator.random(len(digits)) < rates[domain])
        channels = np.zeros((len(images), 2, *images.shape[1:]), dtype=np.uint8)
        channels[np.arange(len(images)), colours.astype(np.int64)] = images
        return channels, labels.astype(np.int64)

    return _deal(folder, "ColoredMNIST", name, list(COLOUR_RATES), ["0", "1"], colour, seed)


def read_mnist(folder: Path) -> tuple[Array, Array]:
    """Images uint8 (N, 28, 28) and digits int64 (N,) of the training, then of the test files."""
    parts = [
        (_read_idx(_find(folder, images), 3), _read_idx(_find(folder, labels), 1))
        for images, labels in FILES
    ]
    for (images, labels), (image_file, _) in zip(parts, FILES, strict=True):
        if len(images) != len(labels):
            raise TaskError(
                f"{folder}: {len(images)} images in {image_file}, but {len(labels)} labels"
            )
    digits = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    if len(digits) and digits.max() > 9:
        raise TaskError(f"{folder}: label {digits.max()}, outside 0 to 9")
    return np.concatenate([images for images, _ in parts]), digits


def _deal(
    folder: Path,
    variant: str,
    name: str | None,
    domains: list[str],
    classes: list[str],
    make: Deal,
    seed: int,
) -> Task:
    images, digits = read_mnist(folder)
    order = named_generator(seed, variant, "partition").permutation(len(images))
    parts: list[tuple[Array, Array]] = []
    for i, domain in enumerate(domains):
        rows = order[i :: len(domains)]
        generator = named_generator(seed, variant, domain)
        parts.append(make(images[rows], digits[rows], i, generator))
    inputs = np.concatenate([part for part, _ in parts]).astype(np.float32) / np.float32(255)
    labels = np.concatenate([part for _, part in parts])
    ids = np.concatenate([np.full(len(part), i) for i, (part, _) in enumerate(parts)])
    return build_task(
        name=name or variant,
        kind="classification",
        modality="array",
        domains=domains,
        classes=classes,
        inputs=inputs,
        labels=labels,
        domain_ids=ids,
        fingerprint=array_fingerprint(inputs, labels, ids, domains, classes),
        where=str(folder),
        allow_missing_classes=True,
    )


def _find(folder: Path, name: str) -> Path:
    """The file as MNIST is published, with a dot for the second dash, and each packed or not."""
    stems = (name, name.replace("-idx", ".idx"))
    for candidate in (folder / f"{stem}{end}" for stem in stems for end in ("", ".gz")):
        if candidate.is_file():
            return candidate
    raise TaskError(f"{folder}: no file {name} or {name}.gz")


def _read_idx(path: Path, dimensions: int) -> Array:
    """An IDX file of unsigned bytes: 0, 0, 8, rank, then each length as big-endian uint32."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise TaskError(f"{path}: not an IDX file of bytes with {dimensions} dimension(s)")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise TaskError(f"{path}: {len(data)} bytes, expected {expected} for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
