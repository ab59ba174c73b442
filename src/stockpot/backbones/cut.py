"""Split a network into a frozen trunk and a trained upper part that share its parameters."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from stockpot.errors import BackboneError


@dataclass
class Activations:
    """What crosses the cut.

    ``values`` is float (N, ...); for token sequences (N, L, D) with ``mask`` (N, L), 1 for tokens
    and 0 for the padding that follows them; without a mask all rows have the same shape.
    """

    values: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Cut:
    """``upper(trunk(batch))`` equals the whole; ``trainable`` names the parameters, ``buffers`` the
    buffers that only ``upper`` uses.
    """

    trunk: nn.Module
    upper: nn.Module
    trainable: frozenset[str]
    buffers: frozenset[str]


class _Stop(Exception):  # noqa: N818 - not an error: it ends a forward pass early
    def __init__(self, values: Tensor) -> None:
        self.values = values


class _Trunk(nn.Module):
    """Runs a network until the given module is called and returns what goes into that."""

    def __init__(self, network: nn.Module, run: Callable[[nn.Module, Any], Any], name: str) -> None:
        super().__init__()
        self.network = network
        self.run = run
        self.name = name

    def forward(self, batch: Any) -> Activations:
        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Stop(args[0] if args else kwargs["hidden_states"])

        handle = self.network.get_submodule(self.name).register_forward_pre_hook(
            stop, with_kwargs=True
        )
        try:
            self.run(self.network, batch)
        except _Stop as reached:
            mask = batch.get("attention_mask") if isinstance(batch, dict) else None
            return Activations(reached.values, mask)
        finally:
            handle.remove()
        raise BackboneError(f"module '{self.name}' is never called", hint="name another one")


class _Passthrough:
    """Stands for the embeddings' forward: the hidden states come in from outside already."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        raise BackboneError("no hidden states reached the embeddings")


