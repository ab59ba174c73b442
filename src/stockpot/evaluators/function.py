"""An evaluator that is a function of Python, on a state or on a live module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.memory import torch_tensor
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import (
    LOSS,
    SCORE,
    Evaluator,
    Rows,
    Scores,
    changing,
    checked,
    named_metric,
)
from stockpot.evaluators.identity import UnknownContentError, live_identity
from stockpot.files import digest


class FunctionEvaluator(Evaluator):
    """``function(model)`` or ``function(model, rows)``: scores of the rows, or one number.

    The model is a state: names -> torch tensors where the checkpoints were such states, else numpy
    arrays (float32 for bfloat16). With ``module`` (a torch module) it is that module, whose
    parameters were overwritten in place and which is in evaluation mode. ``rows`` are the numbers
    of the rows to score, (N,); ``size``: how many rows there are.

    ``gradient``: called with the same, gives how the mean of the scores changes with each tensor,
    names -> arrays: coefficients are learnt by it then.

    ``identity``: hash of all that the scores depend on; by default of the function's code, closure
    and globals. ``beside``: entered while the function runs.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        module: Any = None,
        size: int | None = None,
        lower_is_better: bool = False,
        metric: str | None = None,
        identity: str | None = None,
        gradient: Callable[..., Any] | None = None,
        beside: AbstractContextManager[object] | None = None,
    ) -> None:
        named = named_metric(metric, lower_is_better=lower_is_better)
        self._function = function
        self._module = module
        self._series: object = None
        self.label = getattr(function, "__qualname__", type(function).__name__)
        self.metric, self._lower = named.name, not named.higher_is_better
        self.takes_rows = _takes_rows(function)
        self.size = size
        self._gradient = gradient
        if gradient is not None and _takes_rows(gradient) != self.takes_rows:
            raise InputError("function and gradient take the same arguments")
        self.differentiable = gradient is not None
        self._beside = beside or nullcontext()
        if identity is None:
            identity = self._known(function)
        self.identity = digest(["function", identity, self.metric])

    def _known(self, function: Callable[..., Any]) -> str:
        """Hash of a live function; where there is none, ``unknown`` says why."""
        try:
            if self._module is not None:
                raise UnknownContentError("the module is a live object")
            return live_identity(function)
        except UnknownContentError as error:
            self.unknown = str(error)
            return self.label

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Call the function. Whatever it raises is an ``EvaluationError``."""
        if self.takes_rows and rows is None and self.size is not None:
            rows = np.arange(self.size)
        values = self._called(self._function, model, rows)
        count = self.size if rows is None else len(rows)
        return checked(_plain(values), LOSS if self._lower else SCORE, count)

    def gradient(self, model: Checkpoint, rows: Rows | None = None) -> Mapping[str, Any]:
        """Call the gradient's function."""
        if self._gradient is None:
            return super().gradient(model, rows)
        given: Mapping[str, Any] = self._called(self._gradient, model, rows, grad=True)
        return {name: _plain(value) for name, value in given.items()}

    def _called(
        self, function: Callable[..., Any], model: Checkpoint, rows: Rows | None, grad: bool = False
    ) -> Any:
        subject = self._subject(model)
        arguments = (subject, rows) if self.takes_rows else (subject,)
        try:
            with self._beside:
                if self._module is None or grad:
                    return function(*arguments)
                import torch

                with torch.no_grad():
                    return function(*arguments)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EvaluationError(f"{self.label}: {type(error).__name__}: {reason}") from error

    def _subject(self, model: Checkpoint) -> Any:
        if self._module is None:
            return state_of(model)
        load_in_place(self._module, model, changing(model, self._series))
        self._series = getattr(model, "series", None)
        return self._module


def _plain(values: Any) -> Any:
    """An array in place of a torch tensor."""
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def state_of(model: Checkpoint) -> dict[str, Any]:
    """All tensors of a model, the caller's to change: as torch tensors where it says so
    (``as_torch``), else as arrays."""
    if not getattr(model, "as_torch", False):
        return {name: np.array(model.read(name)) for name in model.names}
    return {name: _tensor(model, name).clone() for name in model.names}


def load_in_place(module: Any, model: Checkpoint, names: Iterable[str]) -> None:
    """Overwrite the tensors of a torch module with those of a model; it is in evaluation mode then.

    Raises ``InputError`` naming a tensor that the module lacks, or has in another shape.
    """
    import torch

    own = {**dict(module.named_buffers()), **module.state_dict(keep_vars=True)}
    with torch.no_grad():
        for name in names:
            if name not in own or tuple(own[name].shape) != model.info(name).shape:
                raise InputError(
                    f"the module has no tensor '{name}' of shape {list(model.info(name).shape)}",
                    hint="give the module that the checkpoints are of",
                )
            own[name].copy_(_tensor(model, name))
    module.eval()


def _tensor(model: Checkpoint, name: str) -> Any:
    info = model.info(name)
    stored = model.raw(name)
    return torch_tensor(stored if stored.flags.writeable else stored.copy(), info.dtype).reshape(
        info.shape
    )


def _takes_rows(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    if not 1 <= len(needed) <= 2:
        raise InputError(
            f"an evaluator takes (model) or (model, rows), not {len(needed)} arguments"
        )
    return len(needed) == 2
