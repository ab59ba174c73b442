"""Tasks of the ranking example that need a little more than a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stockpot.files import digest
from stockpot.tasks import Task, build_task, load_task, named_generator

HERE = Path(__file__).resolve().parent


def emoji(size: int = 48, unseen: float = 0.3) -> Task:
    """Twelve kinds of emoji in five drawing styles, divided by emoji and not by style.

    The same emoji recurs in every style, so the domains are ``seen`` and ``unseen`` emoji: whoever
    holds out ``unseen`` is judged by things that were trained on in no style. Pictures come from
    ``python examples/emoji_styles.py examples/rank/data/emoji``.
    """
    folder = HERE / "data" / "emoji" / "all"
    task = load_task({"kind": "images", "path": str(folder), "size": size})
    codes = np.array([path.stem for path in sorted(folder.glob("*/*/*.png"))])
    names = np.unique(codes)
    order = named_generator(0, "unseen").permutation(len(names))
    hidden = set(names[order[: round(unseen * len(names))]])
    domains = np.array([int(code in hidden) for code in codes])
    return replace(
        task,
        name="emoji",
        domains=("seen", "unseen"),
        domain_ids=domains,
        fingerprint=digest([task.fingerprint, "by emoji", unseen]),
    )


def digits(size: int = 48) -> Task:
    """Handwritten digits of scikit-learn, 8 pixels wide, enlarged."""
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (found.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(np.repeat(small, size // 8, axis=1), size // 8, axis=2)
    return build_task(
        name="digits",
        kind="classification",
        modality="image",
        domains=("digits",),
        classes=[str(each) for each in range(10)],
        inputs=np.repeat(images[..., None], 3, axis=3),
        labels=found.target,
        domain_ids=np.zeros(len(images), dtype=np.int64),
        fingerprint=digest(["sklearn digits", size]),
        where="scikit-learn's digits",
    )
