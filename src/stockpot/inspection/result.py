"""What an inspection found, as plain data that turns into JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA = 1

Verdict = Literal[
    "identical", "same ancestor", "probably related", "unrelated", "different architecture"
]
# From best to worst; a group of models is as good as its worst pair.
VERDICTS: tuple[Verdict, ...] = (
    "identical",
    "same ancestor",
    "probably related",
    "unrelated",
    "different architecture",
)


@dataclass(frozen=True)
class Bad:
    """NaN or infinite values of one tensor: how many, and the index of the first."""

    model: str
    tensor: str
    count: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class InspectedModel:
    """One of the models (or the base), and how its tensors meet those of the reference.

    ``renamed`` says which prefix differs, ``missing`` are tensors that the reference has and this
    model lacks, ``extra`` its own, ``reshaped`` those of another shape: (reference's, this one's).
    With a base: ``distance`` is the norm of the change over the norm of the base, over matrices,
    and ``untrained`` names the tensors that equal the base's. Without: None. ``coarse`` matrices
    hold values on a grid of 8 bits or fewer (quantised, or pruned).
    """

    name: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    renamed: str | None
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    distance: float | None
    untrained: tuple[str, ...] | None
    coarse: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two of the models.

    ``cosine``, ``adjusted`` and ``distance`` are medians over the counted layers; ``shared`` of
    ``layers`` counted layers point to a common ancestor, ``foreign`` names those that do not.
    ``permuted`` names the foreign layers, of a few that were looked at, that are the same weights
    with rows or columns (neurons, channels) in another order.
    ``rounding`` is "F16" or "BF16" when one model is the other rounded to that format.
    """

    first: str
    second: str
    verdict: Verdict
    cosine: float | None
    adjusted: float | None
    distance: float | None
    layers: int
    shared: int
    foreign: tuple[str, ...]
    permuted: tuple[str, ...]
    rounding: str | None


@dataclass(frozen=True)
class Layer:
    """One tensor over all models. Lists follow ``Inspection.pairs``, ``models``, ``delta_pairs``.

    Per pair: ``cosine`` of the weights; ``adjusted`` for chance, (cosine - chance) / (1 - chance),
    where chance is the cosine with the rows of one side moved down by one: 0 for strangers whatever
    their mean, 1 for equals; ``distance`` = ||a - b|| / sqrt(||a|| ||b||).
    Per model: ``norm``; with a base also ``change`` = ||model - base|| / ||base||.
    With a base, per pair of models: ``delta_cosine``; over all models: ``sign_conflict``, the share
    of pairs of changes to an entry that have opposite signs (0.5 is chance), and ``ratio``, the t
    of Model Stock (arXiv 2403.19522, for N models) from the mean cosine c of the deltas,
    t = N c / (1 + (N - 1) c), 0 where c <= 0.
    ``counted`` layers are matrices and convolutions, which alone decide the verdict.
    """

    name: str
    shape: tuple[int, ...]
    elements: int
    counted: bool
    cosine: tuple[float | None, ...]
    adjusted: tuple[float | None, ...]
    distance: tuple[float | None, ...]
    norm: tuple[float | None, ...]
    change: tuple[float | None, ...] | None
    delta_cosine: tuple[float | None, ...] | None
    sign_conflict: float | None
    ratio: float | None

    @property
    def delta_angle(self) -> tuple[float | None, ...] | None:
        """Angles between the deltas in degrees, per pair of models."""
        if self.delta_cosine is None:
            return None
        return tuple(None if c is None else degrees(c) for c in self.delta_cosine)


@dataclass(frozen=True)
class Deltas:
    """The changes from the base, all matrices taken as one vector; fields as in ``Layer``."""

    cosine: tuple[float | None, ...]
    sign_conflict: float | None
    ratio: float | None


@dataclass(frozen=True)
class Inspection:
    """Whether models belong together: a verdict, the reason in one sentence, and the evidence.

    ``notes`` are further findings in words. ``models`` begins with the base when there is one
    (``base`` is its name). ``pairs`` are all pairs of ``models`` in order, ``delta_pairs`` all
    pairs without the base. ``quick`` inspections read a sample of the tensors.
    """

    verdict: Verdict
    reason: str
    notes: tuple[str, ...]
    base: str | None
    models: tuple[InspectedModel, ...]
    pairs: tuple[Pair, ...]
    delta_pairs: tuple[tuple[str, str], ...]
    deltas: Deltas | None
    layers: tuple[Layer, ...]
    nonfinite: tuple[Bad, ...]
    quick: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON value: the fields, with numbers that are undefined as null."""
        value = {"schema": SCHEMA, **asdict(self)}
        for layer, row in zip(self.layers, value["layers"], strict=True):
            row["delta_angle"] = layer.delta_angle
        return _plain(value)  # type: ignore[no-any-return]


def degrees(cosine: float) -> float:
    """The angle of a cosine in degrees."""
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
