"""The MNIST variants against their definition, from small files in MNIST's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stockpot.errors import TaskError
from stockpot.tasks import load_task
from stockpot.tasks.mnist import read_mnist
from tests.tasks.builders import idx, mnist


def rotated(folder: Path, **options):
    return load_task({"kind": "rotated_mnist", "path": str(folder)}, **options)


def colored(folder: Path, **options):
    return load_task({"kind": "colored_mnist", "path": str(folder)}, **options)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_packed_or_not_give_the_same(tmp_path: Path, end: str) -> None:
    images, digits = read_mnist(mnist(tmp_path / "m", end=end))
    assert images.shape == (180, 28, 28)
    assert digits.tolist() == [i % 10 for i in range(120)] + [i % 10 for i in range(60)]


def test_dotted_names(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "m", end="")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    assert len(read_mnist(folder)[0]) == 180


def test_rotated_deals_every_digit_once(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "m")
    task = rotated(folder)
    assert task.domains == ("0", "15", "30", "45", "60", "75")
    assert task.inputs.shape == (180, 1, 28, 28)
    assert task.inputs.dtype == np.float32
    assert task.counts() == dict.fromkeys(task.domains, 30)
    images, digits = read_mnist(folder)
    originals = {image.tobytes(): digit for image, digit in zip(images, digits, strict=True)}
    upright = np.round(task.inputs[task.rows("0"), 0] * 255).astype(np.uint8)
    labels = task.labels[task.rows("0")]
    assert all(originals[x.tobytes()] == y for x, y in zip(upright, labels, strict=True))
    seen = set()
    for i, domain in enumerate(task.domains):
        turned = {
            np.asarray(Image.fromarray(x).rotate(15 * i, Image.Resampling.BILINEAR)).tobytes(): n
            for n, x in enumerate(images)
        }
        found = np.round(task.inputs[task.rows(domain), 0] * 255).astype(np.uint8)
        seen |= {turned[x.tobytes()] for x in found}
    assert seen == set(range(180))


def test_sizes_of_the_published_sets(tmp_path: Path) -> None:
    """70,000 digits in six and in three parts: the larger parts come first."""
    folder = mnist(tmp_path / "m", train=70, test=0)
    assert list(rotated(folder).counts().values()) == [12, 12, 12, 12, 11, 11]
    assert list(colored(folder).counts().values()) == [24, 23, 23]


def test_coloured(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "m", train=6000, test=3000)
    task = colored(folder)
    assert task.domains == ("+90%", "+80%", "-90%")
    assert task.classes == ("0", "1")
    assert task.inputs.shape == (9000, 2, 28, 28)
    lit = task.inputs.max(axis=(2, 3)) > 0
    assert (lit.sum(axis=1) == 1).all()
    images, digits = read_mnist(folder)
    digit_of = {image.tobytes(): digit for image, digit in zip(images, digits, strict=True)}
    pixels = np.round(task.inputs.max(axis=1) * 255).astype(np.uint8)
    small = np.array([digit_of[image.tobytes()] < 5 for image in pixels])
    colour = lit[:, 1]
    for domain, rate in (("+90%", 0.9), ("+80%", 0.8), ("-90%", 0.1)):
        rows = task.rows(domain)
        assert (colour[rows] == task.labels[rows]).mean() == pytest.approx(rate, abs=0.03)
        assert (small[rows] == task.labels[rows]).mean() == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("load", [rotated, colored])
def test_partition_depends_on_its_seed_alone(tmp_path: Path, load) -> None:
    folder = mnist(tmp_path / "m")
    np.random.seed(1)  # the global state must not matter
    first = load(folder, seed=3)
    np.random.seed(2)
    assert first.fingerprint == load(folder, seed=3).fingerprint
    assert first.fingerprint != load(folder, seed=4).fingerprint
    named = load_task(
        {"kind": "rotated_mnist", "path": str(folder), "name": "digits", "domains": ["15", "75"]}
    )
    assert (named.name, named.domains) == ("digits", ("15", "75"))


def test_the_name_does_not_change_the_partition(tmp_path: Path) -> None:
    folder = mnist(tmp_path / "m")
    named = load_task({"kind": "rotated_mnist", "path": str(folder), "name": "digits"})
    np.testing.assert_array_equal(named.inputs, rotated(folder).inputs)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no file train-images-idx3-ubyte or"):
        rotated(tmp_path)
    folder = mnist(tmp_path / "m", end="")
    labels = folder / "t10k-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:-1])
    with pytest.raises(TaskError, match="67 bytes, expected 68"):
        rotated(folder)
    labels.write_bytes(b"\x00\x00\x0d\x01" + good[4:])
    with pytest.raises(TaskError, match=r"not an IDX file of bytes with 1 dimension"):
        rotated(folder)
    idx(labels, np.full(60, 11))
    with pytest.raises(TaskError, match="label 11, outside 0 to 9"):
        rotated(folder)
    idx(labels, np.zeros(59))
    with pytest.raises(TaskError, match="60 images in t10k-images-idx3-ubyte, but 59 labels"):
        rotated(folder)
    labels.rename(folder / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(TaskError, match=r"ubyte\.gz: cannot be read"):
        rotated(folder)
