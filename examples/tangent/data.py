"""The data of the tangent experiments as tasks: `kind: function` in a recipe."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from stockpot.files import digest
from stockpot.tasks import Task, array_fingerprint, build_task, named_generator, read_mnist

MEAN, STD = 0.286, 0.353  # of the base's training images
NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat")
NAMES += ("sandal", "shirt", "sneaker", "bag", "ankle boot")
TOPICS = {
    "largest": "act animal artifact attribute communication location person plant state substance",
    "physical": "animal artifact body food location object person phenomenon plant substance",
}


def fashion(path: str = "/usr/share/datasets/fashion-mnist", pool: int = 600) -> Task:
    """Fashion-MNIST classes 5 to 9: domain train (``pool`` images of each class) and test (400).

    The base has seen classes 0 to 4 only. Package `dataset-fashion-mnist` of Debian has the files.
    """
    images, labels = read_mnist(Path(path))
    rows, domains = [], []
    for label in range(5, 10):
        for domain, own in enumerate((np.arange(60_000), np.arange(60_000, len(labels)))):
            found = own[labels[own] == label]
            count = 400 if domain else pool
            found = named_generator(0, "fashion", label).permutation(found)[:count]
            rows.append(np.sort(found))
            domains.append(np.full(len(found), domain))
    chosen = np.concatenate(rows)
    return _task(
        "Fashion-MNIST 5-9", images[chosen], labels[chosen] - 5, NAMES[5:], np.concatenate(domains)
    )


def digits() -> Task:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged to 28 x 28."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) * (255 / 16))
    large = functional.interpolate(small, (28, 28), mode="bilinear")[:, 0]
    images = large.clamp(0, 255).round().numpy().astype(np.uint8)
    return _task("digits", images, labels, [str(n) for n in range(10)], None)


def glosses(
    topics: str = "largest", path: str = "~/.cache/stockpot/assets/glosses/glosses.csv"
) -> Task:
    """Definitions of nouns and their topic in WordNet, ten topics with 500 definitions each.

    ``topics``: "largest", the ten with the most nouns in WordNet 3.0, or "physical", ten of things
    one can point at. `stockpot demo --fetch-only` brings the file.
    """
    names = TOPICS[topics].split()
    file = Path(path).expanduser()
    with file.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["label"] in names]
    texts = [row["text"] for row in rows]
    labels = np.array([names.index(row["label"]) for row in rows], dtype=np.int64)
    return build_task(
        name="WordNet glosses",
        kind="classification",
        modality="text",
        domains=["nouns"],
        classes=names,
        inputs=texts,
        labels=labels,
        domain_ids=np.zeros(len(texts), dtype=np.int64),
        fingerprint=digest(["glosses", texts, labels.tolist()]),
        where=str(file),
    )


def _task(name, images, labels, classes, domain_ids) -> Task:
    domains = ["all"] if domain_ids is None else ["train", "test"]
    ids = np.zeros(len(labels), dtype=np.int64) if domain_ids is None else domain_ids
    inputs = ((images.astype(np.float32) / 255 - MEAN) / STD)[:, None]
    return build_task(
        name=name,
        kind="classification",
        modality="array",
        domains=domains,
        classes=classes,
        inputs=inputs,
        labels=labels,
        domain_ids=ids,
        fingerprint=array_fingerprint(inputs, labels, ids, domains, list(classes)),
        where=name,
    )
