"""Losses of a linearised model."""

from __future__ import annotations

import torch
from torch import Tensor

from stockpot.tangent.settings import TangentSettings


def rescaled_square_loss(outputs: Tensor, labels: Tensor, kappa: float, alpha: float) -> Tensor:
    """Mean over the batch of (1/C) (alpha (f_y - kappa)^2 + sum over the other classes of f_i^2).

    ``outputs`` (N, C), ``labels`` (N,). With ``alpha`` 1 the mean squared error against kappa times
    one-hot targets, as in the code of Liu & Soatto 2023; the weighted form is that of Hui & Belkin
    2021, section 2, scaled by 1/C.
    """
    targets = torch.nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    weights = 1 + (alpha - 1) * targets
    return (weights * (outputs - kappa * targets).square()).mean()


def loss_of(outputs: Tensor, labels: Tensor, settings: TangentSettings) -> Tensor:
    """The loss that ``settings`` name, mean over the batch."""
    if settings.loss == "cross_entropy":
        return torch.nn.functional.cross_entropy(outputs, labels)
    return rescaled_square_loss(outputs, labels, settings.kappa, settings.alpha)


@torch.no_grad()
def add_norm_gradient(parameters: list[Tensor], penalty: float) -> float:
    """Add the gradient of ``penalty * ||delta||_2`` to the gradients; returns that term's value.

    The norm runs over all tensors together. At zero, where it has no gradient, zero is taken.
    """
    norms = torch._foreach_norm(parameters)
    norm = float(torch.linalg.vector_norm(torch.stack(list(norms))))
    if penalty and norm > 0:
        gradients = [p.grad for p in parameters if p.grad is not None]
        moved = [p.detach() for p in parameters if p.grad is not None]
        torch._foreach_add_(gradients, moved, alpha=penalty / norm)
    return penalty * norm
