"""archi2vec: where an architecture stands among others, from its graph of operations.

After Fennec (arXiv 2403.06382): one forward pass of any
``nn.Module``, the autograd graph behind its output, and an embedding of that graph by its rooted
subtrees, so that no architecture has to be described by hand.

What differs from the paper. It trains Graph2Vec (doc2vec on subtree "words") for 128 dimensions.
Here the same words (Weisfeiler-Lehman subtrees of two iterations) are counted, weighted by
``log(1 + count) * idf`` and reduced by an SVD, as latent semantic analysis does with documents:
deterministic, without training, and a new architecture is placed without moving the others. With
fewer architectures than dimensions nothing is lost: all distances are kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from stockpot.errors import BackboneError

ITERATIONS = 2
DIMENSIONS = 128
PARAMETER = "parameter"


class OperationsJson(TypedDict):
    """An ``OperationGraph`` as plain data: names once, numbers after."""

    names: list[str]
    labels: list[int]
    edges: list[list[int]]


@dataclass(frozen=True)
class OperationGraph:
    """Operations of one forward pass.

    ``labels``: what node i does (``"Convolution"``, ``"Relu"``, ..., ``"parameter"`` for a weight).
    ``edges``: pairs (from, to) in the direction of the data.
    """

    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]

    def to_json(self) -> OperationsJson:
        """Plain data, small."""
        names = sorted(set(self.labels))
        return {
            "names": names,
            "labels": [names.index(label) for label in self.labels],
            "edges": [list(edge) for edge in self.edges],
        }

    @classmethod
    def from_json(cls, value: OperationsJson) -> OperationGraph:
        """What ``to_json`` wrote."""
        labels = tuple(value["names"][index] for index in value["labels"])
        return cls(labels, tuple((int(a), int(b)) for a, b in value["edges"]))


def operation_graph(module: Any, example: Any) -> OperationGraph:
    """The graph of ``module(example)``, walked backwards from its output.

    ``example`` is one prepared batch; its output may be a tensor or a tuple, list or mapping of
    them. Weights that are frozen take part as well. Raises ``BackboneError`` where no gradient
    flows (a network made of integers or under ``no_grad``).
    """
    import torch

    frozen = [each for each in module.parameters() if not each.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            roots = [each.grad_fn for each in _tensors(module(example)) if each.grad_fn is not None]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    if not roots:
        raise BackboneError("archi2vec: no gradient flows through the model's output")
    number: dict[Any, int] = {}
    labels: list[str] = []
    edges: list[tuple[int, int]] = []
    queue = list(roots)
    for root in roots:
        number.setdefault(root, len(number))
        labels.append(_label(root))
    while queue:
        node = queue.pop()
        for before, _ in node.next_functions:
            if before is None:
                continue
            if before not in number:
                number[before] = len(labels)
                labels.append(_label(before))
                queue.append(before)
            edges.append((number[before], number[node]))
    return OperationGraph(tuple(labels), tuple(edges))


def _tensors(output: Any) -> list[Any]:
    import torch

    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for each in output for tensor in _tensors(each)]
    return []


def _label(node: Any) -> str:
    name = type(node).__name__
    if name == "AccumulateGrad":
        return PARAMETER
    return name.split("Backward")[0]


def subtrees(graph: OperationGraph, iterations: int = ITERATIONS) -> Counter[str]:
    """How often each rooted subtree up to depth ``iterations`` occurs (Shervashidze et al. 2011).

    A node's word of depth d is its word of depth d - 1 together with the sorted words of the nodes
    whose results it takes; so the words of the operations themselves are among them.
    """
    words = list(graph.labels)
    inputs: list[list[int]] = [[] for _ in words]
    for before, after in graph.edges:
        inputs[after].append(before)
    found = Counter(words)
    for depth in range(1, iterations + 1):
        words = [
            _word(depth, words[node], sorted(words[each] for each in inputs[node]))
            for node in range(len(words))
        ]
        found.update(words)
    return found


def _word(depth: int, own: str, others: Sequence[str]) -> str:
    text = "\x1f".join((own, *others))
    return f"{depth}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class ArchitectureSpace:
    """An embedding fitted on some architectures; others can be placed in it.

    ``vocabulary``: subtree -> column; ``weights``: idf, (V,); ``axes``: orthonormal, (V, K).
    """

    vocabulary: dict[str, int]
    weights: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(
        cls, graphs: Sequence[OperationGraph], dimensions: int = DIMENSIONS
    ) -> ArchitectureSpace:
        """Fit on ``graphs``; K is ``dimensions`` or what the graphs span, whichever is less."""
        counts = [subtrees(graph) for graph in graphs]
        vocabulary = {word: i for i, word in enumerate(sorted(set().union(*counts)))}
        present = np.array([[word in each for word in vocabulary] for each in counts])
        # A subtree that all architectures share still counts: how often is what tells depths apart.
        weights = np.log((1 + len(counts)) / (1 + present.sum(axis=0))) + 1.0
        bare = cls(vocabulary, weights, np.eye(0))
        rows = np.stack([bare._row(each) for each in counts])
        _, sizes, right = np.linalg.svd(rows, full_matrices=False)
        kept = min(dimensions, int((sizes > 1e-9 * max(sizes[0], 1e-30)).sum()))
        axes = right[:kept].T
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(kept)])
        return cls(vocabulary, weights, axes * signs)

    def place(self, graph: OperationGraph) -> np.ndarray:
        """Vector (K,) of an architecture; subtrees that the fit never saw are left out."""
        return np.asarray(self._row(subtrees(graph)) @ self.axes)

    def _row(self, counts: Mapping[str, int]) -> np.ndarray:
        row = np.zeros(len(self.vocabulary))
        for word, count in counts.items():
            column = self.vocabulary.get(word)
            if column is not None:
                row[column] = np.log1p(count) * self.weights[column]
        length = float(np.linalg.norm(row))
        return row / length if length else row


def cluster(vectors: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """k-means cluster of every row of ``vectors`` (N, K): int64 (N,), numbered by first member.

    At most as many clusters as there are different rows.
    """
    from sklearn.cluster import KMeans

    distinct = len(np.unique(np.round(vectors, 9), axis=0))
    model = KMeans(n_clusters=max(1, min(count, distinct)), n_init=10, random_state=seed)
    found = model.fit_predict(vectors)
    order = {old: new for new, old in enumerate(dict.fromkeys(found.tolist()))}
    return np.array([order[each] for each in found.tolist()], dtype=np.int64)
