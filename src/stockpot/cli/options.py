"""Options that mean the same in every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stockpot.errors import InputError
from stockpot.extras import require_wanted
from stockpot.programs import set_policy

Json = Annotated[bool, typer.Option("--json", help="Everything as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words.")]


def _dry(value: bool) -> bool:
    set_policy(dry=value)
    return value


def _allow(value: bool) -> bool:
    set_policy(allowed=value)
    return value


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything, show the plan, write nothing.", callback=_dry
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run functions of installed packages and code of models that the recipe names; "
        "in a dry run all code.",
        callback=_allow,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe, such as training.steps=100; repeatable."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
LimitMemory = Annotated[
    float | None,
    typer.Option(
        min=0.1, help="GiB that what others wrote may take [default: by the size of the model]"
    ),
]
LimitTime = Annotated[float, typer.Option(min=0.01, help="Minutes that it may take, a model.")]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave out unreadable images and list them.")
]
Backend = Annotated[str, typer.Option(help="serial, local processes, or ray for a cluster.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Jobs at a time [default: cores; on a cluster what has room].",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The Ray cluster [default: RAY_ADDRESS, else on this machine].",
    ),
]
GpusPerJob = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="On a cluster: GPUs of a job, such as 0.25 [default: 1 where there are any]."
    ),
]

InRegistry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        envvar="STOCKPOT_REGISTRY",
        help="Add the results, and what they were made of, to this registry.",
        show_default=False,
    ),
]


def check_tangent_packages(recipe: Path, *extras: str) -> None:
    """Read a recipe of tangent; ``MissingDependencyError`` unless what it needs is installed."""
    from stockpot.tangent.recipe import load_recipe

    load_recipe(recipe)
    require_wanted("torch", *extras, purpose="this recipe")


@dataclass(frozen=True)
class Workers:
    """Where jobs run."""

    backend: Backend = "local"
    jobs: Jobs = None
    address: Address = None
    gpus_per_job: GpusPerJob = None

    def extras(self) -> list[str]:
        """What the backend wants besides. Raises ``InputError`` where options contradict it."""
        if self.backend == "ray":
            return ["ray"]
        for option in ("address", "gpus_per_job"):
            if getattr(self, option) is not None:
                option = option.replace("_", "-")
                raise InputError(
                    f"--{option} is for --backend ray, and the backend is '{self.backend}'"
                )
        return []

    def options(self) -> dict[str, Any]:
        """As the functions of Python take them."""
        return dict(vars(self))
