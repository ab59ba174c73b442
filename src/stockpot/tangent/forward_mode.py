"""Forward-mode differentiation: find out before training what cannot do it, and work around it.

PyTorch has no forward mode for some fused kernels (scaled-dot-product attention on CPU and CUDA,
the fast path of ``nn.MultiheadAttention``, oneDNN's LSTM). Each has a slower equivalent that has
it; those are switched on by themselves. Anything else is an error that names module and operator.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stockpot.errors import BackboneError

_LOG = logging.getLogger("stockpot")


@contextmanager
def _math_attention() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.MATH]):
        yield


@contextmanager
def _no_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _no_onednn() -> Iterator[None]:
    flags = torch.backends.mkldnn.flags(enabled=False)
    with warnings.catch_warnings():  # switching it mentions a setting of Intel GPUs
        warnings.simplefilter("ignore", UserWarning)
        flags.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            flags.__exit__(None, None, None)


class _PlainHardsigmoid(TorchFunctionMode):
    """relu6(x + 3) / 6, the definition of hardsigmoid, whose own derivative has no derivative."""

    _NAMES = ("hardsigmoid", "hardsigmoid_")

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in self._NAMES:
            return torch.nn.functional.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Workaround:
    """Another way to compute the same thing. ``pattern`` matches the operators it replaces."""

    name: str
    pattern: str
    said: str
    context: Callable[[], Any]


WORKAROUNDS = (
    Workaround(
        "math-attention",
        r"scaled_dot_product|flash_attention|efficient_attention|fused_attention",
        "attention is computed by PyTorch's math kernel",
        _math_attention,
    ),
    Workaround(
        "no-fast-path",
        r"transformer_encoder_layer_fwd|native_multi_head_attention",
        "the fused fast path of nn.MultiheadAttention and nn.TransformerEncoderLayer is off",
        _no_fast_path,
    ),
    Workaround(
        "no-onednn",
        r"mkldnn_rnn_layer",
        "recurrent layers are computed without oneDNN",
        _no_onednn,
    ),
    Workaround(
        "plain-hardsigmoid",
        r"hardsigmoid",
        "hardsigmoid is computed by its definition",
        _PlainHardsigmoid,
    ),
)

# What to do about operators that have no safe equivalent.
_ADVICE = (
    (r"embedding_bag", "use nn.Embedding and a mean over it"),
    (r"cdist", "write the distance as (a - b).square().sum(-1).sqrt()"),
    (r"weight_norm", "fold the weight norm first (torch.nn.utils.remove_weight_norm)"),
    (r"ctc_loss", "keep the loss out of the module"),
    (r"cudnn_rnn|lstm|gru", "write the layer as a loop over nn.LSTMCell or nn.GRUCell"),
    (r"batch_norm", "put the module in evaluation mode, or replace BatchNorm by GroupNorm"),
    (r"autograd\.Function|setup_context", "give the autograd.Function a `jvp` staticmethod"),
)
_OPERATOR = (
    r"forward AD with (\S+)",
    r"derivative for (\S+)",
    r"(?:operator|function) '?([\w:.]+)'?",
)


@contextmanager
def active(workarounds: tuple[str, ...]) -> Iterator[None]:
    """Compute with the named workarounds switched on."""
    with ExitStack() as stack:
        for workaround in WORKAROUNDS:
            if workaround.name in workarounds:
                stack.enter_context(workaround.context())
        yield


def find_workarounds(attempt: Callable[[], Any], module: nn.Module) -> tuple[str, ...]:
    """Run ``attempt`` until it succeeds, switching on what its errors ask for; returns the names.

    ``module`` is watched meanwhile, so that an error names the innermost module that raised it.
    Each workaround is said once in a process, as a warning of the logger ``stockpot``.
    Raises ``BackboneError`` naming module, operator and what to do.
    """
    _load_quietly()
    chosen: tuple[str, ...] = ()
    while True:
        with _watch(module) as inside:
            try:
                # A traced module prints the lines around an error before it raises it.
                with active(chosen), contextlib.redirect_stderr(io.StringIO()):
                    attempt()
            except (RuntimeError, NotImplementedError) as error:
                text, where = str(error), inside[-1] if inside else ""
            else:
                break
        more = _matching(text, chosen)
        if not more:
            raise _explained(text, where, module)
        chosen += more
    for workaround in WORKAROUNDS:
        if workaround.name in chosen:
            say(workaround.said)
    return chosen


@functools.cache
def say(text: str) -> None:
    """Once in a process."""
    _LOG.warning("%s, because the fused kernel has no forward-mode derivative", text)


@functools.cache
def _load_quietly() -> None:
    """The first forward-mode derivative makes PyTorch compile rules in a way it warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def _matching(text: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The next workaround an error asks for; without the fast path, attention falls back to SDPA,
    which then fails by itself and asks for the math kernel."""
    for workaround in WORKAROUNDS:
        if workaround.name not in chosen and re.search(workaround.pattern, text):
            return (workaround.name,)
    return ()


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that are being called, innermost last; left as it was on an error."""
    inside: list[str] = []
    handles = []
    for name, part in module.named_modules():

        def enter(_: nn.Module, args: Any, name: str = name) -> None:
            inside.append(name)

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            inside.pop()

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def _explained(text: str, where: str, module: nn.Module) -> BackboneError:
    kind = type(module.get_submodule(where)).__name__
    where = where.removeprefix("module").removeprefix(".")  # the wrapper's own name
    place = f"module '{where}' ({kind})" if where else "the model, or in the way back through it"
    found = (re.search(pattern, text) for pattern in _OPERATOR)
    operator = next((match[1].rstrip(".,") for match in found if match), None)
    advice = next((word for pattern, word in _ADVICE if re.search(pattern, text)), None)
    if advice is None and "inplace" in text.replace("-", ""):
        advice = "the module changes a buffer or an input in place; put it in evaluation mode"
    return BackboneError(
        f"forward-mode differentiation fails in {place}"
        + (f", operator {operator}" if operator else "")
        + f": {text.strip().splitlines()[0]}",
        hint=advice or "leave this module out of `parameters`, or linearise from a later block on",
    )
