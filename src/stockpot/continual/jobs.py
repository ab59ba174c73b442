"""What the jobs do: feature vectors, non-linear runs, and the predictions of one method.

Heads, activations and tangent components come from the jobs of ``stockpot.tangent.jobs``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stockpot.backbones import Model
from stockpot.checkpoints.torch_io import load_state, save_state
from stockpot.continual.nonlinear import finetune as run_finetuning
from stockpot.continual.predictions import Setup, predictions
from stockpot.files import write_json
from stockpot.tangent.head import load_head
from stockpot.tangent.jobs import HEAD
from stockpot.tangent.settings import TangentSettings
from stockpot.tangent.statistics import FeatureMap
from stockpot.training.device import best_device
from stockpot.training.rows import open_backbone, open_feed, open_task

Values = Mapping[str, Any]
Folders = Mapping[str, Path]
STATE = "model.safetensors"
_BATCH = 128


def phi(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    features: Values,
    rows: list[int],
    root: str,
    cache: str,
) -> None:
    """The feature vectors of ``rows``, float32 (N, D), in their order."""
    task, body = open_task(data, root, cache), open_backbone(backbone, root)
    feed = open_feed(task, body, inputs["features"])
    made = FeatureMap(**features)
    device = best_device()
    function = made.bind(body, device)
    feed.to(device)
    order = np.asarray(rows, dtype=np.int64)
    shape = (len(order), made.size(body))
    values = np.lib.format.open_memmap(out / "phi.npy", "w+", np.float32, shape)
    start = time.perf_counter()
    for first in range(0, len(order), _BATCH):
        part = order[first : first + _BATCH]
        values[first : first + len(part)] = function(feed.batch(part)).float().cpu().numpy()
    values.flush()
    seconds = (time.perf_counter() - start) / len(order)
    np.save(out / "rows.npy", order)
    write_json(out / "phi.json", {"features": made.to_json(), "seconds_per_row": seconds})


def finetune(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    name: str,
    rows: list[int],
    settings: Values,
    seed: int,
    root: str,
    cache: str,
) -> None:
    """One non-linear fine-tuning, from the shared head or from where ``previous`` ended."""
    task, body = open_task(data, root, cache), open_backbone(backbone, root)
    model = Model(body, len(task.classes))
    load_head(inputs["head"] / HEAD, model)
    if "previous" in inputs:
        model.load_state(load_state(inputs["previous"] / STATE))
    state = run_finetuning(
        model,
        open_feed(task, body, inputs["features"]),
        task.labels,
        np.asarray(rows, dtype=np.int64),
        TangentSettings(**settings),
        task=name,
        seed=seed,
    )
    save_state(out / STATE, state)


def evaluate(
    out: Path,
    inputs: Folders,
    *,
    data: Values,
    backbone: Values,
    method: str,
    mode: Any,
    tasks: list[list[int]],
    rows: list[list[int]],
    test: list[int],
    features: Values | None,
    root: str,
    cache: str,
) -> None:
    """Predicted classes of the test rows after every task, int16 (T or 1, N)."""
    torch.manual_seed(0)
    setup = Setup(
        task=open_task(data, root, cache),
        backbone=open_backbone(backbone, root),
        mode=mode,
        tasks=tasks,
        rows=[np.asarray(each, dtype=np.int64) for each in rows],
        test=np.asarray(test, dtype=np.int64),
        inputs=inputs,
        features=None if features is None else FeatureMap(**features),
    )
    found, notes = predictions(setup, method)
    np.save(out / "predictions.npy", found.astype(np.int16))
    write_json(out / "notes.json", notes)
