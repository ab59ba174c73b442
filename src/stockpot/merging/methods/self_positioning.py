"""Self Positioning: where between the models a small labelled probe set has its lowest loss.

The result is a ``LearnedCoefficients``: merge with its files (method ``adamerging``), or give its
numbers, one a model, to ``task_arithmetic`` as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stockpot.extras import require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stockpot.merging.methods._learning import LearnedCoefficients, Predict


def self_position(
    module: nn.Module,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    batches: Sequence[Iterable[Any]],
    loss: Callable[[Tensor, Any], Tensor],
    *,
    predict: Predict | None = None,
    initial_scale: float = 1.0,
    steps: int = 200,
    rate: float = 0.1,
) -> LearnedCoefficients:
    """Coefficients ``scale * softmax(a)`` with the lowest loss on a probe set, by SGD on a and
    scale.

    The interpolation space of task vectors searched by stochastic gradient descent, as proposed by
    Li et al. 2024, arXiv 2410.15035; the softmax parametrisation of it is ours.

    Args:
        module, base, models: as for ``learn_coefficients``.
        batches: for each task, re-iterable labelled probe batches.
        loss: ``(outputs, batch) -> scalar``.
        predict: ``(module, batch, task number) -> outputs``.
        initial_scale: start of the scale; the models start equal.

    Raises ``MissingDependencyError`` without torch, ``InputError`` for states that do not fit.
    """
    require("torch", "Self Positioning")
    import torch

    from stockpot.merging.methods._learning import Mixture, learn, plain_predict

    mixture = Mixture(module, base, models)
    run = predict or plain_predict
    device = next(iter(mixture.base.values())).device
    start = torch.tensor([0.0] * len(models) + [initial_scale], device=device)

    def probe_loss(coefficients: Tensor, row: list[Any]) -> Tensor:
        total = torch.zeros((), device=device)
        for task, batch in enumerate(row):
            total = total + loss(mixture.run(coefficients, run, batch, task), batch)
        return total / len(row)

    return learn(
        mixture,
        start,
        lambda unknown: unknown[-1] * torch.softmax(unknown[:-1], dim=0),
        probe_loss,
        batches,
        steps=steps,
        rate=rate,
        optimizer="sgd",
    )
