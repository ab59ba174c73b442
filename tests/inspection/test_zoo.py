"""Generated families: what is asked about the trained part, for every network and every story."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.errors import LineageError
from stockpot.inspection import check_lineage, compare
from stockpot.inspection.permutation import is_permuted
from tests.inspection.zoo import (
    NETWORKS,
    State,
    mlp,
    moved,
    permuted,
    shuffled_throughout,
    weights,
)

SEEDS = (0, 1, 2)


def family(name: str, seed: int) -> tuple[State, State, list[str], list[str]]:
    """Base, stranger, and the names of the trained and of the frozen tensors."""
    build, starts = NETWORKS[name]
    base, stranger = weights(build, seed), weights(build, seed + 100)
    trained = [tensor for tensor in base if tensor.startswith(starts)]
    return base, stranger, trained, [tensor for tensor in base if tensor not in trained]


def matrices(state: State, names: list[str]) -> list[str]:
    return [name for name in names if state[name].ndim > 1]


def some(state: State, names: list[str]) -> State:
    return {name: state[name] for name in names}


def judged(base: State, candidate: State, trained: list[str]) -> str:
    """What the check says: "fine", "doubt", "stranger" or "permuted"."""
    try:
        evidence = check_lineage(base, candidate, names=trained)
    except LineageError as error:
        return "permuted" if "channels are permuted" in str(error) else "stranger"
    return "doubt" if evidence.doubt else "fine"


Story = Callable[[State, State, list[str], list[str], int], State]

STORIES: dict[str, tuple[Story, str]] = {
    "fine-tuned": (lambda b, s, t, f, seed: moved(b, seed, 0.05), "fine"),
    "fine-tuned far": (lambda b, s, t, f, seed: moved(b, seed, 0.4), "fine"),
    "trained part only": (lambda b, s, t, f, seed: b | some(moved(b, seed, 0.05), t), "fine"),
    "stranger": (lambda b, s, t, f, seed: s, "stranger"),
    "stranger above frozen layers of the base": (
        lambda b, s, t, f, seed: b | some(s, t),
        "stranger",
    ),
    "stranger below layers of the base": (
        lambda b, s, t, f, seed: moved(b, seed, 0.05) | some(s, f),
        "fine",
    ),
    "far away": (lambda b, s, t, f, seed: moved(b, seed, 2.5), "doubt"),
    "permuted rows in the trained part": (
        lambda b, s, t, f, seed: permuted(moved(b, seed, 0.05), matrices(b, t), seed),
        "permuted",
    ),
    "permuted rows and columns everywhere": (
        lambda b, s, t, f, seed: shuffled_throughout(moved(b, seed, 0.02), seed),
        "permuted",
    ),
    "permuted below the trained part": (
        lambda b, s, t, f, seed: permuted(moved(b, seed, 0.05), matrices(b, f), seed),
        "fine",
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_trained_part_decides(network: str, story: str, seed: int) -> None:
    base, stranger, trained, frozen = family(network, seed)
    change, expected = STORIES[story]
    assert judged(base, change(base, stranger, trained, frozen, seed + 7), trained) == expected


@pytest.mark.parametrize("network", NETWORKS)
def test_one_permuted_layer_is_enough(network: str) -> None:
    base, _, _, _ = family(network, 0)
    tuned = moved(base, 5, 0.05)
    for name in matrices(base, list(base)):
        if base[name].size < 512:
            continue  # depthwise filters of nine weights
        found = compare({"base": base, "tuned": permuted(tuned, [name], 3)})
        assert found.pairs[0].permuted == (name,)
        assert any(f"channels are permuted in {name}" in note for note in found.notes)
        assert judged(base, permuted(tuned, [name], 3), list(base)) == "permuted"


@pytest.mark.parametrize("network", NETWORKS)
def test_one_layer_of_a_stranger_is_a_doubt_and_no_permutation(network: str) -> None:
    base, stranger, _, _ = family(network, 0)
    for name in matrices(base, list(base)):
        if base[name].size < 512:
            continue
        mixed = moved(base, 5, 0.05) | {name: stranger[name]}
        evidence = check_lineage(base, mixed)
        assert evidence.foreign == (name,)
        assert evidence.doubt is not None
        assert name in evidence.doubt


def test_hidden_units_in_another_order_compute_the_same_and_are_refused() -> None:
    torch.manual_seed(0)
    network, other = mlp(), mlp()
    other.load_state_dict(network.state_dict())
    order = torch.randperm(64)
    with torch.no_grad():
        other[2].weight.copy_(network[2].weight[order])
        other[2].bias.copy_(network[2].bias[order])
        other[4].weight.copy_(network[4].weight[:, order])
    inputs = torch.randn(20, 24)
    assert torch.allclose(network(inputs), other(inputs), atol=1e-5)
    average = mlp()
    average.load_state_dict(
        {
            name: (tensor + other.state_dict()[name]) / 2
            for name, tensor in network.state_dict().items()
        }
    )
    with torch.no_grad():
        error = nn.functional.mse_loss(average(inputs), network(inputs))
        spread = network(inputs).var()
    assert float(error) > 0.1 * float(spread)
    with pytest.raises(LineageError, match=r"channels are permuted in 2\.weight, 4\.weight"):
        check_lineage(network.state_dict(), other.state_dict())


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (32, 16, 3, 3), (1, 50, 64), (600, 300)])
@pytest.mark.parametrize("seed", range(5))
def test_strangers_are_no_permutation_whatever_their_mean(
    shape: tuple[int, ...], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    for shift in (0.0, 1.0):
        a, b = (draw.normal(size=shape).astype(np.float32) + shift for _ in range(2))
        assert not is_permuted(a, b, 0.3)
        assert is_permuted(a, draw.permutation(a, axis=-2 if len(shape) == 3 else 0), 0.9)
