"""From a zoo entry to features on disk: load, run over a sample, keep, report what failed."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stockpot.backbones.backbone import Backbone, load_backbone
from stockpot.backbones.batchnorm import batchnorm_layers
from stockpot.declared import is_given
from stockpot.errors import BackboneError, InputError, OutputError
from stockpot.files import digest
from stockpot.ranking.features.cache import CHUNK, Arrays, FeatureCache, Keep, LoadedFacts
from stockpot.ranking.features.noise import is_untrained
from stockpot.ranking.features.revision import revision
from stockpot.ranking.gram import Moments
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from stockpot.tasks import Task, take
from stockpot.tasks.task import Array
from stockpot.training.device import best_device

if TYPE_CHECKING:
    from stockpot.ranking.fennec.archi2vec import OperationsJson

FORMAT = 2
_BATCH = 64


@dataclass(frozen=True)
class Extracted:
    """Features of one model on the first ``rows`` of a sample order.

    ``arrays`` as in ``FeatureCache`` (empty where only ``moments`` were kept). ``facts``:
    ``parameters``, ``dimensions``, ``layers``, ``fingerprint`` (of the loaded weights),
    ``untrained`` (see :mod:`.noise`), ``seconds_per_example``, ``operations`` where they were
    traced. ``seconds``: time spent in all, earlier runs included.
    """

    name: str
    rows: Array
    arrays: Arrays
    facts: LoadedFacts
    seconds: float
    reused: bool
    moments: Moments | None = None


@dataclass(frozen=True)
class Failed:
    """A model that could not be used, and why, in one line."""

    name: str
    reason: str


@dataclass
class Extractor:
    """Extracts features of zoo entries on the rows of one task, into one cache folder.

    ``order`` is a sample order (``sample_order``); a call takes its beginning. ``download`` lets
    libraries ask the network for weights that are not on this machine. ``trace``: note the
    operations of each model, for ``archi2vec``.
    """

    task: Task
    order: Array
    cache: Path
    root: Path
    keep: Keep = "features"
    download: bool = False
    device: str | None = None
    trace: bool = False
    _revisions: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, name: str, entry: ModelEntry | FeatureEntry, count: int
    ) -> Extracted | Failed:
        """Features of the first ``count`` rows; never raises for what is wrong with the model.

        Raises ``OutputError`` where the cache cannot be written.
        """
        try:
            return self.extract(name, entry, count)
        except InputError as error:
            return Failed(name, str(error).splitlines()[0])
        except OutputError:
            raise
        except Exception as error:  # whatever somebody's model code does is its own affair
            lines = str(error).strip().splitlines() or [""]
            return Failed(name, f"{type(error).__name__}: {lines[0]}".rstrip(": "))

    def extract(self, name: str, entry: ModelEntry | FeatureEntry, count: int) -> Extracted:
        """As a call, but with the model's errors raised."""
        rows = self.order[:count]
        if isinstance(entry, FeatureEntry):
            arrays = read_features(self.root / Path(entry.path).expanduser(), len(self.task))
            taken = {key: values[rows] for key, values in arrays.items()}
            facts: LoadedFacts = {"dimensions": int(taken["features"].shape[1])}
            return Extracted(name, rows, taken, facts, 0.0, True)
        cache = self.open(name, entry)
        wanted = -(-len(rows) // CHUNK)
        reused = cache.chunks >= wanted
        moments = None
        if not reused or (self.trace and "operations" not in cache.about):
            moments = self._fill(cache, entry, wanted)
        if self.keep == "moments":
            return Extracted(
                name,
                self.order[: cache.chunks * CHUNK],
                {},
                cache.about,
                cache.seconds,
                reused,
                moments or cache.moments(),
            )
        return Extracted(name, rows, cache.read(len(rows)), cache.about, cache.seconds, reused)

    def open(self, name: str, entry: ModelEntry) -> FeatureCache:
        """The cache of a model; nothing is loaded or computed."""
        if name not in self._revisions:
            self._revisions[name] = revision(entry, self.root)
        key = digest(
            {
                "format": FORMAT,
                "revision": self._revisions[name],
                "head": entry.head,
                "task": self.task.fingerprint,
                "order": self._order_digest,
                "labels": self._labels_digest if self.keep == "moments" else None,
                "keep": self.keep,
                "readout": entry.readout if self.keep == "moments" else None,
            }
        )
        return FeatureCache(self.cache / key[:20], self.keep)

    @cached_property
    def _order_digest(self) -> str:
        return digest(self.order.tolist())

    @cached_property
    def _labels_digest(self) -> str:
        return digest(self.task.labels.tolist())

    def _fill(self, cache: FeatureCache, entry: ModelEntry, wanted: int) -> Moments | None:
        from stockpot.ranking.features.offline import network

        with network(allowed=self.download), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            body = open_model(entry, self.root, self.task, download=self.download)
            reader = _Reader(body, entry, self.root, self.device)
            cache.describe({"name": entry.label, **reader.facts()})
            if self.trace:
                cache.describe({"operations": reader.operations(self.task)})
            loading = time.perf_counter() - start
            moments = cache.moments() if self.keep == "moments" else None
            for index in range(cache.chunks, wanted):
                start = time.perf_counter()
                rows = self.order[index * CHUNK : (index + 1) * CHUNK]
                arrays = reader.read(take(self.task.inputs, rows))
                bad = [key for key, values in arrays.items() if not np.isfinite(values).all()]
                if bad:
                    raise BackboneError(f"its {bad[0]} are not finite")
                seconds = time.perf_counter() - start
                if self.keep == "features":
                    cache.add(arrays, seconds)
                else:
                    moments = moments or _moments(self.task)
                    moments.add(flat(arrays, entry.readout), self._targets(rows))
                    cache.add_moments(moments, index + 1, seconds)
                cache.describe(
                    {
                        "loading_seconds": round(loading, 3),
                        "seconds_per_example": round(seconds / len(rows), 6),
                    }
                )
        return moments

    def _targets(self, rows: Array) -> np.ndarray:
        labels = self.task.labels[rows]
        return labels if self.task.kind == "classification" else labels[:, None]


def open_model(entry: ModelEntry, root: Path, task: Task, *, download: bool) -> Backbone:
    """Load a model for a task; ``BackboneError`` where it is not here or takes other inputs."""
    from stockpot.ranking.features.offline import check_present

    if not download:
        check_present(entry, root)
    body = load_backbone(entry.spec, root=root, example=take(task.inputs, np.arange(2)))
    body.check_takes(task)
    text, image = body.modality == "text", body.modality == "image"
    for names, used, needed in (
        (("readout", "max_length"), text, "text encoders"),
        (("image_size", "mean", "std"), image, "models of images"),
        (("pooling",), entry.kind == "transformers", "transformers models"),
        (("batchnorm",), bool(batchnorm_layers(body.network)), "networks with BatchNorm"),
    ):
        for name in names:
            if not used and is_given(entry, name):
                raise BackboneError(f"'{name}' has no effect on it; it has one on {needed}")
    return body


def flat(arrays: Arrays, readout: str) -> np.ndarray:
    """One matrix (N, D): the features, or of a text encoder the readout that was asked for."""
    if "features" in arrays:
        return arrays["features"]
    if readout == "cls":
        return arrays["cls"]
    layers = arrays["layers"].astype(np.float32)
    return np.asarray(layers[:, -1] if readout == "last" else layers.mean(axis=1))


def read_features(path: Path, examples: int) -> Arrays:
    """``features`` (N, D) and perhaps ``logits`` (N, Z) from a .npy or .npz file, N = ``examples``.

    Raises ``BackboneError`` naming the file for anything else.
    """
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        found = {"features": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError) as error:
        raise BackboneError(f"{path}: no readable .npy or .npz file: {error}") from error
    if "features" not in found:
        raise BackboneError(f"{path}: no array 'features'; it holds {', '.join(sorted(found))}")
    kept = {name: found[name] for name in ("features", "logits") if name in found}
    for name, values in kept.items():
        if values.ndim != 2 or len(values) != examples or values.dtype.kind != "f":
            raise BackboneError(
                f"{path}: '{name}' is {values.dtype} {values.shape}, expected floats "
                f"({examples}, ...): one row for every example of the task"
            )
    return kept


def _moments(task: Task) -> Moments:
    if task.kind == "classification":
        return Moments(classes=len(task.classes))
    return Moments(columns=1)


class _Reader:
    """Runs one loaded model over raw inputs."""

    def __init__(self, body: Backbone, entry: ModelEntry, root: Path, device: str | None) -> None:
        self.body = body
        self.device = best_device(device)
        body.module.to(self.device).eval()
        self.head = _head(entry, root, body.feature_dim)

    def facts(self) -> LoadedFacts:
        """What is known of a model once it is loaded."""
        return {
            "parameters": sum(each.numel() for each in self.body.network.parameters()),
            "dimensions": self.body.feature_dim,
            "layers": count_layers(self.body.network),
            "fingerprint": self.body.fingerprint,
            "untrained": is_untrained(self.body.network),
        }

    def operations(self, task: Task) -> OperationsJson:
        """The graph of operations of one forward pass."""
        from stockpot.ranking.fennec.archi2vec import operation_graph

        example = self.body.prepare(take(task.inputs, np.arange(1)), self.device)
        return operation_graph(self.body.module, example).to_json()

    def read(self, raw: Any) -> Arrays:
        """Arrays for one chunk; rows in their order."""
        import torch

        encoded = self.body.preparation.encode(raw)
        order = np.arange(len(encoded))
        if self.body.modality == "text":
            order = np.argsort([len(one) for one in encoded], kind="stable")
        parts: list[Arrays] = []
        with torch.no_grad():
            for start in range(0, len(order), _BATCH):
                batch = self.body.preparation.batch(
                    encoded, order[start : start + _BATCH], self.device
                )
                parts.append(self._forward(batch))
        found: Arrays = {}
        for name in parts[0]:
            values = np.concatenate([part[name] for part in parts])
            found[name] = np.empty_like(values)
            found[name][order] = values
        return found

    def _forward(self, batch: Any) -> Arrays:
        if self.body.modality != "text":
            features = self.body.module(batch).float()
            found = {"features": features.cpu().numpy()}
        else:
            output = self.body.network(**batch, output_hidden_states=True)
            import torch

            mask = batch["attention_mask"].unsqueeze(-1)
            states = torch.stack(output.hidden_states, dim=1).float()
            weights = mask.unsqueeze(1).to(states.dtype)
            layers = (states * weights).sum(2) / weights.sum(2).clamp(min=1)
            features = layers[:, -1]
            found = {
                "layers": layers.cpu().numpy(),
                "cls": states[:, -1, 0].cpu().numpy(),
            }
        if self.head is not None:
            weight, bias = self.head
            found["logits"] = features.cpu().numpy() @ weight.T + bias
        return found


def count_layers(network: Any) -> int:
    """Convolutions and linear maps in a network: Fennec's measure of depth."""
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return sum(isinstance(module, kinds) for module in network.modules())


def _head(entry: ModelEntry, root: Path, dimensions: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The source classifier from the weights file: weight (Z, D), bias (Z,)."""
    if entry.head is None:
        return None
    from stockpot.checkpoints import open_checkpoint

    if entry.weights is None:
        raise BackboneError(f"head '{entry.head}': name the 'weights' that hold it")
    path = root / Path(entry.weights).expanduser()
    with open_checkpoint(path) as checkpoint:
        names = set(checkpoint.names)
        if f"{entry.head}.weight" not in names:
            raise BackboneError(f"{path} has no tensor '{entry.head}.weight'")
        weight = np.asarray(checkpoint.read(f"{entry.head}.weight"), dtype=np.float32)
        weight = weight.reshape(len(weight), -1)
        bias = np.zeros(len(weight), dtype=np.float32)
        if f"{entry.head}.bias" in names:
            bias = np.asarray(checkpoint.read(f"{entry.head}.bias"), dtype=np.float32)
    if weight.shape[1] != dimensions:
        raise BackboneError(
            f"head '{entry.head}' takes {weight.shape[1]} features, the model gives {dimensions}"
        )
    return weight, bias
