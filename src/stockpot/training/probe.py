"""A linear probe: the best linear head on fixed features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stockpot.errors import InputError

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
Kind = Literal["classification", "regression"]


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    validation_features: np.ndarray,
    validation_labels: np.ndarray,
    *,
    n_outputs: int,
    kind: Kind,
    penalties: Sequence[float] = PENALTIES,
    iterations: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear head; returns weight (n_outputs, D) and bias (n_outputs,), float32.

    ``features`` (N, D). Classification: multinomial logistic regression, mean cross-entropy plus
    ``penalty / 2`` times the squared weights of the centred features in units of their common
    standard deviation, by L-BFGS in float64.
    Regression: ridge regression with the same penalty, in closed form.

    Penalties are tried from the strongest down until the loss on the validation rows gets worse,
    and the best is taken: weaker ones take the most iterations.
    Raises ``InputError`` for features that are not finite.
    """
    if not np.isfinite(features).all() or not np.isfinite(validation_features).all():
        raise InputError("linear probe: the backbone's features are not finite")
    x = torch.from_numpy(np.asarray(features, dtype=np.float64))
    v = torch.from_numpy(np.asarray(validation_features, dtype=np.float64))
    # One scale for all features: a scale each would give a feature that hardly varies a weight so
    # large that the first steps of fine-tuning, which move all features, destroy the model.
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt().clamp(min=1e-8)
    x, v = (x - mean) / scale, (v - mean) / scale
    fit = _Logistic if kind == "classification" else _Ridge
    problem = fit(x, torch.from_numpy(np.asarray(labels)), n_outputs, iterations)
    best: tuple[float, Tensor, Tensor] | None = None
    for penalty in sorted(penalties, reverse=True):
        weight, bias = problem.solve(penalty)
        loss = problem.loss(v, torch.from_numpy(np.asarray(validation_labels)), weight, bias)
        if best is not None and loss >= best[0]:
            break
        best = (loss, weight.clone(), bias.clone())
    assert best is not None
    weight = best[1] / scale
    bias = best[2] - weight @ mean
    return weight.float().numpy(), bias.float().numpy()


class _Logistic:
    """Solutions for falling penalties start where the last one ended."""

    def __init__(self, x: Tensor, labels: Tensor, n_outputs: int, iterations: int) -> None:
        self.x, self.labels, self.iterations = x, labels.long(), iterations
        self.weight = torch.zeros(n_outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(n_outputs, dtype=torch.float64, requires_grad=True)

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=self.iterations,
            history_size=20,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = self.x @ self.weight.T + self.bias
            loss = torch.nn.functional.cross_entropy(logits, self.labels)
            loss = loss + penalty / 2 * self.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return self.weight.detach(), self.bias.detach()

    def loss(self, x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
        logits = x @ weight.T + bias
        return float(torch.nn.functional.cross_entropy(logits, labels.long()))


class _Ridge:
    def __init__(self, x: Tensor, labels: Tensor, n_outputs: int, iterations: int) -> None:
        y = labels.double()
        self.mean = y.mean()
        self.spread = float(y.std(correction=0).clamp(min=1e-12))
        self.gram = x.T @ x / len(x)
        self.moment = x.T @ ((y - self.mean) / self.spread) / len(x)

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        matrix = self.gram + penalty * torch.eye(len(self.gram), dtype=torch.float64)
        weight = torch.linalg.solve(matrix, self.moment) * self.spread
        return weight.unsqueeze(0), self.mean.unsqueeze(0)

    def loss(self, x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> float:
        return float((x @ weight[0] + bias[0] - labels.double()).square().mean())
