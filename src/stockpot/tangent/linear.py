"""A model, linearised around its weights (Liu & Soatto, ICCV 2023, equation 1).

    f(x; delta) = f(x; theta) + J_theta f(x; theta) . delta

One forward-mode pass (``torch.func.jvp``) gives both terms, so a sum of any number of components
costs what one costs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from stockpot.backbones import Activations
from stockpot.backbones.names import check_shape
from stockpot.errors import InputError
from stockpot.tangent import forward_mode
from stockpot.tangent.halves import Halves, split_module
from stockpot.tangent.probing import Function, describe_function, refuse_random, same_numbers

Precision = Literal["float64", "float32", "bfloat16", "float16"]
Delta = Mapping[str, Tensor]


class TangentModel:
    """A module with tangents on some of its parameters; its weights and buffers never change.

    ``parameters``: "all" (default), or names with ``*``. ``from_block``: linearise from this module
    on; what runs before it is the trunk, whose result can be kept (``trunk``). ``head``: the name
    of the last layer, by default found. ``precision``: the type computed in; a module of another
    type is copied and converted, and in 16 bits the sum of both terms is float32. ``example``: a
    batch, which cutting a Hugging Face model with a head of its own needs.

    The module goes into evaluation mode and stays there: BatchNorm with the base's statistics, no
    dropout. ``notes`` says which kernels had to be replaced (see ``forward_mode``).

    Raises ``BackboneError`` for a module that cannot be cut or differentiated, ``InputError`` for a
    pattern that matches no parameter.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        parameters: str | Sequence[str] = "all",
        from_block: str | None = None,
        head: str | None = None,
        precision: Precision = "float32",
        example: Any = None,
    ) -> None:
        self.precision = precision
        self.dtype: torch.dtype = getattr(torch, precision)
        split = partial(
            split_module, parameters=parameters, from_block=from_block, head=head, example=example
        )
        self._halves = split(module)
        self._original, self._functions = module, dict[tuple[int, ...], Function]()
        self._shape = _shape_of(example)
        self.base_digest, self.head_digest = _digests(self._halves)
        kinds = {p.dtype for p in module.parameters()}
        if kinds - {self.dtype}:
            module = copy.deepcopy(module).to(self.dtype)
            cast = _cast(example, next(module.parameters()).device, self.dtype)
            split = partial(split, example=cast)
            self._halves = split(module)
        self._split = split
        module.eval()
        self._upper = self._halves.upper
        self._bind()
        self.notes: tuple[str, ...] = ()
        self._workarounds: tuple[str, ...] | None = None

    def _bind(self) -> None:
        """Views of the weights that take no gradient: the module's own flags stay as they are."""
        self._weights = {n: p.detach() for n, p in self._upper.named_parameters()}
        parts = [self._upper] if self._halves.trunk is None else [self._halves.trunk, self._upper]
        self._modules = list({id(m): m for part in parts for m in part.modules()}.values())

    @property
    def module(self) -> nn.Module:
        """The module, in evaluation mode."""
        return self._halves.module

    @property
    def upper(self) -> nn.Module:
        """What is linearised: takes activations at the cut, or a batch where there is no cut."""
        return self._upper

    @property
    def has_trunk(self) -> bool:
        """Whether something runs before the linearised part."""
        return self._halves.trunk is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that have a tangent, in the module's order."""
        return tuple(self._halves.names)

    @property
    def head(self) -> str:
        """The prefix of the head's names, such as "head."."""
        return self._halves.head

    @property
    def weights(self) -> dict[str, Tensor]:
        """The base's values of the parameters that have a tangent (views; do not change them)."""
        return {name: self._weights[path] for name, path in self._halves.names.items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """The module's own parameters that have a tangent."""
        inside = dict(self._upper.named_parameters())
        return {name: inside[path] for name, path in self._halves.names.items()}

    @cached_property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next(iter(self._weights.values())).device

    @property
    def function(self) -> Function:
        """What the base computes, see ``probing``: components are bound to it."""
        return self.function_at(self._shape)

    def function_at(self, shape: Sequence[int] = ()) -> Function:
        """The same, for inputs of a ``shape`` that somebody else's description names."""
        key = tuple(shape) or self._shape
        if key not in self._functions:
            self._functions[key] = describe_function(self._original, key)
        return self._functions[key]

    def to(self, device: str | torch.device) -> TangentModel:
        """Move module and trunk to ``device``; returns itself."""
        self.module.to(device)
        self._upper.to(device)
        if self._halves.trunk is not None:
            self._halves.trunk.to(device)
        self._bind()
        self.__dict__.pop("device", None)
        return self

    def widened(self) -> TangentModel:
        """The same on a float64 copy of the module."""
        return TangentModel(self.module, precision="float64", **self._split.keywords)

    def zeros(self) -> dict[str, Tensor]:
        """A delta of zeros, float32 (float64 under that precision), with the weights' strides."""
        kind = torch.float64 if self.dtype == torch.float64 else torch.float32
        return {name: torch.zeros_like(w, dtype=kind) for name, w in self.weights.items()}

    def prepare(self, delta: Delta) -> dict[str, Tensor]:
        """``delta`` checked, on the model's device and with the weights' strides.

        Names it lacks are zero. Raises ``InputError`` for a name without a tangent,
        ``BackboneError`` for another shape.
        """
        made, weights = self.zeros(), self.weights
        for name, tensor in delta.items():
            if name not in made:
                raise InputError(
                    f"the linearised model has no tangent for '{name}'",
                    hint="build it with the same `parameters` and `from_block`",
                )
            check_shape(name, tensor, weights[name], "delta")
            made[name].copy_(tensor)
        return made

    @torch.no_grad()
    def trunk(self, inputs: Any) -> Any:
        """Activations at the cut; ``inputs`` themselves where there is no cut."""
        if self._halves.trunk is None or isinstance(inputs, Activations):
            return inputs
        return self._halves.trunk(self._cast(inputs))

    @torch.no_grad()
    def native(self, inputs: Any) -> Tensor:
        """f(x; theta), the base's own outputs (N, C). Takes inputs, or activations at the cut."""
        output: Tensor = self._upper(self._cast(self.trunk(inputs)))
        return self._widen(output)

    def functional(self, parameters: Delta, inputs: Any) -> Tensor:
        """f(x; parameters), (N, C): ``parameters`` replace the base's (names as in ``names``).

        For derivatives of any kind by ``torch.func``; ``inputs`` are inputs or activations.
        """
        paths = self._halves.names
        weights = self._weights | {paths[name]: value for name, value in parameters.items()}
        crossing = self._cast(self.trunk(inputs))
        output: Tensor = functional_call(self._upper, weights, (crossing,))
        return output

    def forward(self, inputs: Any, delta: Delta) -> Tensor:
        """f(x; theta) + J f . delta, (N, C), float32 or wider.

        ``inputs``: what the module takes, or activations at the cut. ``delta``: tensors by name;
        missing ones count as zero. Differentiable with respect to ``delta``.
        Raises ``InputError`` for a name without a tangent.
        """
        output, change = self.terms(inputs, delta)
        return output + change

    __call__ = forward

    def terms(self, inputs: Any, delta: Delta) -> tuple[Tensor, Tensor]:
        """The two terms of ``forward``: f(x; theta) and J f . delta, each (N, C)."""
        unknown = [name for name in delta if name not in self._halves.names]
        if unknown:
            raise InputError(
                f"the linearised model has no tangent for '{unknown[0]}'",
                hint="build it with the same `parameters` and `from_block`",
            )
        crossing = self._cast(self.trunk(inputs))
        if not delta:
            output = self.native(crossing)
            return output, torch.zeros_like(output)
        if self._workarounds is None:
            self.probe(crossing)
        assert self._workarounds is not None
        with forward_mode.active(self._workarounds):
            output, change = self._jvp(crossing, delta)
        return self._widen(output), self._widen(change)

    def probe(self, inputs: Any) -> tuple[str, ...]:
        """Differentiate two rows forwards and then backwards, as training will; returns ``notes``.

        Runs once by itself at the first ``forward``. Raises ``BackboneError`` naming module and
        operator where that is not possible, and for outputs that differ from one run to the next.
        """
        rows = _first_rows(inputs, 2)
        self._shape = self._shape or _shape_of(inputs)
        refuse_random(lambda: self.native(rows), "the forward pass")
        crossing = self._cast(self.trunk(rows))

        def attempt() -> None:
            delta = {n: t.requires_grad_() for n, t in self.zeros().items()}
            _, change = self._jvp(crossing, delta)
            if change.requires_grad:
                torch.autograd.grad(change.sum(), list(delta.values()), allow_unused=True)

        with torch.enable_grad():
            self._workarounds = forward_mode.find_workarounds(attempt, self._upper)
        self.notes = tuple(w.said for w in forward_mode.WORKAROUNDS if w.name in self._workarounds)
        return self.notes

    def _jvp(self, crossing: Any, delta: Delta) -> tuple[Tensor, Tensor]:
        paths = self._halves.names
        tangents = {paths[n]: t.to(self.device, self.dtype) for n, t in delta.items()}
        primals = {path: self._weights[path] for path in tangents}
        constant = {path: w for path, w in self._weights.items() if path not in tangents}

        def function(moving: dict[str, Tensor]) -> Tensor:
            output: Tensor = functional_call(self._upper, constant | moving, (crossing,))
            return output

        found: tuple[Tensor, Tensor] = jvp(function, (primals,), (tangents,))  # type: ignore[assignment]
        return found

    def _cast(self, inputs: Any) -> Any:
        """Floating inputs on the model's device, in the type it computes in.

        The module may have been put into training mode since; its BatchNorm would change.
        """
        for module in self._modules:
            module.training = False
        return _cast(inputs, self.device, self.dtype)

    def _widen(self, output: Tensor) -> Tensor:
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def _digests(halves: Halves) -> tuple[str, str]:
    """Digests of the base without its head, and of the head, by their numbers."""
    head = {n: t for n, t in halves.state.items() if n.startswith(halves.head)}
    base = {n.removeprefix("featurizer."): t for n, t in halves.state.items() if n not in head}
    return same_numbers(base), same_numbers(
        {n.removeprefix(halves.head): t for n, t in head.items()}
    )


def _cast(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Activations):
        values = _cast(inputs.values, device, dtype)
        return replace(inputs, values=values, mask=_cast(inputs.mask, device, dtype))
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype)
    if isinstance(inputs, Mapping):
        return {name: _cast(value, device, dtype) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_cast(value, device, dtype) for value in inputs)
    return inputs


def _shape_of(inputs: Any) -> tuple[int, ...]:
    """Shape of one input, where inputs are a tensor of floats."""
    known = isinstance(inputs, Tensor) and inputs.is_floating_point()
    return tuple(inputs.shape[1:]) if known else ()


def _first_rows(inputs: Any, count: int) -> Any:
    """The first rows of a batch of any kind."""
    if isinstance(inputs, Activations):
        mask = None if inputs.mask is None else inputs.mask[:count]
        return Activations(inputs.values[:count], mask)
    if isinstance(inputs, Tensor):
        return inputs[:count]
    if isinstance(inputs, Mapping):
        return {name: _first_rows(value, count) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_first_rows(value, count) for value in inputs)
    return inputs
