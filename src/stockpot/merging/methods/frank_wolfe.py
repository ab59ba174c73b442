"""FW-Merging: steps towards the model that lowers the loss most, where one stands.

The merge is sought in the convex hull of the models. Each step asks which of them has the smallest
inner product with the gradient, and goes part of the way to it, so that models that do not help get
no weight, however many there are. The result is a ``LearnedCoefficients``: merge with its files
(method ``adamerging``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from stockpot.errors import InputError
from stockpot.extras import require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stockpot.merging.methods._learning import LearnedCoefficients, Predict


def frank_wolfe(
    module: nn.Module,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    batches: Sequence[Iterable[Any]],
    loss: Callable[[Tensor, Any], Tensor],
    *,
    predict: Predict | None = None,
    choice: Literal["tensor", "model"] = "tensor",
    initial: float = 0.0,
    step: float | None = None,
    steps: int = 10,
) -> LearnedCoefficients:
    """Coefficients by Frank-Wolfe steps: ``theta <- theta + s (theta_j - theta)``, j the model with
    the smallest ``<gradient, theta_j>``.

    Chen et al. 2025, FW-Merging, arXiv 2503.12649, the hard variant. It starts from task
    arithmetic, which is ``initial`` here; the sizes of the steps are those of the classic method.

    Args:
        module, base, models: as for ``learn_coefficients``.
        batches: for each task, re-iterable labelled batches; one of each makes a gradient.
        loss: ``(outputs, batch) -> scalar``.
        predict: ``(module, batch, task number) -> outputs``.
        choice: one model for each tensor (the paper's layer-wise choice), or one for all.
        initial: coefficient of each task vector at the start; 0 is the base.
        step: share of the way, in (0, 1]; None takes ``2 / (t + 2)`` at step t = 0, 1, ...

    Raises ``MissingDependencyError`` without torch, ``InputError`` for states that do not fit, and
    for a step or choice that there is none of.
    """
    if step is not None and not 0.0 < step <= 1.0:
        raise InputError(f"step: got {step}, expected a number in (0, 1]")
    if choice not in ("tensor", "model"):
        raise InputError(f"choice: got {choice!r}, expected tensor or model")
    require("torch", "FW-Merging")
    import torch

    from stockpot.merging.methods._learning import (
        LearnedCoefficients,
        Mixture,
        evaluation_of,
        plain_predict,
        round_trip,
    )

    mixture = Mixture(module, base, models)
    run = predict or plain_predict
    device = next(iter(mixture.base.values())).device
    table = torch.full((len(mixture.names), len(models)), initial, device=device)
    losses: list[float] = []
    with evaluation_of(module):
        for number, row in zip(range(steps), round_trip(batches), strict=False):
            table.requires_grad_(True)
            values = [
                loss(mixture.run(table, run, batch, task), batch) for task, batch in enumerate(row)
            ]
            total = torch.stack(values).mean()
            # By the chain rule <gradient, tau_i> of each tensor; <gradient, theta_0> is the same
            # for all models.
            (slopes,) = torch.autograd.grad(total, table)
            if choice == "model":
                slopes = slopes.sum(dim=0).expand_as(slopes)
            nearest = torch.nn.functional.one_hot(slopes.argmin(dim=1), len(models))
            share = 2.0 / (number + 2) if step is None else step
            table = (1.0 - share) * table.detach() + share * nearest.to(table)
            losses.append(float(total.detach()))
    return LearnedCoefficients(dict(zip(mixture.names, table.tolist(), strict=True)), losses)
