"""Fennec: rank models on a new task by where both lie in one transfer space.

The method of arXiv 2403.06382. Offline, a matrix of transfer scores (models x known tasks) is
factorised; a forest learns to place an image of a known task, seen by one large vision model (the
*proxy*), at its task's factors; a linear regression learns scores from facts about model and task
(the *meta* part). Online, the proxy sees some unlabelled examples of the new task: no model of the
zoo is run, and a model costs one inner product.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.fennec.factors import LatentFactors, factorise

TREES = 25
MERGE = 0.5
PROXY_EXAMPLES = 100


@dataclass(frozen=True)
class ModelFacts:
    """What the meta part knows of a model: ``parameters``, ``layers`` (convolutions and linear
    maps), ``architecture`` (number of its archi2vec cluster)."""

    parameters: float
    layers: float
    architecture: int


@dataclass(frozen=True)
class TaskFacts:
    """What the meta part knows of a task: numbers of training examples and of classes."""

    examples: float
    classes: float


@dataclass(frozen=True)
class FennecRanking:
    """Scores by model, higher is better; ``milliseconds`` is what the online part took.

    ``latent`` and ``meta`` are the two parts before they are merged.
    """

    scores: dict[str, float]
    latent: dict[str, float]
    meta: dict[str, float]
    milliseconds: float

    @property
    def order(self) -> list[str]:
        """Models from best to worst; equal scores stay in the order of the zoo."""
        return sorted(self.scores, key=lambda name: -self.scores[name])


@dataclass
class Fennec:
    """The method, fitted. Make one by :meth:`fit`.

    ``merge`` is the weight of the latent part; the rest is the meta part's.
    """

    models: tuple[str, ...]
    facts: Mapping[str, ModelFacts] | None
    factors: LatentFactors
    merge: float
    _forest: Any
    _meta: Any
    _clusters: int

    @classmethod
    def fit(
        cls,
        transfer: np.ndarray,
        models: Sequence[str],
        proxies: Sequence[np.ndarray] | None,
        *,
        model_facts: Mapping[str, ModelFacts] | None = None,
        task_facts: Sequence[TaskFacts] | None = None,
        rank: int = 5,
        merge: float = MERGE,
        scale_facts: bool = False,
        seed: int = 2023,
    ) -> Fennec:
        """Fit on known tasks.

        Args:
            transfer: (M, T), 0 or more: Fisher scores (``fisher_score``) as in the paper, or real
                fine-tuning results, the variant that it suggests; nan for cells not known.
            models: M names.
            proxies: for each task the proxy's features of some of its examples, (n_t, D);
                None where there is no proxy, then the mean task's factors stand for a new task.
            model_facts, task_facts: for the meta part; without them there is none, and ``merge``
                is 1.
            scale_facts: standardise the facts first. The paper does not, which mixes 1e7 parameters
                with zeros and ones.

        Raises ``InputError`` where shapes do not fit.
        """
        values = np.asarray(transfer, dtype=np.float64)
        if values.shape[0] != len(models):
            raise InputError(
                f"the transfer matrix has {values.shape[0]} rows, {len(models)} models"
            )
        if proxies is not None and len(proxies) != values.shape[1]:
            raise InputError(
                f"{len(proxies)} proxies for {values.shape[1]} tasks of the transfer matrix"
            )
        factors = factorise(values, rank, seed=seed)
        forest = None
        if proxies is not None:
            forest = _grow(proxies, factors.tasks, seed)
        meta, clusters = None, 0
        if model_facts is not None and task_facts is not None:
            missing = [name for name in models if name not in model_facts]
            if missing:
                raise InputError(f"no facts about model '{missing[0]}'")
            clusters = 1 + max(model_facts[name].architecture for name in models)
            meta = _regress(values, models, model_facts, task_facts, clusters, scale_facts)
        return cls(
            tuple(models),
            model_facts,
            factors,
            merge if meta is not None else 1.0,
            forest,
            meta,
            clusters,
        )

    def rank(self, proxy: np.ndarray | None = None, task: TaskFacts | None = None) -> FennecRanking:
        """Score all models on a new task from the proxy's features of unlabelled examples (n, D).

        Raises ``InputError`` where the method was fitted with a part that is not given here.
        """
        start = time.perf_counter()
        if self._forest is not None and proxy is None:
            raise InputError("Fennec was fitted with a proxy: give its features of the new task")
        if self._meta is not None and task is None:
            raise InputError("Fennec was fitted with task facts: give those of the new task")
        if self._forest is None:
            place = self.factors.tasks.mean(axis=0)
        else:
            found = self._forest.predict(np.asarray(proxy, dtype=np.float64))
            place = found.reshape(len(found), -1).mean(axis=0)
        latent = self.factors.models @ place
        meta = np.zeros(len(self.models))
        if self._meta is not None:
            assert self.facts is not None
            assert task is not None
            rows = [_row(self.facts[name], task, self._clusters) for name in self.models]
            meta = self._meta.predict(np.array(rows))
        merged = self.merge * latent + (1 - self.merge) * meta
        return FennecRanking(
            _by_name(self.models, merged),
            _by_name(self.models, latent),
            _by_name(self.models, meta),
            1000 * (time.perf_counter() - start),
        )


def _grow(proxies: Sequence[np.ndarray], tasks: np.ndarray, seed: int) -> Any:
    """The forest: an example's proxy features -> the factors of its task."""
    from sklearn.ensemble import RandomForestRegressor

    inputs = np.concatenate([np.asarray(each, dtype=np.float64) for each in proxies])
    counts = [len(each) for each in proxies]
    targets = np.repeat(tasks, counts, axis=0)
    # A forest is told apart one output at a time only where there is more than one.
    targets = targets[:, 0] if targets.shape[1] == 1 else targets
    return RandomForestRegressor(TREES, random_state=seed).fit(inputs, targets)


def _regress(
    values: np.ndarray,
    models: Sequence[str],
    facts: Mapping[str, ModelFacts],
    tasks: Sequence[TaskFacts],
    clusters: int,
    scaled: bool,
) -> Any:
    """Linear regression of the known cells on facts about their model and task."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(tasks) != values.shape[1]:
        raise InputError(f"facts about {len(tasks)} tasks, the matrix has {values.shape[1]}")
    rows, targets = [], []
    for m, name in enumerate(models):
        for t, task in enumerate(tasks):
            if np.isfinite(values[m, t]):
                rows.append(_row(facts[name], task, clusters))
                targets.append(values[m, t])
    model = make_pipeline(StandardScaler(), LinearRegression()) if scaled else LinearRegression()
    return model.fit(np.array(rows), np.array(targets))


def _row(model: ModelFacts, task: TaskFacts, clusters: int) -> list[float]:
    one_hot = [float(model.architecture == index) for index in range(clusters)]
    return [model.parameters, model.layers, *one_hot, task.examples, task.classes]


def _by_name(models: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(models, values, strict=True)}
