"""Fennec's offline phase: transfer matrix, proxies and facts from known tasks and a zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.features import Extracted, Extractor, Failed, flat, sample_order
from stockpot.ranking.fennec.archi2vec import ArchitectureSpace, OperationGraph, cluster
from stockpot.ranking.fennec.method import (
    MERGE,
    PROXY_EXAMPLES,
    Fennec,
    FennecRanking,
    ModelFacts,
    TaskFacts,
)
from stockpot.ranking.fennec.transfer import fisher_score
from stockpot.ranking.zoo import ModelEntry
from stockpot.tasks import Task, named_generator
from stockpot.tasks.task import Array

PROBED = 500
RUNS = 5
CLUSTERS = 4


@dataclass(frozen=True)
class Known:
    """What the offline phase found out. ``transfer``: (models, tasks); ``proxies``: per task
    (n, D) features of the proxy; ``failed``: models that were left out."""

    models: tuple[str, ...]
    transfer: np.ndarray
    proxies: list[np.ndarray]
    model_facts: dict[str, ModelFacts]
    task_facts: list[TaskFacts]
    failed: list[Failed]

    def fit(
        self,
        *,
        transfer: np.ndarray | None = None,
        merge: float = MERGE,
        scale_facts: bool = False,
        without: int | None = None,
    ) -> Fennec:
        """The method on all tasks, or on all but number ``without``.

        ``transfer``: real results in place of the Fisher scores, the variant the paper suggests.
        """
        kept = [t for t in range(len(self.proxies)) if t != without]
        values = self.transfer if transfer is None else np.asarray(transfer, dtype=np.float64)
        return Fennec.fit(
            values[:, kept],
            self.models,
            [self.proxies[t] for t in kept],
            model_facts=self.model_facts,
            task_facts=[self.task_facts[t] for t in kept],
            merge=merge,
            scale_facts=scale_facts,
        )


def learn(
    tasks: Sequence[tuple[Task, Array]],
    entries: Mapping[str, ModelEntry],
    proxy: ModelEntry,
    *,
    cache: Path,
    root: Path,
    seed: int = 2020,
    clusters: int = CLUSTERS,
    download: bool = False,
    on_model: Callable[[str], None] = lambda name: None,
) -> Known:
    """Run every model on every known task, once.

    Args:
        tasks: classification tasks, each with the rows that may be looked at.
        entries: the zoo. A model that fails on a task is left out and listed.
        proxy: the model that looks at tasks; a large one sees most (the paper takes CLIP ViT-L/14).
        cache: folder for features, which later calls reuse.

    As released: 500 examples per task balanced by class, five draws averaged (Fisher score); 100
    examples per task for the proxy; architectures in four clusters of their archi2vec embedding.
    Raises ``InputError`` for a task that is no classification, or when no model is left.
    """
    for task, _ in tasks:
        if task.kind != "classification":
            raise InputError(f"Fennec: task '{task.name}' is no classification")
    found: dict[str, list[float]] = {name: [] for name in entries}
    facts: dict[str, Extracted] = {}
    failed: list[Failed] = []
    proxies, task_facts = [], []
    for task, rows in tasks:
        extractor = Extractor(
            task,
            sample_order(task, rows, seed=seed),
            cache,
            root,
            download=download,
            trace=True,
        )
        proxies.append(look(task, rows, proxy, cache=cache, root=root, download=download))
        task_facts.append(TaskFacts(float(len(rows)), float(len(task.classes))))
        draws = [_balanced(task, extractor.order, seed + 3037 * run) for run in range(RUNS)]
        for name, entry in entries.items():
            if name in {each.name for each in failed}:
                continue
            on_model(name)
            made = extractor(name, entry, max(int(draw.max()) + 1 for draw in draws))
            if isinstance(made, Failed):
                failed.append(made)
                continue
            facts[name] = made
            values = flat(made.arrays, entry.readout).astype(np.float32)
            labels = task.labels[made.rows]
            scores = [fisher_score(values[draw], labels[draw]) for draw in draws]
            found[name].append(float(np.mean(scores)))
    left = [name for name in entries if name not in {each.name for each in failed}]
    if not left:
        raise InputError(f"Fennec: no model could be run; '{failed[0].name}': {failed[0].reason}")
    groups = architecture_clusters({name: facts[name].facts for name in left}, clusters)
    model_facts = {
        name: ModelFacts(
            float(facts[name].facts["parameters"]),
            float(facts[name].facts["layers"]),
            groups[name],
        )
        for name in left
    }
    matrix = np.array([found[name] for name in left])
    return Known(tuple(left), matrix, proxies, model_facts, task_facts, failed)


def look(
    task: Task,
    rows: Array,
    proxy: ModelEntry,
    *,
    cache: Path,
    root: Path,
    count: int = PROXY_EXAMPLES,
    seed: int = 0,
    download: bool = False,
) -> np.ndarray:
    """The proxy's features (count, D) of some examples of a task, drawn without their labels.

    Raises ``InputError`` where the proxy cannot be run.
    """
    order = named_generator(seed, "proxy", task.fingerprint).permutation(rows)
    made = Extractor(task, order, cache, root, download=download)("proxy", proxy, count)
    if isinstance(made, Failed):
        raise InputError(f"Fennec: the proxy '{proxy.label}' cannot be run: {made.reason}")
    return flat(made.arrays, proxy.readout).astype(np.float32)


def architecture_clusters(
    facts: Mapping[str, Mapping[str, object]], count: int = CLUSTERS
) -> dict[str, int]:
    """Cluster of each model's architecture, from the operations its extraction noted."""
    graphs = {name: OperationGraph.from_json(each["operations"]) for name, each in facts.items()}  # type: ignore[arg-type]
    space = ArchitectureSpace.fit(list(graphs.values()))
    vectors = np.stack([space.place(graph) for graph in graphs.values()])
    return dict(zip(graphs, cluster(vectors, count).tolist(), strict=True))


def rank_by(
    known: Known,
    fitted: Fennec,
    task: Task,
    rows: Array,
    proxy: ModelEntry,
    *,
    cache: Path,
    root: Path,
    download: bool = False,
) -> FennecRanking:
    """The online phase: look at a new task once, then rank; ``milliseconds`` is the latter."""
    seen = look(task, rows, proxy, cache=cache, root=root, download=download)
    return fitted.rank(seen, TaskFacts(float(len(rows)), float(len(task.classes))))


def _balanced(task: Task, order: Array, seed: int) -> Array:
    """Positions in ``order`` of about 500 examples, the same number of every class."""
    labels = task.labels[order]
    each = max(2, PROBED // len(task.classes))
    draw = named_generator(seed, "balanced", task.fingerprint)
    # The probe stays among the first examples of the order, so that not every model sees all rows.
    reach = min(len(order), 4 * PROBED)
    kept = []
    for label in range(len(task.classes)):
        own = np.flatnonzero(labels[:reach] == label)
        kept.append(draw.permutation(own)[:each])
    return np.sort(np.concatenate(kept))
