"""``stockpot push`` and ``stockpot pull``: models to the Hugging Face hub and from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.options import DryRun, LimitMemory, LimitTime, Overwrite
from stockpot.cli.output import Output


def push_command(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder that recycle, merge or tangent wrote.", show_default=False),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Where to.", show_default=False)
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see it [default: private].")
    ] = False,
    base_model: Annotated[
        list[str] | None,
        typer.Option(help="Hub id of a parent, for the card; repeatable.", metavar="OWNER/NAME"),
    ] = None,
    license: Annotated[str | None, typer.Option(help="For the card, such as apache-2.0.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another file to send, or a pattern; repeatable.", metavar="FILE"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="A branch that exists.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
    dry_run: DryRun = False,
    out: Output = Output(),
) -> None:
    """Send a model with its card and its lineage to the Hugging Face hub, privately.

    Files that are no part of the model stay here unless --also names them.
    """
    from stockpot.hub import push

    done = push(
        folder,
        repository,
        public=public,
        base_models=base_model or (),
        license=license,
        also=also or (),
        revision=revision,
        message=message,
        dry_run=dry_run,
        quiet=out.silent,
    )
    for note in done.notes:
        out.say(f"note: {note}")
    if done.left_out:
        out.say(f"left out: {', '.join(done.left_out)} (--also FILE sends it as well)")
    value = {
        "repository": done.repository,
        "files": list(done.files),
        "left_out": list(done.left_out),
        "bytes": done.size,
        "url": done.url or None,
    }
    words = [f"{name}" for name in done.files] if dry_run else [done.url]
    out.data(value, "\n".join(words))


def pull_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME[@REVISION]", help="A model of the hub.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder [default: NAME].")
    ] = None,
    overwrite: Overwrite = False,
    limit_memory: LimitMemory = None,
    limit_time: LimitTime = 60.0,
    out: Output = Output(),
) -> None:
    """Bring a model of the Hugging Face hub here, with its lineage, its weights checked."""
    from stockpot.bounded import in_bytes
    from stockpot.hub import pull

    folder = output or Path(source.partition("@")[0].rpartition("/")[2])
    done = pull(
        source,
        folder,
        overwrite=overwrite,
        quiet=out.silent,
        memory=in_bytes(limit_memory),
        seconds=limit_time * 60.0,
    )
    record = done.record
    if not done.own_record:
        out.say("it brought no lineage; stockpot.json now names where it came from")
    parents = ", ".join(parent.name for parent in record.parents) or "none"
    out.data(
        {"output": str(done.folder), "record": record.to_json()},
        f"{done.folder}: {record.kind} '{record.name}', parents: {parents}",
    )
