"""Forward-mode derivatives as a graph: next to every value, how it changes along the deltas.

``torch.func.jvp`` does not survive ``torch.export``: what comes out can be silently wrong. Here a
graph of ATen operators becomes another one that computes f(x) + J f . delta with ordinary operators
only, by one rule for each operator (the chain rule on dual numbers). An operator without a rule is
refused by name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx import Proxy
from torch.nn import functional

from stockpot.errors import BackboneError

Values = Sequence[Any]
Rule = Callable[..., Any]
"""(operator, its result, its arguments, their changes or None, **its options) -> the change of the
result."""

LINEAR = frozenset(
    {
        "_to_copy",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "alias",
        "avg_pool1d",
        "avg_pool2d",
        "chunk",
        "clone",
        "contiguous",
        "cumsum",
        "dropout",
        "embedding",
        "expand",
        "flatten",
        "flip",
        "gather",
        "getitem",
        "index",
        "index_select",
        "mean",
        "movedim",
        "narrow",
        "neg",
        "permute",
        "pixel_shuffle",
        "repeat",
        "reshape",
        "roll",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "sum",
        "t",
        "to",
        "transpose",
        "unbind",
        "unsqueeze",
        "upsample_bilinear2d",
        "upsample_nearest2d",
    }
)
"""Operators that are linear in their first argument."""


def _product(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    left = None if dots[0] is None else op(dots[0], *args[1:])
    right = None if dots[1] is None else op(args[0], dots[1], *args[2:])
    return _plus(left, right)


def _affine(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    """``linear`` and convolutions: (input, weight, bias, ...)."""
    inputs, weight, more = args[0], args[1], args[3:]
    moved, weights, biases = _padded(dots, (None,) * 3)
    change = None if moved is None else op(moved, weight, None, *more)
    if weights is None and biases is None:
        return change
    weights = torch.zeros_like(weight) if weights is None else weights
    return _plus(change, op(inputs, weights, biases, *more))


def _addmm(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    product = _product(torch.matmul, out, args[1:3], dots[1:3])
    return _plus(_like(dots[0], out), product)


def _sum(sign: int) -> Rule:
    def rule(op: Any, out: Any, args: Values, dots: Values, alpha: float = 1) -> Any:
        second = None if dots[1] is None else sign * alpha * dots[1]
        return _plus(_like(dots[0], out), _like(second, out))

    return rule


def _quotient(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    top = None if dots[0] is None else dots[0] / args[1]
    return _plus(top, None if dots[1] is None else -out * dots[1] / args[1])


def _reshaped(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    """A view where the change lies otherwise in memory than the value."""
    return torch.reshape(dots[0], args[1])


def _joined(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    parts = [
        torch.zeros_like(value) if dot is None else dot
        for value, dot in zip(args[0], dots[0], strict=True)
    ]
    return op(parts, *args[1:])


def _where(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    zero = torch.zeros_like(out)
    return torch.where(args[0], *(zero if dot is None else dot for dot in dots[1:3]))


def _masked_fill(op: Any, out: Any, args: Values, dots: Values, **options: Any) -> Any:
    return torch.masked_fill(dots[0], args[1], 0.0)


def _pad(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    return functional.pad(dots[0], args[1])


def _softmax(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    return out * (dots[0] - (out * dots[0]).sum(args[1], keepdim=True))


def _log_softmax(op: Any, out: Any, args: Values, dots: Values, **options: Any) -> Any:
    return dots[0] - (out.exp() * dots[0]).sum(args[1], keepdim=True)


def _attention(op: Any, out: Any, args: Values, dots: Values, scale: Any = None) -> Any:
    """softmax(q k^T s + mask) v; a causal one is refused, its mask being no argument."""
    query, key, value, mask, _dropout, causal = _padded(args, (None,) * 4 + (0.0, False))
    if causal:
        raise BackboneError("a causal attention has no rule", hint="give it an attn_mask instead")
    scale = scale or query.node.meta["val"].shape[-1] ** -0.5
    scores = (query @ key.transpose(-2, -1)) * scale
    if mask is not None:
        scores = _masked(scores, mask)
    weights = scores.softmax(-1)
    inner = _plus(
        None if dots[0] is None else dots[0] @ key.transpose(-2, -1),
        None if dots[1] is None else query @ dots[1].transpose(-2, -1),
    )
    change = None if dots[2] is None else weights @ dots[2]
    if inner is None:
        return change
    moved = inner * scale
    moved = weights * (moved - (weights * moved).sum(-1, keepdim=True))
    return _plus(change, moved @ value)


def _masked(scores: Any, mask: Any) -> Any:
    if mask.node.meta["val"].dtype == torch.bool:
        return scores.masked_fill(mask.logical_not(), float("-inf"))
    return scores + mask


def _layer_norm(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    values, shape, weight, _bias, eps = _padded(args, (None, None, None, None, 1e-5))
    axes = tuple(range(-len(shape), 0))
    return _normalised(values, dots[0], axes, eps, weight, _padded(dots, (None,) * 4)[2:4])


def _group_norm(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    values, groups, weight, _bias, eps = _padded(args, (None, None, None, None, 1e-5))
    count = len(values.node.meta["val"].shape) - 2
    split = values.unflatten(1, (groups, -1))
    moved = None if dots[0] is None else dots[0].unflatten(1, (groups, -1))
    axes = tuple(range(2, count + 3))
    shape = (groups, -1, *[1] * count)
    of_shape = [
        None if v is None else v.view(shape) for v in (weight, *_padded(dots, (None,) * 4)[2:4])
    ]
    return _normalised(split, moved, axes, eps, of_shape[0], of_shape[1:]).flatten(1, 2)


def _normalised(
    values: Any, moved: Any, axes: tuple[int, ...], eps: float, weight: Any, dots: Sequence[Any]
) -> Any:
    """Change of ``weight * (x - mean) / sqrt(var + eps) + bias``."""
    rate = (values.var(axes, unbiased=False, keepdim=True) + eps).rsqrt()
    unit = (values - values.mean(axes, keepdim=True)) * rate
    change = None
    if moved is not None:
        centred = moved - moved.mean(axes, keepdim=True)
        change = (centred - unit * (unit * moved).mean(axes, keepdim=True)) * rate
        change = change if weight is None else change * weight
    change = _plus(change, None if dots[0] is None else unit * dots[0])
    return _plus(change, _like(dots[1], unit))


def _batch_norm(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    """In evaluation mode; the result is a tuple, as the operator's."""
    values, weight, mean, variance, eps = args[0], args[1], args[3], args[4], args[-1]
    shape = (1, -1, *[1] * (len(values.node.meta["val"].shape) - 2))
    rate = (variance + eps).rsqrt()
    scale = rate if weight is None else rate * weight
    change = None if dots[0] is None else dots[0] * scale.view(shape)
    if dots[1] is not None:
        change = _plus(change, (values - mean.view(shape)) * (rate * dots[1]).view(shape))
    shift = None if dots[2] is None else dots[2].view(shape)
    return (_plus(change, _like(shift, values)), None, None)


