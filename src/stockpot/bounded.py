"""Run a function on what strangers wrote in a child process, with limits of memory and time.

A file of a few bytes can ask for any amount of work: a config with a hundred thousand layers, a
model that is loaded for hours. What happens in the child ends with it, and each limit is named in
the error.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.commands import run_command
from stockpot.errors import InputError, LimitError, StockpotError
from stockpot.programs import policy, set_policy
from stockpot.reading import parse_json, visible

GIGABYTE = 2**30
_START = "from stockpot.bounded import child; child()"
_HINT = "if you trust it, allow more: --limit-memory, --limit-time"
_NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


@dataclass(frozen=True)
class ChildLimits:
    """``memory``: bytes that the child may have of its own. ``seconds``: of the clock."""

    memory: int
    seconds: float


def in_bytes(gibibytes: float | None) -> int | None:
    """Bytes of so many GiB; None stays None."""
    return None if gibibytes is None else int(gibibytes * GIGABYTE)


def run_bounded(
    function: Callable[..., Any], *arguments: Any, limits: ChildLimits, what: str
) -> Any:
    """The JSON value that a function of a module returns for ``arguments``, worked out in a child.

    ``what`` is done, for errors. Raises ``LimitError`` naming the limit, the ``StockpotError`` that
    the function raises, and ``StockpotError`` for all else that goes wrong in the child.
    """
    paths = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    variables = {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory(prefix="stockpot-") as folder, ExitStack() as stack:
        asked, answer = Path(folder) / "asked", Path(folder) / "answer"
        asked.write_bytes(
            pickle.dumps((function, arguments, policy() == "all", limits.memory, answer))
        )
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        started = time.monotonic()
        try:
            run_command(
                [sys.executable, "-c", _START, str(asked)],
                Path.cwd(),
                out,
                err,
                timeout=limits.seconds,
                error=StockpotError,
                variables=variables,
            )
        except StockpotError as error:
            if time.monotonic() - started >= limits.seconds:
                late = f"{what} takes more than {limits.seconds:g} s, the limit"
                raise LimitError(late, hint=_HINT) from error
            ended = {"memory": _is_memory(error.message), "said": error.message}
            return _result(ended, limits, what)
        return _result(parse_json(answer.read_bytes()), limits, what)


def child() -> None:
    """What the child runs: the function of a file that it is given; its result goes to another."""
    function, arguments, allowed, memory, place = pickle.loads(Path(sys.argv[1]).read_bytes())
    set_policy(allowed=allowed, dry=False)
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        answer = {"value": function(*arguments)}
    except StockpotError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except MemoryError:
        answer = {"memory": True}
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        answer = {"memory": _is_memory(said), "said": said}
    place.write_text(json.dumps(answer), encoding="utf-8")


def _is_memory(said: str) -> bool:
    """Whether a process ended for want of memory: it says so, or the system killed it."""
    return any(text in said.lower() for text in (*_NO_MEMORY, "ended with signal"))


def _kinds(kind: type[InputError]) -> Iterator[type[InputError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)


def _result(answer: Mapping[str, Any], limits: ChildLimits, what: str) -> Any:
    if "value" in answer:
        return answer["value"]
    if answer.get("memory"):
        size = f"{limits.memory / GIGABYTE:.3g} GiB"
        raise LimitError(f"{what} needs more than {size} of memory, the limit", hint=_HINT)
    said = visible(str(answer.get("message") or answer["said"]), 2000)
    for kind in _kinds(InputError):
        if kind.__name__ == answer.get("error"):
            plain = kind.__init__ is StockpotError.__init__
            raise (kind if plain else InputError)(said, hint=answer["hint"])
    raise StockpotError(f"{what} failed: {said}")
