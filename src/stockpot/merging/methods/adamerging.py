"""AdaMerging: task arithmetic with coefficients that make predictions on unlabelled data certain.

Two steps: ``learn_coefficients`` (needs torch, a module and unlabelled batches) writes one small
file a model; the method ``adamerging`` merges with them, streaming, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from stockpot.extras import require
from stockpot.merging.method import Array, Block, Real, merge_method, sum_arrays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stockpot.merging.methods._learning import LearnedCoefficients, Predict


@merge_method(
    "adamerging",
    title="AdaMerging",
    formula="theta_0 + sum_i c_i tau_i, c: learnt for each tensor and model",
    source="Yang et al. 2024, AdaMerging, arXiv 2310.02575",
    base="required",
    extras=("coefficients",),
    parameters=(Real("scale", 0.3, help="coefficient of tensors that none was learnt for"),),
)
def adamerging(block: Block, *, scale: float) -> Array:
    deltas = block.deltas
    for model, delta in enumerate(deltas):
        learnt = block.extra("coefficients", model)
        delta *= scale if learnt is None else float(block.xp.reshape(learnt, (-1,))[0])
    total = sum_arrays(deltas)
    total += block.base
    return total


def learn_coefficients(
    module: nn.Module,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    batches: Sequence[Iterable[Any]],
    *,
    predict: Predict | None = None,
    granularity: Literal["tensor", "model"] = "tensor",
    initial: float = 0.3,
    steps: int = 500,
    rate: float = 1e-3,
) -> LearnedCoefficients:
    """Coefficients that minimise the entropy of the merged model's predictions (AdaMerging).

    Args:
        module: the architecture; outputs logits (N, classes).
        base, models: states named as the module's parameters.
        batches: for each task, re-iterable batches of unlabelled inputs. The method is transductive
            when these are the test inputs.
        predict: ``(module, batch, task number) -> logits``, for instance with a head for each task.
        granularity: a coefficient for each tensor and model, or one for each model.
        initial, steps, rate: start, and steps and rate of Adam, as in the paper.

    Raises ``MissingDependencyError`` without torch, ``InputError`` for states that do not fit.
    """
    require("torch", "AdaMerging")
    import torch

    from stockpot.merging.methods._learning import Mixture, learn, plain_predict

    mixture = Mixture(module, base, models)
    run = predict or plain_predict
    device = next(iter(mixture.base.values())).device
    shape = (len(mixture.names), len(models)) if granularity == "tensor" else (len(models),)
    start = torch.full(shape, initial, device=device)

    def entropy(coefficients: Tensor, row: list[Any]) -> Tensor:
        total = torch.zeros((), device=device)
        for task, batch in enumerate(row):
            logits = mixture.run(coefficients, run, batch, task).float()
            surprise = -torch.log_softmax(logits, dim=-1)
            total = total + (surprise * torch.softmax(logits, dim=-1)).sum(-1).mean()
        return total

    return learn(
        mixture,
        start,
        lambda unknown: unknown,
        entropy,
        batches,
        steps=steps,
        rate=rate,
        optimizer="adam",
    )