def _max_pool(op: Any, out: Any, args: Values, dots: Values, **_: Any) -> Any:
    indices = functional.max_pool2d(args[0], *args[1:], return_indices=True)[1]
    return dots[0].flatten(2).gather(2, indices.flatten(2)).view_as(out)


def _curve(slope: Callable[..., Any]) -> Rule:
    """An operator on single numbers; ``slope`` from its argument, its result and what follows."""

    def rule(op: Any, out: Any, args: Values, dots: Values, **options: Any) -> Any:
        return dots[0] * slope(args[0], out, *args[1:], **options)

    return rule


def _inside(values: Any, low: Any, high: Any) -> Any:
    inside: Any = True
    if low is not None:
        inside = values > low
    if high is not None:
        inside = (values < high) & inside if low is not None else values < high
    return inside.type_as(values)


def _gelu(values: Any, out: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        density = torch.exp(-0.5 * values * values) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(values / math.sqrt(2))) + values * density
    root = math.sqrt(2 / math.pi)
    curve = torch.tanh(root * (values + 0.044715 * values**3))
    inner = root * (1 + 3 * 0.044715 * values * values)
    return 0.5 * (1 + curve) + 0.5 * values * (1 - curve * curve) * inner


def _silu(values: Any, out: Any) -> Any:
    part = torch.sigmoid(values)
    return part * (1 + values * (1 - part))


