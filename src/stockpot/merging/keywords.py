"""The keywords of ``merge`` as types, so that a type checker knows a misspelt one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from stockpot.execution import Backend
    from stockpot.merging.alignment import Heads
    from stockpot.merging.job import Dtype, Source
    from stockpot.merging.settings import Rule

Numbers = float | Sequence[float] | Mapping[str, Any]
"""One number for all models or one for each, or a gradient over the layers."""


class MethodParameters(TypedDict, total=False):
    """Parameters and statistics files of all methods that come with stockpot.

    Those of a method of your own are passed in a ``Spec`` or a recipe.
    """

    alpha: Numbers
    average: str
    base_share: Numbers
    beta: Numbers
    bound: Any
    clip: Any
    coefficients: Any
    common: Numbers
    consensus: str
    cut: Numbers
    density: Numbers
    epsilon: Numbers
    eta: Numbers
    fisher: Sequence[Any]
    gamma: Numbers
    gram: Sequence[Any]
    granularity: str
    limit: Numbers
    losses: Any
    minimum: Any
    normalize: bool
    rank_share: Numbers
    rate: Numbers
    rescale: Any
    ridge: Numbers
    scale: Numbers
    scope: str
    seed: int
    shrink: Numbers
    sign_tie: str
    solver: str
    steps: int
    subspace: Any
    t: Numbers
    temperature: Numbers
    threshold: Numbers
    weights: Numbers
    zeros: str


class MergeOptions(MethodParameters, total=False):
    """Everything that ``merge`` takes beside models and output."""

    method: str | None
    base: Source | None
    rules: Sequence[Rule]
    heads: Heads | None
    dtype: Dtype | None
    align: bool
    vocabulary: Source | None
    threads: int | None
    processes: int
    block_elements: int | None
    device: str
    backend: str | Backend | None
    jobs: int | None
    address: str | None
    allow_nonfinite: bool
    max_shard_size: int
    hash_parents: bool | None
    overwrite: bool
    quiet: bool
    force: bool
    check_load: bool
