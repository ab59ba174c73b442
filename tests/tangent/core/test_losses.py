"""The rescaled square loss is the paper's formula; its norm penalty is a norm, not its square."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stockpot.tangent.losses import add_norm_gradient, loss_of, rescaled_square_loss
from stockpot.tangent.settings import TangentSettings


@pytest.mark.parametrize(("kappa", "alpha"), [(5.0, 1.0), (15.0, 3.0)])
def test_square_loss_is_the_formula(kappa, alpha) -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    total = 0.0
    for f, y in zip(outputs, labels, strict=True):
        others = sum(f[i] ** 2 for i in range(4) if i != y)
        total += (alpha * (f[y] - kappa) ** 2 + others) / 4
    found = rescaled_square_loss(torch.tensor(outputs), torch.tensor(labels), kappa, alpha)
    assert float(found) == pytest.approx(total / 6, rel=1e-12)
    if alpha == 1.0:
        targets = kappa * np.eye(4)[labels]
        assert float(found) == pytest.approx(float(((outputs - targets) ** 2).mean()))


def test_cross_entropy_is_torchs() -> None:
    outputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    settings = TangentSettings(loss="cross_entropy")
    expected = torch.nn.functional.cross_entropy(outputs, labels)
    assert torch.equal(loss_of(outputs, labels, settings), expected)


def test_norm_gradient_is_autograds_and_zero_at_zero() -> None:
    values = [torch.randn(3, 2).requires_grad_(), torch.randn(4).requires_grad_()]
    norm = torch.linalg.vector_norm(torch.cat([value.flatten() for value in values]))
    expected = torch.autograd.grad(0.3 * norm, values)
    for value in values:
        value.grad = torch.ones_like(value)
    assert add_norm_gradient(values, 0.3) == pytest.approx(0.3 * float(norm.detach()))
    for value, gradient in zip(values, expected, strict=True):
        assert torch.allclose(value.grad, 1 + gradient)
    zero = torch.zeros(3, requires_grad=True)
    zero.grad = torch.ones(3)
    assert add_norm_gradient([zero], 0.3) == 0
    assert torch.equal(zero.grad, torch.ones(3))
