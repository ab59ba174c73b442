"""Evidence for tests: small, of every kind of task, with everything that any score needs."""

from __future__ import annotations

import numpy as np

from stockpot.ranking.scores import Evidence


def world(
    kind: str = "classification",
    *,
    rows: int = 60,
    width: int = 12,
    classes: int = 4,
    seed: int = 0,
    dtype: type = np.float32,
    apart: float = 0.8,
) -> Evidence:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(rows) % classes)
    centres = apart * rng.normal(size=(classes, width))
    spread = rng.uniform(0.5, 2.0, size=width)
    features = centres[codes] + spread * rng.normal(size=(rows, width)) + 0.5
    if kind == "classification":
        targets = codes
    elif kind == "multilabel":
        hidden = features @ rng.normal(size=(width, 5)) + rng.normal(size=(rows, 5))
        targets = (hidden > np.quantile(hidden, 0.6, axis=0)).astype(np.int64)
        targets[:2] = [[0] * 5, [1] * 5]
    else:
        targets = features @ rng.normal(size=(width, 2)) + 2.0 * rng.normal(size=(rows, 2)) + 3.0
    logits = 1.5 * rng.normal(size=(classes, 6))[codes] + rng.normal(size=(rows, 6))
    return Evidence(
        features=features.astype(dtype),
        targets=targets,
        kind=kind,
        logits=logits.astype(dtype),
    )
