"""The contract of a trainer: a model folder, data, settings and a seed in; a model folder out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from stockpot.commands import filled, named_files, placeholders, run_command, split_command
from stockpot.errors import InputError, JobError
from stockpot.evaluators.identity import file_identity
from stockpot.evaluators.neighbours import Neighbours
from stockpot.files import digest, file_digest
from stockpot.programs import forbidden, load_function
from stockpot.yaml_lines import suggestion

OWN = ("init", "output", "data", "seed")
"""What every trainer can be given; all other names are hyper-parameters."""
ADAPTERS = ("stockpot.trainers:transformers", "stockpot.trainers:trl")
"""Functions of stockpot itself, which may always run."""
NAME = "name:"
"""Before data that a trainer knows by name, as ``name:imdb``; other data is a path."""
FOREVER = 10.0 * 365 * 86400


@dataclass(frozen=True)
class TrainingRequest:
    """One training: ``init`` and ``output`` are model folders, the second is not there yet.

    ``data``: a path that exists, or a name that the trainer understands; None where there is none.
    """

    init: Path
    output: Path
    data: str | None
    seed: int
    hyperparameters: Mapping[str, Any]


class OutsideTrainer(ABC):
    """Something that fine-tunes.

    Attributes:
        label: what it is called in messages.
        identity: hash of what its weights depend on, the request aside.
        takes: names that it can be given; None: it takes any.
        needs: those that it has to be given.
    """

    label: str
    identity: str
    takes: frozenset[str] | None
    needs: frozenset[str]

    @abstractmethod
    def train(self, request: TrainingRequest, log: Path, threads: int) -> None:
        """Fill ``request.output``. What a program prints goes to ``log``.

        Raises ``JobError`` in one line where a program fails.
        """

    def refusals(self, name: str, values: Iterable[Any]) -> list[str]:
        """What is wrong with values of a hyper-parameter, as far as that can be known."""
        return []

    def check(self, hyperparameters: Iterable[str], *, data: bool, varied: bool) -> list[str]:
        """What is wrong with how a recipe uses it; nothing that the recipe says may be dropped.

        ``data``: whether there is some; ``varied``: whether runs differ by their hyper-parameters.
        """
        names, problems = list(hyperparameters), []
        for name in names:
            if name in OWN:
                problems.append(f"hyperparameters: '{name}' is given to every trainer as it is")
            elif self.takes is not None and name not in self.takes:
                known = sorted(self.takes - {*OWN})
                problems.append(
                    f"hyperparameters: {self.label} does not take '{name}'{suggestion(name, known)}"
                )
        given = {"init", "output", "seed", *names, *(["data"] if data else [])}
        for name in sorted(self.needs - given):
            problems.append(
                f"trainer: {self.label} needs '{name}', and the recipe has none"
                f"{suggestion(name, names)}"
            )
        if self.takes is None:
            return problems
        if data and "data" not in self.takes:
            problems.append(f"data: {self.label} does not take 'data'")
        if "seed" not in self.takes and not varied:
            problems.append(
                f"trainer: {self.label} does not take 'seed', and nothing is drawn: all runs would "
                "be the same"
            )
        return problems


class CommandTrainer(OutsideTrainer):
    """A program: ``python sft.py --init {init} --out {output} --lr {learning_rate} --seed {seed}``.

    ``root``: the folder in which it runs. ``files``: what else its weights depend on, besides the
    command and the files that it names. ``timeout``: seconds of one training.

    Raises ``InputError`` for a program that is not there, and one without {init} or {output}.
    """

    def __init__(
        self,
        command: str,
        *,
        root: Path,
        files: Sequence[Path] = (),
        timeout: float | None = None,
    ) -> None:
        self._root, self._timeout = root, timeout or FOREVER
        self._words = split_command(command, root)
        self.label = "the command"
        self.takes = self.needs = frozenset(placeholders(self._words))
        for name in ("init", "output"):
            if name not in self.takes:
                raise InputError(f"trainer: command '{command}' has no {{{name}}}")
        named = map(_content, (*named_files(self._words, root), *files))
        self.identity = digest(["command", self._words, *named])

    def train(self, request: TrainingRequest, log: Path, threads: int) -> None:
        """Run the command; the log has what it prints."""
        values = {name: _text(value) for name, value in request.hyperparameters.items()}
        values |= {"init": str(request.init), "output": str(request.output)}
        values |= {"seed": str(request.seed), "data": request.data or ""}
        with log.open("w+b") as printed:
            run_command(
                filled(self._words, values),
                self._root,
                printed,
                printed,
                timeout=self._timeout,
                error=JobError,
                variables={"OMP_NUM_THREADS": str(threads)},
            )


class FunctionTrainer(OutsideTrainer):
    """A function ``(init, output, data, *, seed, learning_rate, ...)`` that fills ``output``.

    ``name``: ``file.py:function`` or ``package.module:function``, from ``root`` on. Raises
    ``InputError`` where there is none, or it does not take these three.
    """

    def __init__(self, name: str, *, root: Path, files: Sequence[Path] = ()) -> None:
        source = root / name.rpartition(":")[0]
        self._beside = Neighbours(source.parent)
        with self._beside:
            self._function = load_function(name, root, "trainer")
        self.label = f"'{name}'"
        own = _content(source) if source.is_file() else ""
        self.identity = digest(["function", name, own, *map(_content, files)])
        parameters = inspect.signature(self._function).parameters.values()
        named = [one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, _EITHER)]
        if named[:3] != ["init", "output", "data"]:
            raise InputError(f"trainer {self.label} takes (init, output, data, ...), not {named}")
        self._types = _annotations(self._function)
        must = [one.name for one in parameters if one.default is one.empty]
        self.needs = frozenset(must) & frozenset(named) - {"data"}
        is_open = any(one.kind is one.VAR_KEYWORD for one in parameters)
        self.takes = None if is_open else frozenset(named)

    def train(self, request: TrainingRequest, log: Path, threads: int) -> None:
        """Call the function; what it prints goes to the log."""
        options = dict(request.hyperparameters)
        if self.takes is None or "seed" in self.takes:
            options["seed"] = request.seed
        with self._beside, log.open("w") as said, redirect_stdout(said), redirect_stderr(said):
            self._function(request.init, request.output, request.data, **options)

    def refusals(self, name: str, values: Iterable[Any]) -> list[str]:
        """By the function's annotations."""
        problems = []
        for value in values if name in self._types else ():
            try:
                self._types[name].validate_python(value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                problems.append(f"hyperparameters.{name}: {self.label}: {reason}, got {value!r}")
        return problems


def _annotations(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What checks an argument, where its annotation is one that values can be checked by."""
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}
    checks = {}
    for name, hint in hints.items():
        with suppress(PydanticUserError):
            checks[name] = TypeAdapter[Any](hint)
    return checks


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def open_trainer(spec: Mapping[str, Any], root: Path) -> OutsideTrainer:
    """The trainer of a recipe's ``trainer``. Raises ``InputError``."""
    files = [root / name for name in spec["files"]]
    for path in files:
        if not path.is_file():
            raise InputError(f"trainer.files: {path} is no file")
    if spec["command"] is not None:
        return CommandTrainer(spec["command"], root=root, files=files, timeout=spec["timeout"])
    return FunctionTrainer(spec["function"], root=root, files=files)


def code_problems(spec: Mapping[str, Any], root: Path) -> list[str]:
    """Why the function of a recipe's ``trainer`` may not run."""
    if spec["function"] is None or spec["function"] in ADAPTERS:
        return []
    named = {"kind": "function", "name": spec["function"]}
    return [f"trainer.function: {reason}" for _, reason in forbidden(named, root)]


def name_of(data: str) -> str:
    """What the trainer is told of data that is no path."""
    return data.removeprefix(NAME)


def _content(path: Path) -> str:
    return file_identity(path) if path.suffix == ".py" else file_digest(path)


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what was drawn is a float, and a program may read whole numbers only
    return str(value).lower() if isinstance(value, bool) else str(value)
