"""Sketched gradients against their definition, and against the kernel they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.backbones import Activations
from stockpot.errors import InputError
from stockpot.tangent.statistics import TangentSketch
from tests.recycling.tiny import net
from tests.tangent.statistics.tiny import data


def sketch(dimension: int = 64, directions: int = 3, seed: int = 0, network=None) -> TangentSketch:
    return TangentSketch(
        network or net(), 12, dimension=dimension, directions=directions, seed=seed
    )


def gradients(network: torch.nn.Module, inputs: torch.Tensor, directions: torch.Tensor):
    """(N, J, P) by one backward pass for every example and direction."""
    parameters = list(network.parameters())
    rows = []
    for one in inputs:
        found = [torch.autograd.grad(network(one[None])[0] @ u, parameters) for u in directions]
        rows.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in found]))
    return torch.stack(rows)


def test_the_sketch_is_the_signed_sum_over_buckets() -> None:
    inputs = torch.from_numpy(data().inputs[:5])
    made = sketch()
    expected = np.zeros((5, 64))
    for n, of_one in enumerate(gradients(net(), inputs, made.directions).double().numpy()):
        for j, gradient in enumerate(of_one):
            for p, value in enumerate(gradient):
                expected[n, int(made._buckets[j][p])] += float(made._signs[j][p]) * value
    found = made(inputs)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


def test_inner_products_estimate_the_tangent_kernel() -> None:
    """E <phi(x), phi(x')> = sum_j <g_j(x), g_j(x')>, with an error that falls as 1 / sqrt(D)."""
    inputs = torch.from_numpy(data().inputs[:30])
    made = sketch(8192)
    truth = torch.einsum("njp,mjp->nm", *[gradients(net(), inputs, made.directions).double()] * 2)
    phi = made(inputs)
    error = (phi @ phi.T - truth).norm() / truth.norm()
    assert error < 3 / 8192**0.5 * 3


def test_an_example_is_not_touched_by_its_neighbours() -> None:
    """Composition is joint training to the last bits only if phi does not depend on the batch."""
    inputs = torch.from_numpy(data().inputs[:50])
    together = sketch()(inputs)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sketch()(inputs[order]), together[order])


def test_half_the_dimension_is_the_sum_of_the_halves() -> None:
    inputs = torch.from_numpy(data().inputs[:7])
    wide, narrow = sketch(64)(inputs), sketch(16)(inputs)
    torch.testing.assert_close(wide.view(7, 4, 16).sum(1), narrow, rtol=0, atol=1e-5)


class Masked(torch.nn.Module):
    """Mean of token vectors; looks at its mask, as transformers do, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = net()

    def forward(self, batch: Activations) -> torch.Tensor:
        assert batch.mask is not None
        hidden = self.linear(batch.values)
        if batch.mask.all():
            return hidden.mean(1)
        weights = batch.mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)


def test_networks_that_look_at_their_mask_go_example_by_example() -> None:
    values = torch.from_numpy(data().inputs[:12]).view(3, 4, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    made = sketch(network=Masked())
    found = made(Activations(values, mask))
    alone = torch.cat(
        [
            made(Activations(values[i : i + 1, :n], mask[i : i + 1, :n]))
            for i, n in ((0, 4), (1, 2), (2, 3))
        ]
    )
    assert torch.equal(found, alone)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="1 or more"):
        sketch(dimension=0)
    frozen = net()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="trainable"):
        sketch(network=frozen)
