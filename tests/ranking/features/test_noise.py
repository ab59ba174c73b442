"""Trained networks are told from initialised ones by their matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.ranking.features.noise import above_noise, is_untrained

INITIALISATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "kaiming": nn.init.kaiming_normal_,
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "large": lambda w: nn.init.normal_(w, std=3.0),
}


def network(start: Callable[[torch.Tensor], torch.Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 64, 3),
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 20),
    )
    for module in layers:
        if isinstance(module, nn.Conv2d | nn.Linear):
            start(module.weight.detach())
    return layers


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_every_initialisation_is_noise_and_a_direction_in_it_is_not(name: str) -> None:
    layers = network(INITIALISATIONS[name])
    assert is_untrained(layers)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        weight = last.weight
        largest = float(torch.linalg.matrix_norm(weight, ord=2))
        one = torch.outer(torch.ones(len(weight)), torch.ones(weight.shape[1]))
        weight += 2.0 * largest * one / torch.linalg.matrix_norm(one, ord=2)
    assert not is_untrained(layers)


def test_a_small_network_that_was_trained_is_not_noise() -> None:
    """A few steps on one rule are enough."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    head = nn.Linear(64, 2)
    assert is_untrained(layers)
    inputs = torch.randn(512, 32)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    optimizer = torch.optim.Adam([*layers.parameters(), *head.parameters()], 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(layers(inputs)), labels).backward()
        optimizer.step()
    assert not is_untrained(layers)


def test_a_network_too_small_to_tell_is_not_called_untrained() -> None:
    assert not is_untrained(nn.Linear(10, 6))
    assert not is_untrained(nn.Linear(64, 64))
    assert not is_untrained(nn.Embedding(500, 64))


@pytest.mark.parametrize("shape", [(40, 40), (30, 200), (200, 30)])
def test_the_edge_is_that_of_marchenko_and_pastur(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    assert above_noise(matrix) == pytest.approx(1.0, abs=0.06)
    assert above_noise(7.0 * matrix) == pytest.approx(above_noise(matrix))
    assert above_noise(np.ones(shape)) > 2.5
    assert above_noise(np.zeros(shape)) == 0.0
