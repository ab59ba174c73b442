"""Data of the accuracy tables as tasks: `kind: function` in a recipe."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from stockpot.files import digest
from stockpot.tasks import Task, array_fingerprint, build_task, named_generator, read_mnist

FASHION = ["t-shirt", "trouser", "pullover", "dress", "coat"]
FASHION += ["sandal", "shirt", "sneaker", "bag", "ankle boot"]
FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"
ASSETS = "~/.cache/stockpot/assets"


def digits(size: int = 64) -> Task:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _grey("digits", images, labels, [str(number) for number in range(10)], size)


def fashion(per_class: int = 400, size: int = 64, path: str = FASHION_FOLDER) -> Task:
    """Fashion-MNIST, ``per_class`` images of each class (Debian: `dataset-fashion-mnist`)."""
    images, labels = read_mnist(Path(path))
    rows = _some(labels, per_class)
    return _grey("Fashion-MNIST", images[rows], labels[rows], FASHION, size)


def glosses(
    topics: int = 20, per_class: int = 150, path: str = f"{ASSETS}/glosses/glosses.csv"
) -> Task:
    """Definitions of nouns and their topic in WordNet; the topics by name, the first ``topics``."""
    rows = _table(path)
    names = sorted({row["label"] for row in rows})[:topics]
    rows = [row for row in rows if row["label"] in names]
    labels = np.array([names.index(row["label"]) for row in rows])
    chosen = _some(labels, per_class)
    return _texts("WordNet glosses", [rows[i]["text"] for i in chosen], labels[chosen], names)


def sentiment(
    domain: str, per_class: int = 1000, path: str = f"{ASSETS}/sentiment/sentiment.csv"
) -> Task:
    """Are texts of one source liked (0.5 or more of -4 to 4) or disliked (-0.5 or less)?"""
    rows = [row for row in _table(path) if row["domain"] == domain]
    rows = [row for row in rows if abs(float(row["label"])) >= 0.5]
    labels = np.array([int(float(row["label"]) > 0) for row in rows])
    chosen = _some(labels, per_class)
    texts = [rows[i]["text"] for i in chosen]
    return _texts(f"sentiment of {domain}", texts, labels[chosen], ["negative", "positive"])


def _table(path: str) -> list[dict[str, str]]:
    with Path(path).expanduser().open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _some(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Rows of at most ``per_class`` examples of every class, the same in every call."""
    parts = [
        named_generator(0, "rows", int(label)).permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate([part[:per_class] for part in parts]))


def _grey(name: str, images: np.ndarray, labels: np.ndarray, classes: list[str], size: int) -> Task:
    large = functional.interpolate(
        torch.from_numpy(images[:, None].astype(np.float32)), (size, size), mode="bilinear"
    )
    inputs = np.repeat(large[:, 0, :, :, None].clamp(0, 255).round().numpy().astype(np.uint8), 3, 3)
    ids = np.zeros(len(labels), dtype=np.int64)
    return build_task(
        name=name,
        kind="classification",
        modality="image",
        domains=["all"],
        classes=classes,
        inputs=inputs,
        labels=labels,
        domain_ids=ids,
        fingerprint=array_fingerprint(inputs, labels, ids, ["all"], classes),
        where=name,
    )


def _texts(name: str, texts: list[str], labels: np.ndarray, classes: list[str]) -> Task:
    return build_task(
        name=name,
        kind="classification",
        modality="text",
        domains=["all"],
        classes=classes,
        inputs=texts,
        labels=labels,
        domain_ids=np.zeros(len(texts), dtype=np.int64),
        fingerprint=digest([name, texts, labels.tolist()]),
        where=name,
    )
