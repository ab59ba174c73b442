"""Features on disk: one folder per model, preprocessing and order of examples, in chunks.

A chunk appears whole or not at all, so extraction that was killed goes on after the last one, and
a larger sample adds chunks to those of the smaller. Values are float16 where that loses less than
one part in a thousand of a chunk's largest value, else float32.

``keep="moments"`` stores the running second moments (``ranking.gram.Moments``: one D x D matrix,
however many examples) and no features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from stockpot.files import atomic_file, write_json
from stockpot.ranking.gram import Moments
from stockpot.reading import parse_json, read_bytes

if TYPE_CHECKING:
    from stockpot.ranking.fennec.archi2vec import OperationsJson

CHUNK = 128
Keep = Literal["features", "moments"]
Arrays = dict[str, np.ndarray]

_TOLERANCE = 1e-3


class LoadedFacts(TypedDict, total=False):
    """What is known of a model once it was run; ``operations``: what ``archi2vec`` looks at;
    ``untrained``: whether its weights are an initialisation's."""

    name: str
    parameters: int
    dimensions: int
    layers: int
    fingerprint: str
    untrained: bool
    operations: OperationsJson
    seconds: float
    loading_seconds: float
    seconds_per_example: float


class FeatureCache:
    """The chunks of one model on one sample order, in ``folder``.

    ``arrays`` by name: ``features`` (N, D), or for text encoders ``layers`` (N, L + 1, D) and
    ``cls`` (N, D); ``logits`` (N, Z) where the source classifier is known.
    """

    def __init__(self, folder: Path, keep: Keep = "features") -> None:
        self.folder = folder
        self.keep = keep
        self.about = self._read_about()

    @property
    def chunks(self) -> int:
        """Chunks that are there, counted without a gap."""
        if self.keep == "moments":
            if not self._moments.exists():
                return 0
            with np.load(self._moments, allow_pickle=False) as file:
                return int(file["chunks"])
        count = 0
        while self._file(count).exists():
            count += 1
        return count

    def add(self, arrays: Mapping[str, np.ndarray], seconds: float) -> None:
        """Write the next chunk. ``seconds`` of work are added to what the model has cost."""
        with atomic_file(self._file(self.chunks)) as temporary, temporary.open("wb") as handle:
            kept = {name: _narrow(values) for name, values in arrays.items()}
            np.savez(handle, **kept)  # type: ignore[arg-type]
        self.describe({"seconds": round(self.seconds + seconds, 4)})

    def add_moments(self, moments: Moments, chunks: int, seconds: float) -> None:
        """Replace the running moments by those over ``chunks`` chunks."""
        with atomic_file(self._moments) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **{**moments.state(), "chunks": np.array(chunks)})  # type: ignore[arg-type]
        self.describe({"seconds": round(self.seconds + seconds, 4)})

    def moments(self) -> Moments | None:
        """The running moments, where some were kept."""
        if not self._moments.exists():
            return None
        with np.load(self._moments, allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
        del state["chunks"]
        return Moments.from_state(state)

    def read(self, count: int) -> Arrays:
        """The first ``count`` rows of every array, in the type they are kept in."""
        parts: list[Arrays] = []
        for index in range(-(-count // CHUNK)):
            with np.load(self._file(index), allow_pickle=False) as file:
                parts.append({name: file[name] for name in file.files})
        names = parts[0]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in names}

    @property
    def seconds(self) -> float:
        """Time spent on what is there."""
        return float(self.about.get("seconds", 0.0))

    def describe(self, facts: LoadedFacts) -> None:
        """Join facts to ``about.json``."""
        self.about = {**self.about, **facts}
        write_json(self.folder / "about.json", self.about)

    def _file(self, index: int) -> Path:
        return self.folder / f"chunk-{index:05d}.npz"

    @property
    def _moments(self) -> Path:
        return self.folder / "moments.npz"

    def _read_about(self) -> LoadedFacts:
        try:
            found: LoadedFacts = parse_json(read_bytes(self.folder / "about.json"))
        except (OSError, ValueError):
            return {}
        return found


def _narrow(values: np.ndarray) -> np.ndarray:
    """Float16 where it is good enough."""
    wide = np.asarray(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    largest = float(np.abs(wide).max(initial=0.0))
    lost = np.abs(narrow.astype(np.float32) - wide).max(initial=0.0)
    return narrow if np.isfinite(narrow).all() and lost <= _TOLERANCE * largest else wide
