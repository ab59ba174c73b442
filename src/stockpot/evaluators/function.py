"""An evaluator that is a function of Python, on a state or on a live module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.memory import torch_tensor
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import LOSS, SCORE, Evaluator, Rows, Scores, changing, checked
from stockpot.files import digest, file_digest


class FunctionEvaluator(Evaluator):
    """``function(model)`` or ``function(model, rows)``: scores of the rows, or one number.

    The model is a state: names -> torch tensors where the checkpoints were such states, else numpy
    arrays (float32 for bfloat16). With ``module`` (a torch module) it is that module, whose
    parameters were overwritten in place and which is in evaluation mode. ``rows`` are the numbers
    of the rows to score, (N,); ``size``: how many rows there are.

    ``identity``: hash of all that the scores depend on; by default of the function's source.
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
    ) -> None:
        self._function = function
        self._module = module
        self._lower = lower_is_better
        self._series: object = None
        self.label = getattr(function, "__qualname__", type(function).__name__)
        self.metric = metric or (LOSS if lower_is_better else SCORE)
        self.takes_rows = _takes_rows(function)
        self.size = size
        self.identity = digest(["function", identity or _source(function), self.metric])

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Call the function. Whatever it raises is an ``EvaluationError``."""
        subject = self._subject(model)
        arguments: tuple[Any, ...] = (subject,)
        if self.takes_rows:
            if rows is None and self.size is not None:
                rows = np.arange(self.size)
            arguments = (subject, rows)
        try:
            values = self._call(arguments)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EvaluationError(f"{self.label}: {type(error).__name__}: {reason}") from error
        if hasattr(values, "detach"):
            values = values.detach().cpu().double().numpy()
        count = self.size if rows is None else len(rows)
        return checked(values, LOSS if self._lower else SCORE, count)

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        if self._module is None:
            return self._function(*arguments)
        import torch

        with torch.no_grad():
            return self._function(*arguments)

    def _subject(self, model: Checkpoint) -> Any:
        if self._module is None:
            return state_of(model)
        load_in_place(self._module, model, changing(model, self._series))
        self._series = getattr(model, "series", None)
        return self._module


def state_of(model: Checkpoint) -> dict[str, Any]:
    """All tensors of a model: as torch tensors where it says so (``as_torch``), else as arrays."""
    if not getattr(model, "as_torch", False):
        return {name: model.read(name) for name in model.names}
    return {name: _tensor(model, name) for name in model.names}


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


def _source(function: Callable[..., Any]) -> list[str]:
    """What a function is: its name, its code, and the file that it stands in."""
    named = function if hasattr(function, "__qualname__") else type(function)
    code = getattr(named, "__code__", None)
    parts = [named.__qualname__, "" if code is None else code.co_code.hex()]
    try:
        return [*parts, file_digest(Path(inspect.getsourcefile(named) or ""))]
    except (TypeError, OSError):
        return parts
