"""archi2vec: equal architectures get equal vectors, similar ones similar, whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.errors import BackboneError
from stockpot.ranking.fennec.archi2vec import (
    PARAMETER,
    ArchitectureSpace,
    OperationGraph,
    cluster,
    operation_graph,
    subtrees,
)


def mlp(depth: int, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(4, 4), act()]
    return nn.Sequential(*layers)


def conv(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


FLAT = torch.ones(2, 4)
IMAGE = torch.ones(1, 3, 8, 8)


def test_the_graph_of_a_linear_layer_is_what_autograd_does() -> None:
    graph = operation_graph(nn.Linear(4, 2), FLAT)
    assert sorted(graph.labels) == ["Addmm", "T", PARAMETER, PARAMETER]
    number = {label: graph.labels.index(label) for label in ("Addmm", "T")}
    assert (number["T"], number["Addmm"]) in graph.edges
    assert len(graph.edges) == 3


def test_weights_frozen_or_not_give_the_same_graph() -> None:
    network = mlp(2)
    free = operation_graph(network, FLAT)
    network[0].weight.requires_grad_(False)
    assert operation_graph(network, FLAT) == free
    assert not network[0].weight.requires_grad


def test_a_tensor_used_twice_is_one_node() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            values = self.layer(values)
            return values + values.relu()

    graph = operation_graph(Twice(), FLAT)
    assert graph.labels.count("Addmm") == 1
    assert graph.labels.count(PARAMETER) == 2


def test_outputs_may_be_nested() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, values: torch.Tensor) -> dict[str, object]:
            values = self.layer(values)
            return {"a": [values.relu()], "b": (values.tanh(), 3)}

    assert {"Relu", "Tanh"} <= set(operation_graph(Pair(), FLAT).labels)


def test_no_gradient_is_an_error() -> None:
    with pytest.raises(BackboneError, match="no gradient"):
        operation_graph(nn.Identity(), FLAT)


def test_json_and_back() -> None:
    graph = operation_graph(conv(2), IMAGE)
    assert OperationGraph.from_json(graph.to_json()) == graph


def test_subtree_words_are_those_of_weisfeiler_lehman() -> None:
    """A chain a -> a -> b: depth 0 counts labels, depth 1 tells the two a's apart."""
    graph = OperationGraph(("a", "a", "b"), ((0, 1), (1, 2)))
    assert subtrees(graph, 0) == {"a": 2, "b": 1}
    words = subtrees(graph, 1)
    assert sum(words.values()) == 6
    assert len([w for w in words if w.startswith("1:")]) == 3
    renamed = OperationGraph(("b", "a", "a"), ((2, 1), (1, 0)))
    assert subtrees(renamed) == subtrees(graph)


def test_vectors_do_not_depend_on_weights_and_respect_kinship() -> None:
    networks = [mlp(2), mlp(3), mlp(2, nn.Tanh), conv(2), conv(4)]
    examples = [FLAT, FLAT, FLAT, IMAGE, IMAGE]
    graphs = [operation_graph(n, x) for n, x in zip(networks, examples, strict=True)]
    space = ArchitectureSpace.fit(graphs)
    vectors = np.stack([space.place(graph) for graph in graphs])
    again = space.place(operation_graph(mlp(2), FLAT))
    np.testing.assert_allclose(vectors[0], again, atol=1e-12)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2] > near[0, 3]
    assert near[3, 4] > near[3, 0]
    np.testing.assert_allclose(np.diag(near), 1.0, atol=1e-9)


def test_the_embedding_keeps_all_distances_where_there_is_room() -> None:
    graphs = [operation_graph(mlp(depth), FLAT) for depth in (1, 2, 3)]
    space = ArchitectureSpace.fit(graphs)
    rows = np.stack([space._row(subtrees(graph)) for graph in graphs])
    vectors = np.stack([space.place(graph) for graph in graphs])
    np.testing.assert_allclose(vectors @ vectors.T, rows @ rows.T, atol=1e-10)
    assert ArchitectureSpace.fit(graphs, dimensions=2).axes.shape[1] == 2


def test_clusters_are_numbered_by_first_member() -> None:
    vectors = np.array([[5.0, 0], [0, 0], [5.1, 0], [0, 0.1]])
    np.testing.assert_array_equal(cluster(vectors, 2), [0, 1, 0, 1])
    np.testing.assert_array_equal(cluster(np.zeros((3, 2)), 4), [0, 0, 0])
