"""Options that mean the same in every command."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Everything as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show the plan, write nothing.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave out unreadable images and list them.")
]