def _hardswish(values: Any, out: Any) -> Any:
    return (values / 3 + 0.5) * _inside(values, -3, 3) + (values >= 3).type_as(values)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("mul", "matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _affine),
    "addmm": _addmm,
    "add": _sum(1),
    "sub": _sum(-1),
    "div": _quotient,
    **dict.fromkeys(("view", "_unsafe_view"), _reshaped),
    **dict.fromkeys(("cat", "stack"), _joined),
    "where": _where,
    "masked_fill": _masked_fill,
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d": _max_pool,
    "relu": _curve(lambda x, out: (x > 0).type_as(x)),
    "relu6": _curve(lambda x, out: _inside(x, 0, 6)),
    "hardtanh": _curve(lambda x, out, low=-1.0, high=1.0: _inside(x, low, high)),
    "clamp": _curve(lambda x, out, low=None, high=None: _inside(x, low, high)),
    "leaky_relu": _curve(lambda x, out, slope=0.01: torch.where(x > 0, 1.0, slope)),
    "gelu": _curve(_gelu),
    "silu": _curve(_silu),
    "hardswish": _curve(_hardswish),
    "hardsigmoid": _curve(lambda x, out: _inside(x, -3, 3) / 6),
    "sigmoid": _curve(lambda x, out: out * (1 - out)),
    "tanh": _curve(lambda x, out: 1 - out * out),
    "exp": _curve(lambda x, out: out),
    "log": _curve(lambda x, out: 1 / x),
    "sqrt": _curve(lambda x, out: 0.5 / out),
    "rsqrt": _curve(lambda x, out: -0.5 * out / x),
    "pow": _curve(lambda x, out, power: power * x ** (power - 1)),
}


def dual_graph(module: fx.GraphModule, tangents: Mapping[str, str]) -> fx.GraphModule:
    """``module`` with its derivative added: f(x) + J f . delta.

    ``module``: an exported graph of functional ATen operators with one result. ``tangents``: the
    name of a parameter there -> the name of its delta, which the caller registers on the result.
    Raises ``BackboneError`` naming an operator that a delta reaches and that has no rule.
    """
    graph = fx.Graph()
    graph.set_codegen(module.graph._codegen)  # how a batch becomes the graph's inputs
    tracer = fx.proxy.GraphAppendingTracer(graph)
    made: dict[fx.Node, tuple[Any, Any]] = {}

    def values(argument: Any, part: int) -> Any:
        if isinstance(argument, list | tuple):
            return [values(one, part) for one in argument]
        if isinstance(argument, fx.Node):
            return made[argument][part]
        return None if part else argument

    for node in module.graph.nodes:
        if node.op == "call_module":  # guards on the shapes of the example
            continue
        args, dots = values(node.args, 0), values(node.args, 1)
        if node.op == "output":
            (value,), (dot,) = args[0], dots[0]
            graph.output(((value if dot is None else value + dot).node,))
            continue
        if node.op == "call_function":
            kwargs = {name: values(value, 0) for name, value in node.kwargs.items()}
            value = _call(graph, tracer, node.target, args, kwargs, node.meta)
            dot = _change(graph, tracer, node.target, value, args, dots, kwargs)
            made[node] = value, dot
            continue
        copied = graph.node_copy(node)
        dot = None
        if node.op == "get_attr" and node.target in tangents:
            dot = Proxy(graph.get_attr(tangents[node.target]), tracer)
        made[node] = Proxy(copied, tracer), dot
    return fx.GraphModule(module, graph)


def _call(graph: Any, tracer: Any, target: Any, args: Any, kwargs: Any, meta: Any = None) -> Any:
    plain = fx.node.map_aggregate((tuple(args), kwargs), _node)
    node = graph.call_function(target, *plain)
    node.meta = dict(meta or {})
    return Proxy(node, tracer)


def _node(value: Any) -> Any:
    return value.node if isinstance(value, Proxy) else value


def _change(
    graph: Any, tracer: Any, target: Any, value: Any, args: Any, dots: Any, options: Any
) -> Any:
    """The change of what an operator gives; None where no delta reaches it."""
    if not any(dot is not None for dot in _flat(dots)):
        return None
    packet = getattr(target, "overloadpacket", target)
    name = getattr(packet, "__name__", str(packet))
    if target is operator.getitem and isinstance(dots[0], tuple):
        return dots[0][args[1]]
    if name == "detach":
        return None

    def op(*given: Any) -> Any:
        return _call(graph, tracer, target, given, options)

    if name in LINEAR and all(dot is None for dot in _flat(dots[1:])):
        return op(dots[0], *args[1:])
    if name not in RULES:
        raise BackboneError(
            f"the linearised model cannot be deployed: operator '{target}' has no rule",
            hint="linearise from a later block on, or write this part with other operators",
        )
    return RULES[name](op, value, args, dots, **options)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, list):
        return [one for value in values for one in _flat(value)]
    return [values]


def _padded(values: Values, defaults: Values) -> list[Any]:
    """As many as there are defaults, which stand for those that are missing."""
    return [*values, *defaults[len(values) :]][: len(defaults)]


def _plus(one: Any, two: Any) -> Any:
    if one is None or two is None:
        return two if one is None else one
    return one + two


def _like(change: Any, out: Any) -> Any:
    """With the shape of the result: what was broadcast there changes everywhere."""
    return None if change is None else change.expand_as(out)
