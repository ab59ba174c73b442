"""Every error stockpot raises on purpose, as one tree.

::

    StockpotError                 exit code 1: something failed that could not be seen coming
    ├── InputError                exit code 2: the input is wrong; nothing was written
    │   ├── RecipeError           a recipe file: all problems at once, each with its line
    │   ├── TaskError             data: unknown domain, empty class, corrupt image, bad label
    │   ├── BackboneError         a model that cannot be built, or other weights than its own
    │   ├── CheckpointError       a weights file that cannot be read as what it claims to be
    │   │   ├── UnsafeFileError   a file that would execute code or leave its folder
    │   │   └── NonFiniteError    NaN or infinity in a tensor
    │   ├── SignatureError        a signature of other bytes, or of nobody who is trusted
    │   ├── LimitError            what somebody wrote needs more memory or time than it may have
    │   ├── MethodError           an unknown merge method, or a parameter outside its range
    │   ├── LineageError          weights that have no ancestor in common
    │   ├── BaseMismatchError     a component meets another base than the one it was made on
    │   ├── ScoreError            evidence that a transferability score cannot use
    │   └── MissingDependencyError  an optional package is needed; names it and its extra
    ├── OutputError               exit code 2: the output cannot be written (no space, exists)
    ├── EvaluationError           exit code 1: an evaluator failed, or gave what is no score
    ├── DivergedError             exit code 1: training became non-finite; names step and rate
    └── JobError                  exit code 1: a job failed; names the job and where its log is

A message says what is wrong, where (file, line, tensor), what was got and expected, and what to do
next, in one line where possible.
"""

from __future__ import annotations

from collections.abc import Sequence


class StockpotError(Exception):
    """Root of the tree. ``hint`` is the next step for the user; it is shown after the message."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(StockpotError):
    """The input is wrong; nothing was written."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe cannot be used. ``problems`` holds one line each, with file and line number."""

    def __init__(self, problems: list[str], *, hint: str | None = None) -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems


class TaskError(InputError):
    """The data of a task is wrong; names file, domain or class."""


class BackboneError(InputError):
    """A backbone cannot be built, or the weights belong to another architecture."""


class CheckpointError(InputError):
    """A weights file cannot be read; names file and tensor."""


class UnsafeFileError(CheckpointError):
    """A file would execute code when read, or points outside its folder."""


class NonFiniteError(CheckpointError):
    """A tensor holds NaN or infinity; names file, tensor and position."""


class SignatureError(InputError):
    """A signature that belongs to other bytes, or to nobody who is trusted."""


class LimitError(InputError):
    """What somebody wrote needs more memory or time than it may have; names the limit."""


class MethodError(InputError):
    """An unknown merge method, or a parameter outside its range."""


class LineageError(InputError):
    """Weights that have no ancestor in common, so that combining them would give noise."""


class BaseMismatchError(InputError):
    """A component (or statistics) was made on another base or head than the one it meets."""


class ScoreError(InputError):
    """A transferability score is not defined for the evidence, or the evidence is unsound."""


class MissingDependencyError(InputError):
    """Optional packages are not installed; names the extras that bring all that is needed."""

    def __init__(self, packages: Sequence[str], *, extras: Sequence[str], purpose: str) -> None:
        quoted = [f"'{package}'" for package in packages]
        if len(quoted) == 1:
            needed = f"the package {quoted[0]}, which is not installed"
        else:
            needed = f"{', '.join(quoted[:-1])} and {quoted[-1]}, which are not installed"
        super().__init__(
            f"{purpose} needs {needed}", hint=f"pip install 'stockpot[{','.join(extras)}]'"
        )


class OutputError(StockpotError):
    """The output cannot be written: no space, no permission, or it exists already."""

    exit_code = 2


class EvaluationError(StockpotError):
    """An evaluator failed, took too long, or gave what is no score; says which model it was."""


class DivergedError(StockpotError):
    """A fine-tuning became non-finite. ``what`` was seen at ``step``."""

    def __init__(self, what: str, *, step: int, learning_rate: float) -> None:
        super().__init__(
            f"the {what} is not finite at step {step} with learning rate {learning_rate:g}",
            hint="lower the learning rate",
        )
        self.what, self.step, self.learning_rate = what, step, learning_rate


class JobError(StockpotError):
    """A job failed; names the job and its log."""
