"""Whether a merged folder loads in its own library, before it is kept.

The library's loader is run on tensors without data (the meta device), so that its own renaming and
joining of tensors counts, and nothing is read. That imports torch and the library, which merging
does not need and which takes seconds: it happens in a process of its own that starts with the merge
and is asked at its end, or in this one where the library is there already.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import IO, Any

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.compat import ensure_torchvision, import_transformers
from stockpot.errors import CheckpointError
from stockpot.extras import installed
from stockpot.reading import read_json

_CHILD = "from stockpot.merging.loading import answer; answer()"
Shapes = Mapping[str, tuple[str, Sequence[int]]]


class LoadCheck:
    """A question to a library, asked when a folder stands: ``problems`` of loading it.

    A context manager: ends the process that it began.
    """

    def __init__(self, library: str) -> None:
        self._library = library
        self._child: subprocess.Popen[str] | None = None
        if library not in sys.modules:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, library],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )

    def check(self, folder: Path, tensors: Mapping[str, TensorInfo], parent: Checkpoint) -> str:
        """A sentence on what the library misses in ``folder`` and missed in ``parent`` as well.

        Raises ``CheckpointError`` for what it misses in the folder alone.
        """
        config = read_json(folder / "config.json", "a model's config")
        problems = self._ask(config, tensors)
        if problems is None or not problems:
            return ""
        assert parent.home is not None
        before = self._ask(read_json(parent.home / "config.json"), parent.tensors) or []
        new = [problem for problem in problems if problem not in before]
        more = f" (and {len(new or problems) - 1} more)" if len(new or problems) > 1 else ""
        if new:
            raise CheckpointError(
                f"{self._library} would not load the result as it is: {new[0]}{more}",
                hint="--no-check-load writes it all the same",
            )
        said = f"{self._library} says of the result what it says of {parent.label}"
        return f"{said}: {problems[0]}{more}"

    def _ask(self, config: Any, tensors: Mapping[str, TensorInfo]) -> list[str] | None:
        shapes = {
            name: (info.dtype, list(info.shape))
            for name, info in tensors.items()
            if "/" not in name  # those of other components (checkpoints.composite)
        }
        if self._child is None:
            return load_problems(self._library, config, shapes)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps([config, shapes]) + "\n")
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        answered: list[str] | None = json.loads(line) if line else None
        return answered

    def __enter__(self) -> LoadCheck:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()


def checking_library(folder: Path | None) -> str | None:
    """The library that loads a folder, by its config; None for one that none here knows."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json", "a model's config")
    if not isinstance(config, dict):
        return None
    if "architecture" in config and "pretrained_cfg" in config:
        name = "timm"
    elif config.get("architectures") and config.get("model_type"):
        name = "transformers"
    else:
        return None
    return name if installed(name) and installed("torch") else None


def answer() -> None:
    """The process of its own: questions on stdin, answers on stdout, a line each."""
    output: IO[str] = sys.stdout
    sys.stdout = sys.stderr
    ensure_torchvision(quiet=True)
    __import__(sys.argv[1])
    for line in sys.stdin:
        output.write(json.dumps(load_problems(sys.argv[1], *json.loads(line))) + "\n")
        output.flush()


def load_problems(library: str, config: Any, shapes: Shapes) -> list[str] | None:
    """What a library finds missing, unexpected or of another shape; None where it does not know
    the model.
    """
    import torch

    from stockpot.checkpoints.memory import torch_dtype

    state = {
        name: torch.empty(tuple(shape), dtype=torch_dtype(dtype), device="meta")
        for name, (dtype, shape) in shapes.items()
    }
    with redirect_stderr(StringIO()):
        return _timm(config, state) if library == "timm" else _transformers(config, state)


def _transformers(config: Mapping[str, Any], state: dict[str, Any]) -> list[str] | None:
    transformers = import_transformers()
    logging = transformers.logging
    kind = getattr(transformers, str(config["architectures"][0]), None)
    if kind is None:
        return None
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        kept = {key: value for key, value in config.items() if key != "quantization_config"}
        described = transformers.AutoConfig.for_model(**kept)
        _, found = kind.from_pretrained(
            None,
            config=described,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            device_map="meta",
        )
    except Exception as error:  # whatever a config and a class come to
        return [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    return [
        *(f"'{name}' is missing" for name in sorted(found["missing_keys"])),
        *(f"'{name}' is unexpected" for name in sorted(found["unexpected_keys"])),
        *(
            f"'{name}' has shape {list(stored)}, not {list(wanted)}"
            for name, stored, wanted in sorted(found["mismatched_keys"])
        ),
        *(str(text) for text in found.get("error_msgs") or ()),
    ]


def _timm(config: Mapping[str, Any], state: Mapping[str, Any]) -> list[str] | None:
    import timm
    import torch

    name = str(config["architecture"])
    if not timm.is_model(name):
        return None
    arguments = dict(config.get("model_args") or {})
    if "num_classes" in config:
        arguments["num_classes"] = config["num_classes"]
    if "global_pool" in config:
        arguments["global_pool"] = config["global_pool"]
    try:
        with torch.device("meta"):
            own = timm.create_model(name, **arguments).state_dict()
    except Exception as error:  # whatever the arguments of a model come to
        return [f"{type(error).__name__}: {error}"]
    problems = [f"'{name}' is missing" for name in own if name not in state]
    for name, tensor in state.items():
        if name not in own:
            problems.append(f"'{name}' is unexpected")
        elif own[name].shape != tensor.shape:
            problems.append(f"'{name}' has shape {list(tensor.shape)}, not {list(own[name].shape)}")
    return problems
