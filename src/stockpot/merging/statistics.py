"""Statistics of a model on data, for the merge methods that weigh by them (Fisher, RegMean).

Collected once for each model, saved as a safetensors file beside it, and read by ``merge``.
Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stockpot.checkpoints import write_checkpoint
from stockpot.errors import InputError
from stockpot.extras import require

if TYPE_CHECKING:
    from torch import Tensor, nn


def fisher_information(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    predict: Callable[[nn.Module, Any], Tensor] | None = None,
    labels: Callable[[Any], Tensor] | None = None,
    estimate: Literal["exact", "sampled", "labels"] = "sampled",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Diagonal of the Fisher information of a classifier: ``E_x E_y (d log p(y|x) / d theta)^2``.

    Args:
        module: the model; its trainable parameters are measured, in evaluation mode. batches:
            inputs. predict: ``(module, batch) -> logits (N, classes)``; ``module(batch)`` by
            default. labels: ``batch -> (N,)`` class numbers, for ``estimate="labels"``. estimate:
            the expectation over y taken over all classes ("exact", one backward pass a class), from
            one label drawn from the model's prediction ("sampled", unbiased), or with the true
            labels ("labels", the empirical Fisher).
        seed: of the drawn labels.

    Returns a float32 array for each trainable parameter, of its shape.
    Source: Matena and Raffel 2022, arXiv 2111.09832.
    Raises ``InputError`` where there is no data.
    """
    torch = _torch("Fisher information")
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    sums = {
        name: torch.zeros_like(p, dtype=torch.float64, device="cpu")
        for name, p in parameters.items()
    }
    run = predict or (lambda model, batch: model(batch))
    if estimate == "labels" and labels is None:
        raise InputError("estimate='labels' needs the function 'labels'")
    examples = 0
    with _evaluation(module):
        for batch in batches:
            logits = run(module, batch)
            log_p = torch.log_softmax(logits.double(), dim=-1)
            given = labels(batch) if estimate == "labels" and labels is not None else None
            for row in range(len(log_p)):
                p = log_p[row].detach().exp()
                if estimate == "exact":
                    draws = [(label, float(p[label])) for label in range(len(p))]
                elif given is not None:
                    draws = [(int(given[row]), 1.0)]
                else:
                    draws = [(int(torch.multinomial(p.cpu(), 1, generator=generator)), 1.0)]
                for label, weight in draws:
                    slopes = torch.autograd.grad(
                        log_p[row, label],
                        list(parameters.values()),
                        retain_graph=True,
                        allow_unused=True,
                    )
                    for name, slope in zip(parameters, slopes, strict=True):
                        if slope is not None:
                            sums[name] += slope.float().square().mul_(weight).cpu()
            examples += len(log_p)
    _some(examples)
    return {name: (total / examples).float().numpy() for name, total in sums.items()}


def input_grams(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    predict: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, np.ndarray]:
    """``X^T X / N`` of the inputs X (N, in) of every linear and (ungrouped) 2-D convolutional
    layer.

    Named as the layer's weight (out, in); float32, shape (in, in). For a convolution an input is a
    patch, in = channels x height x width. Needs in x in numbers for each layer.
    Source: Jin et al. 2023, arXiv 2212.09849.
    Raises ``InputError`` where no such layer was run.
    """
    torch = _torch("RegMean statistics")
    run = predict or (lambda model, batch: model(batch))
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(layer: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach()
            if isinstance(layer, torch.nn.Conv2d):
                padding = layer.padding
                if isinstance(padding, str):
                    edges = layer._reversed_padding_repeated_twice
                    x, padding = torch.nn.functional.pad(x, edges), (0, 0)
                x = torch.nn.functional.unfold(
                    x, layer.kernel_size, layer.dilation, padding, layer.stride
                )
                x = x.transpose(1, 2)
            x = x.reshape(-1, x.shape[-1]).double()
            sums[name] = sums.get(name, 0) + (x.T @ x).cpu()
            counts[name] = counts.get(name, 0) + len(x)

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(f"{name}.weight" if name else "weight"))
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
        or (isinstance(layer, torch.nn.Conv2d) and layer.groups == 1)
    ]
    try:
        with _evaluation(module), torch.no_grad():
            for batch in batches:
                run(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    _some(len(sums))
    return {name: (total / counts[name]).float().numpy() for name, total in sums.items()}


def save_statistics(path: Path, statistics: Mapping[str, np.ndarray], kind: str) -> None:
    """Write statistics as one safetensors file that ``merge`` reads; kind: "fisher" or "gram"."""
    write_checkpoint(path, statistics, {"statistics": kind})


class _evaluation:  # noqa: N801 - used as a function
    """The module in evaluation mode for a while."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.training = self.module.training
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.train(self.training)


def _torch(purpose: str) -> Any:
    require("torch", purpose)
    import torch

    return torch


def _some(count: int) -> None:
    if not count:
        raise InputError(
            "no statistics were collected: there was no data, or no layer of a known kind ran",
            hint="give at least one batch",
        )
