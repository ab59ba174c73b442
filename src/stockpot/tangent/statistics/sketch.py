"""Per-example gradients of a network, sketched to a fixed length.

For an example x, directions u_1..u_J and the pooled features z(x; theta) of a network with
parameters theta (P numbers in all),

    g_j(x) = d <u_j, z(x; theta)> / d theta,          phi(x)[h_j(p)] += s_j(p) * g_j(x)[p]

summed over p and j: a CountSketch (Charikar, Chen and Farach-Colton 2002) with its own hash h_j and
signs s_j for every direction, so that E <phi(x), phi(x')> = sum_j <g_j(x), g_j(x')>, the empirical
tangent kernel seen from J random directions (TRAK, Park et al. 2023, sketches gradients likewise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from stockpot.backbones import Activations
from stockpot.errors import InputError
from stockpot.tasks import named_generator

_ROWS = 16  # examples whose gradients are held at a time: 16 * P * J numbers


class TangentSketch:
    """Maps batches to sketched gradients, float64 (N, dimension), each example on its own.

    ``network`` takes what ``Feed.batch`` gives and returns features (N, d); its parameters with
    ``requires_grad`` are theta. Directions are drawn from N(0, I) / sqrt(d), hashes and signs
    uniformly, all by ``seed`` and the number of the direction alone: equal arguments give equal
    features on every machine, up to its arithmetic. A hash is a 32-bit number modulo the dimension,
    so that for powers of two the sketch of half the dimension is the sum of the two halves.

    Raises ``InputError`` for a size below 1 or a network without trainable parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_dim: int,
        *,
        dimension: int,
        directions: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        if dimension < 1 or directions < 1:
            raise InputError(f"a sketch needs sizes of 1 or more, got {dimension} x {directions}")
        self.network = network
        self.dimension = dimension
        self.device = device or torch.device("cpu")
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._names = [name for name, p in network.named_parameters() if p.requires_grad]
        size = sum(parameter.numel() for parameter in self._parameters)
        if size == 0:
            raise InputError("a tangent sketch needs trainable parameters, the network has none")
        draws = [named_generator(seed, "tangent sketch", j) for j in range(directions)]
        self.directions = torch.stack(
            [torch.from_numpy(draw.standard_normal(feature_dim)) for draw in draws]
        ).to(self.device, torch.float32) / (feature_dim**0.5)
        self._buckets = [
            torch.from_numpy(draw.integers(2**32, size=size) % dimension).to(self.device)
            for draw in draws
        ]
        self._signs = [
            torch.from_numpy(draw.integers(2, size=size) * 2 - 1).to(self.device, torch.float32)
            for draw in draws
        ]
        self._vectorised = True

    def __call__(self, batch: Any) -> Tensor:
        """Features float64 (N, dimension) of a batch; the network is not changed."""
        return in_groups(batch, lambda few: self._few(_inputs(few), type(batch)))

    def _few(self, rows: Mapping[str, Tensor], kind: type) -> Tensor:
        if self._vectorised:
            try:
                return self._sketch(self._gradients(rows, kind))
            except RuntimeError as error:
                # Attention masks are inspected with `.all()`, which vmap cannot follow.
                if "vmap" not in str(error):
                    raise
                self._vectorised = False
        return torch.cat(
            [self._sketch(self._gradients_of_one(one, kind)) for one in _singles(rows)]
        )

    def _gradients(self, rows: Mapping[str, Tensor], kind: type) -> Tensor:
        """(N, J, P), all examples at once."""
        fixed = dict(zip(self._names, (p.detach() for p in self._parameters), strict=True))

        def one(row: Mapping[str, Tensor]) -> Tensor:
            single = {name: each[None] for name, each in row.items()}

            def features(parameters: dict[str, Tensor]) -> Tensor:
                found: Tensor = functional_call(self.network, parameters, (_batch(single, kind),))
                return found[0]

            pull = vjp(features, fixed)[1]
            (gradients,) = vmap(pull)(self.directions)
            return torch.cat([each.flatten(1) for each in gradients.values()], 1)

        return vmap(one)(rows)

    def _gradients_of_one(self, row: Mapping[str, Tensor], kind: type) -> Tensor:
        """(1, J, P) for what cannot be vectorised."""
        features = self.network(_batch(row, kind))[0]
        found = []
        for index, direction in enumerate(self.directions):
            again = index + 1 < len(self.directions)
            gradients = torch.autograd.grad(
                features @ direction, self._parameters, retain_graph=again, materialize_grads=True
            )
            found.append(torch.cat([each.flatten() for each in gradients]))
        return torch.stack(found)[None]

    def _sketch(self, gradients: Tensor) -> Tensor:
        """(N, J, P) -> (N, dimension), summed in float64."""
        total = torch.zeros(
            len(gradients), self.dimension, dtype=torch.float64, device=gradients.device
        )
        for j, (buckets, signs) in enumerate(zip(self._buckets, self._signs, strict=True)):
            part = torch.zeros(len(gradients), self.dimension, device=gradients.device)
            part.index_add_(1, buckets, gradients[:, j] * signs)
            total += part
        return total


def in_groups(batch: Any, function: Callable[[Any], Tensor]) -> Tensor:
    """``function`` of a batch, (N, D), a fixed number of rows at a time.

    Kernels choose their order of summation by the shape: so no row's result depends on how many
    rows came with it.
    """
    inputs = _inputs(batch)
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, _ROWS):
        few = {name: one[_rows(start, count, one.device)] for name, one in inputs.items()}
        parts.append(function(_batch(few, type(batch)))[: count - start])
    return torch.cat(parts)


def one_by_one(batch: Any, function: Callable[[Any], Tensor]) -> Tensor:
    """As :func:`in_groups`, and rows with a mask alone and without their padding."""
    inputs, kind = _inputs(batch), type(batch)
    if _mask(inputs) is None:
        return in_groups(batch, function)
    return torch.cat([function(_batch(single, kind)) for single in _singles(inputs)])


def _rows(start: int, count: int, device: torch.device) -> Tensor:
    return torch.arange(start, start + _ROWS, device=device).clamp(max=count - 1)


def _inputs(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by name, examples first."""
    if isinstance(batch, Activations):
        found = {"values": batch.values}
        return found if batch.mask is None else {**found, "mask": batch.mask}
    return dict(batch) if isinstance(batch, Mapping) else {"": batch}


def _batch(inputs: Mapping[str, Tensor], kind: type) -> Any:
    """The reverse of :func:`_inputs`."""
    if kind is Activations:
        return Activations(inputs["values"], inputs.get("mask"))
    return inputs[""] if "" in inputs else dict(inputs)


def _singles(rows: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """One example at a time, without its padding: then no other example can touch its rounding."""
    mask = _mask(rows)
    for i in range(len(next(iter(rows.values())))):
        length = None if mask is None else int(mask[i].sum())
        yield {name: each[i : i + 1, :length] for name, each in rows.items()}


def _mask(rows: Mapping[str, Tensor]) -> Tensor | None:
    return rows.get("mask", rows.get("attention_mask"))