class _StackUpper(nn.Module):
    def __init__(self, network: nn.Module, readout: Callable[[Any, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.readout = readout

    def forward(self, activations: Activations) -> Tensor:
        if activations.mask is None:
            output = self.network(pixel_values=activations.values)
        else:
            output = self.network(inputs_embeds=activations.values, attention_mask=activations.mask)
        return self.readout(output, activations.mask)


def find_stack(network: nn.Module, name: str) -> tuple[str, int] | None:
    """The layer list and index that ``name`` means: 'encoder.layer.4' -> ('encoder.layer', 4)."""
    parts = re.fullmatch(r"(.+)\.(\d+)", name)
    if parts is None or not isinstance(getattr(network, "embeddings", None), nn.Module):
        return None
    try:
        stack = network.get_submodule(parts[1])
    except AttributeError:
        return None
    index = int(parts[2])
    return (parts[1], index) if isinstance(stack, nn.ModuleList) and index < len(stack) else None


def cut_stack(
    network: nn.Module,
    stack: str,
    index: int,
    *,
    run: Callable[[nn.Module, Any], Any],
    readout: Callable[[Any, Tensor | None], Tensor],
    example: Any,
    inside: tuple[nn.Module, str] | None = None,
) -> Cut:
    """Cut a transformer before layer ``index`` of the module list ``stack``.

    ``run(network, batch)`` calls the whole network, ``readout(output, mask)`` makes its output a
    feature vector, ``example`` is a prepared batch. The upper part is the network itself with its
    layer list shortened and its embeddings passed through. ``inside``: a larger module, and the
    name under which it holds ``network``; then that module is cut, and ``run`` and ``readout`` are
    about it.
    """
    layers = network.get_submodule(stack)
    assert isinstance(layers, nn.ModuleList)
    truncated = _replaced(network, stack, nn.ModuleList(list(layers)[index:]))
    embeddings = copy.copy(network.get_submodule("embeddings"))
    embeddings.forward = _Passthrough()
    truncated = _replaced(truncated, "embeddings", embeddings)
    layer = f"{stack}.{index}"
    if inside is not None:
        network, place = inside
        truncated = _replaced(network, place, truncated)
        layer = f"{place}.{layer}"
    elif getattr(network, "pooler", None) is not None:
        truncated = _replaced(truncated, "pooler", None)
    parameters, buffers = _called_from(network, layer, run, example)
    upper = _StackUpper(truncated, readout)
    return Cut(_Trunk(network, run, layer), upper, parameters, buffers)


def _replaced(network: nn.Module, name: str, replacement: nn.Module | None) -> nn.Module:
    """A shallow copy with one module exchanged; everything else, parameters too, is shared."""
    twin = copy.copy(network)
    twin._modules = dict(network._modules)
    head, _, rest = name.partition(".")
    twin._modules[head] = (
        _replaced(network.get_submodule(head), rest, replacement) if rest else replacement
    )
    return twin


def _called_from(
    network: nn.Module, layer: str, run: Callable[[nn.Module, Any], Any], example: Any
) -> tuple[frozenset[str], frozenset[str]]:
    """Names of parameters and buffers of modules that are first called at ``layer`` or later."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: order.append(name))
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            run(network, example)
    finally:
        for handle in handles:
            handle.remove()
    start = order.index(layer)
    before, after = set(order[:start]), set(order[start:]) - set(order[:start])

    def trained(owner: str) -> bool:
        while owner and owner not in before and owner not in after:
            owner = owner.rpartition(".")[0]
        return owner in after

    def above(names: Iterable[str]) -> frozenset[str]:
        return frozenset(
            name
            for name in names
            if trained(name.rpartition(".")[0]) and name.partition(".")[0] != "pooler"
        )

    return above(n for n, _ in network.named_parameters()), above(
        n for n, _ in network.named_buffers()
    )


class _GraphTrunk(nn.Module):
    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, batch: Tensor) -> Activations:
        return Activations(self.graph(batch))


class _GraphUpper(nn.Module):
    def __init__(self, graph: nn.Module, readout: Callable[[Any, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.readout = readout

    def forward(self, activations: Activations) -> Tensor:
        return self.readout(self.graph(activations.values), None)


def cut_graph(
    network: nn.Module, name: str, *, readout: Callable[[Any, Tensor | None], Tensor]
) -> Cut:
    """Cut any traceable network (torch.fx) before the first operation inside module ``name``.

    Exactly one tensor must cross. Raises ``BackboneError``, naming modules where that holds, or
    where the network cannot be traced.
    """
    if name not in dict(network.named_modules()):
        raise BackboneError(
            f"freeze_below: the backbone has no module '{name}'",
            hint=f"modules: {_listed([n for n, _ in network.named_children()])}",
        )
    graph = _trace(network, name)
    nodes = list(graph.nodes)
    start = _first(nodes, name)
    if start is None:
        raise BackboneError(
            f"freeze_below: no operation happens inside '{name}'",
            hint=f"modules that can be named: {_listed(_alternatives(network, nodes))}",
        )
    crossing = _crossing(nodes, start)
    if len(crossing) != 1:
        raise BackboneError(
            f"freeze_below: {len(crossing)} values, not one tensor, go into '{name}' "
            f"({_listed([str(node) for node in crossing])})",
            hint=f"modules with one input: {_listed(_alternatives(network, nodes))}",
        )
    below, above = _halves(nodes, start, crossing[0])
    trunk, upper = _module(network, below), _module(network, above)
    frozen = {id(tensor) for tensor in (*trunk.parameters(), *trunk.buffers())}
    trained = {id(tensor) for tensor in (*upper.parameters(), *upper.buffers())} - frozen
    return Cut(
        _GraphTrunk(trunk),
        _GraphUpper(upper, readout),
        frozenset(n for n, parameter in network.named_parameters() if id(parameter) in trained),
        frozenset(n for n, buffer in network.named_buffers() if id(buffer) in trained),
    )


def _trace(network: nn.Module, name: str) -> fx.Graph:
    """Traced in evaluation mode: functional dropout inside the network stays off. Arguments after
    the first have their defaults: timm's transformers take a mask as well."""
    training = network.training
    network.eval()
    arguments = list(inspect.signature(network.forward).parameters.values())[1:]
    given = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
    try:
        return fx.Tracer().trace(network, concrete_args=given or None)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackboneError(
            f"freeze_below '{name}': torch.fx cannot follow this network: {reason}",
            hint="leave freeze_below out, or use a network without data-dependent branches",
        ) from error
    finally:
        network.train(training)


def _inside(node: fx.Node, name: str) -> bool:
    called = [str(node.target)] if node.op == "call_module" else []
    called += [key.removeprefix("L['self'].") for key in node.meta.get("nn_module_stack", {})]
    return any(one == name or one.startswith(f"{name}.") for one in called)


def _first(nodes: list[fx.Node], name: str) -> int | None:
    return next((i for i, node in enumerate(nodes) if _inside(node, name)), None)


def _crossing(nodes: list[fx.Node], start: int) -> list[fx.Node]:
    """Values computed before ``start`` and used from there on; parameters read do not count."""
    above = set(nodes[start:])
    return [
        node
        for node in nodes[:start]
        if node.op != "get_attr" and any(user in above for user in node.users)
    ]


def _alternatives(network: nn.Module, nodes: list[fx.Node]) -> list[str]:
    names = []
    for name, module in network.named_modules():
        if name and name.count(".") <= 1 and not isinstance(module, nn.ModuleList):
            start = _first(nodes, name)
            if start and len(_crossing(nodes, start)) == 1 and nodes[start - 1].op != "placeholder":
                names.append(name)
    return names


def _halves(nodes: list[fx.Node], start: int, crossing: fx.Node) -> tuple[fx.Graph, fx.Graph]:
    below, above = fx.Graph(), fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in nodes[:start]:
        made[node] = below.node_copy(node, lambda old: made[old])
    below.output(made[crossing])
    again: dict[fx.Node, fx.Node] = {crossing: above.placeholder("activations")}
    for node in nodes[:start]:
        if node.op == "get_attr":
            again[node] = above.node_copy(node)
    for node in nodes[start:]:
        again[node] = above.node_copy(node, lambda old: again[old])
    return below, above


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs ``graph`` and holds the network's own submodules under their own names."""
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _listed(names: list[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
