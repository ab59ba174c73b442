"""``stockpot registry``: models by content, and their family tree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.groups import CommandGroup
from stockpot.cli.inspect import table
from stockpot.cli.options import Overwrite
from stockpot.cli.output import Output
from stockpot.errors import InputError
from stockpot.files import write_text

if TYPE_CHECKING:
    from stockpot.registry import Added, Registry
    from stockpot.registry.index import Row
    from stockpot.registry.registry import Unusable

registry_app = CommandGroup(
    "registry", "Keep models by content, with their family tree: add, check out, compare, verify."
)

Place = Annotated[
    str,
    typer.Option(
        "--registry",
        "-r",
        envvar="STOCKPOT_REGISTRY",
        help="Folder, or an address such as s3://bucket/path.",
    ),
]
DEFAULT = ".stockpot"
_SHOWN = 10


@registry_app.command("init")
def init_command(
    place: Annotated[str, typer.Argument(help="New folder or fsspec address.")] = DEFAULT,
    out: Output = Output(),
) -> None:
    """Make a registry."""
    from stockpot.registry import init_registry

    with init_registry(place) as registry:
        count = registry.index.count()
        out.data(
            {"registry": registry.label, "models": count},
            f"registry at {registry.label}" + (f" ({count} models)" if count else ""),
        )


@registry_app.command("add")
def add_command(
    model: Annotated[str, typer.Argument(help="Model folder, weights file or hub id.")],
    place: Place = DEFAULT,
    name: Annotated[
        str | None, typer.Option(help="Name [default: the record's, the folder's]")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="base, finetune, merge, ...")] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="A model of the registry it came from; repeatable, the base first."),
    ] = None,
    infer: Annotated[
        bool, typer.Option("--infer/--no-infer", help="Look for parents nobody recorded.")
    ] = True,
    lossy: Annotated[
        str | None, typer.Option(help="Store approximately: int8, sign or low-rank:16.")
    ] = None,
    line: Annotated[str | None, typer.Option(help="Make it the newest version of a line.")] = None,
    note: Annotated[str, typer.Option(help="A sentence to keep with it.")] = "",
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Keep NaN and infinity.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign it with this SSH key.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Put a model in. The same model twice changes nothing."""

    from stockpot.registry import add
    from stockpot.registry.signing import sign_entry
    from stockpot.signatures import check_key

    if sign is not None:
        check_key(sign)
    with opened(place) as registry:
        done = add(
            registry,
            model,
            name=name,
            kind=kind,
            parents=parent,
            lossy=lossy,
            infer=infer,
            note=note,
            allow_nonfinite=allow_nonfinite,
            quiet=out.silent,
        )
        if line is not None:
            registry.advance(line, done.id, {"what": "add"})
        if sign is not None:
            sign_entry(registry, "manifest", done.id, done.id, sign)
    _say_added(done, out)


@registry_app.command("log")
def log_command(
    place: Place = DEFAULT,
    line: Annotated[str | None, typer.Option(help="The versions of a line and why.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many models.")] = 20,
    out: Output = Output(),
) -> None:
    """List the newest models, or the versions of a line."""

    with opened(place) as registry:
        if line is not None:
            versions = registry.line(line)
            if not versions:
                raise InputError(
                    f"there is no line '{line}'",
                    hint=f"lines: {', '.join(registry.lines()) or 'none'}",
                )
            rows = [["version", "model", "time", "what"]]
            for version in versions:
                what = version["event"].get("words") or version["event"].get("what", "")
                number = str(version["number"])
                rows.append([number, version["model"][:12], version["time"], what])
            value: dict[str, Any] = {"line": line, "versions": versions}
        else:
            newest = registry.index.newest(limit)
            signed = _signers(registry, [row.id for row in newest])
            rows = [["model", "name", "kind", "size", "added", *(["signed by"] if signed else [])]]
            rows += [
                [*_log_row(row), *([signed.get(row.id, "")] if signed else [])] for row in newest
            ]
            value = {"models": [{**asdict(row), "signed": signed.get(row.id)} for row in newest]}
        left = registry.quarantine()
        _say_left(left, out)
        out.data({**value, "quarantine": [asdict(entry) for entry in left]}, table(rows))


@registry_app.command("tree")
def tree_command(
    model: Annotated[
        str | None, typer.Argument(help="Only this model's ancestors and descendants.")
    ] = None,
    place: Place = DEFAULT,
    svg: Annotated[Path | None, typer.Option(help="Draw it into this SVG file.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many models.")] = 500,
    out: Output = Output(),
) -> None:
    """Show the family tree."""

    from stockpot.registry.registry import models_of
    from stockpot.registry.tree import family, lineage, text

    with opened(place) as registry:
        rows, edges = family(registry, model, limit=limit)
        lines = {name: models_of(registry.line(name)) for name in registry.lines()}
        if svg is not None:
            from stockpot.report.tree import standalone

            write_text(svg, standalone(lineage(rows, edges, lines)))
            out.say(f"drawing: {svg}")
        value = {
            "models": [asdict(row) for row in rows],
            "edges": [asdict(edge) for edge in edges],
            "lines": lines,
        }
        out.data(value, text(rows, edges, lines) or "no models yet")


@registry_app.command("show")
def show_command(
    model: Annotated[str, typer.Argument(help="Name, id, digest or line (main, main~1).")],
    place: Place = DEFAULT,
    out: Output = Output(),
) -> None:
    """Tell everything about a model."""

    with opened(place) as registry:
        manifest = registry.manifest(model)
        value = {"id": manifest.id, **manifest.to_json()}
        value["ancestors"] = [row.id for row in registry.ancestors(manifest.id)]
        value["descendants"] = [row.id for row in registry.descendants(manifest.id)]
        value["signed"] = _signers(registry, [manifest.id]).get(manifest.id)
        out.data(value, _about(registry, value))


@registry_app.command("checkout")
def checkout_command(
    model: Annotated[str, typer.Argument(help="Name, id, digest or line.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder, or NAME.safetensors for weights alone.")
    ],
    place: Place = DEFAULT,
    overwrite: Overwrite = False,
    out: Output = Output(),
) -> None:
    """Write a model's files, byte for byte as they were added."""
    from stockpot.registry import checkout

    with opened(place) as registry:
        manifest = checkout(registry, model, output, overwrite=overwrite, quiet=out.silent)
        value = {"id": manifest.id, "output": str(output), "bytes": manifest.nbytes}
        out.data(value, f"{output}: {manifest.name} {manifest.id[:12]}")


@registry_app.command("diff")
def diff_command(
    before: Annotated[str, typer.Argument(help="A model.")],
    after: Annotated[str, typer.Argument(help="Another.")],
    place: Place = DEFAULT,
    out: Output = Output(),
) -> None:
    """Show what differs between two models."""
    from stockpot.registry.difference import diff

    with opened(place) as registry:
        found = diff(registry, before, after)
    lines = [f"{found.equal} tensors equal, {len(found.changed)} changed"]
    if found.verdict:
        lines[0] += f" ({found.verdict})"
    for word, names in (("only before", found.removed), ("only after", found.added)):
        lines += [f"{word}: {', '.join(names)}"] if names else []
    lines += [f"other files: {', '.join(found.files)}"] if found.files else []
    if found.changed:
        rows = [["tensor", "shape", "change"]]
        for each in sorted(found.changed, key=lambda each: -(each.change or 0.0)):
            change = "" if each.change is None else f"{each.change:.3%}"
            rows.append([each.name, "x".join(map(str, each.shape)), change])
        lines += ["", table(rows)]
    out.data(asdict(found), "\n".join(lines))


@registry_app.command("verify")
def verify_command(place: Place = DEFAULT, out: Output = Output()) -> None:
    """Read, decode and hash everything; exit code 1 where something is damaged."""

    from stockpot.registry.checking import verify

    with opened(place) as registry:
        found = verify(registry, quiet=out.silent)
    words = [f"{found.models} models, {found.blobs} blobs ({found.unused} unused)"]
    for problem in found.problems:
        hit = f"; hits {', '.join(problem.models)}" if problem.models else ""
        words.append(f"{problem.key}: {problem.what}{hit}")
    if found.strays:
        words.append(f"no entries, left alone: {', '.join(found.strays[:20])}")
    words.append("damaged" if found.problems else "everything is as it was written")
    out.data(asdict(found), "\n".join(words))
    if found.problems:
        raise typer.Exit(1)


@registry_app.command("gc")
def gc_command(
    place: Place = DEFAULT,
    grace: Annotated[
        float, typer.Option(min=0, help="Hours that a blob must have been marked.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, say what.")] = False,
    out: Output = Output(),
) -> None:
    """Mark what no model needs, and remove what has been marked for a while."""

    from stockpot.registry.collecting import gc

    with opened(place) as registry:
        found = gc(registry, grace=grace * 3600.0, dry_run=dry_run)
    words = (
        f"{found.marked} blobs ({_size(found.bytes)}) are unused"
        if dry_run
        else f"{found.marked} blobs marked, {found.removed} removed ({_size(found.bytes)}), "
        f"{found.leftovers} leftovers of interrupted writers removed"
    )
    if found.spared:
        words += f"\nno blob is removed: {found.spared} (stockpot registry repair)"
    out.data(asdict(found), words)


@registry_app.command("remove")
def remove_command(
    model: Annotated[str, typer.Argument(help="Name, id or digest.")],
    place: Place = DEFAULT,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    out: Output = Output(),
) -> None:
    """Take a model out; its blobs go with gc."""

    if not yes:
        raise InputError(f"removing '{model}' cannot be undone after gc", hint="add --yes")
    with opened(place) as registry:
        ident = registry.remove(model)
        out.data({"id": ident}, f"removed {ident[:12]}")


@registry_app.command("repair")
def repair_command(
    place: Place = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Move nothing, say what.")] = False,
    out: Output = Output(),
) -> None:
    """Move damaged entries and strays to quarantine/, and make the index anew.

    Exit code 1 where something is left that it cannot set right.
    """

    from stockpot.registry.repairing import repair

    with opened(place, out) as registry:
        done = repair(registry, dry_run=dry_run, quiet=out.silent)
    verb = "would be moved" if dry_run else "moved"
    words = [f"{len(done.moved)} entries {verb}, {done.models} models in the index"]
    words += [f"{entry.key}: {entry.what}" for entry in done.moved]
    words += [f"left: {problem.key}: {problem.what}" for problem in done.problems]
    out.data(asdict(done), "\n".join(words))
    if done.problems:
        raise typer.Exit(1)


@registry_app.command("reindex")
def reindex_command(place: Place = DEFAULT, out: Output = Output()) -> None:
    """Make the index anew from the manifests."""

    with opened(place) as registry:
        count = registry.reindex()
        out.data({"models": count}, f"{count} models")


def _say_added(done: Added, out: Output) -> None:
    manifest = done.manifest
    if done.guess is not None:
        out.say(done.guess.words)
    if manifest.lossy is not None:
        out.say(
            f"stored approximately ({manifest.lossy['option']}): the difference to the base is "
            f"off by {manifest.lossy['error']:.2%}"
        )
    fields = ("id", "new", "bytes", "stored", "reused", "codecs")
    value = {name: getattr(done, name) for name in fields}
    value |= {"name": manifest.name, "parents": [asdict(link) for link in manifest.parents]}
    share = done.stored / done.bytes if done.bytes else 0.0
    sizes = f"{_size(done.bytes)} in {_size(done.stored)} ({share:.1%})"
    text = f"{manifest.name} {done.id[:12]}: {sizes if done.new else 'was there already'}"
    out.data({**value, "lossy": manifest.lossy}, text)


@contextmanager
def opened(place: str, out: Output | None = None) -> Iterator[Registry]:
    """A registry, open; says on stderr what the user should know of that."""
    from stockpot.registry import Registry

    with Registry(place) as registry:
        if registry.notice is not None:
            (out or Output()).say(f"note: {registry.notice}")
        yield registry


def _say_left(left: Sequence[Unusable], out: Output) -> None:
    """Entries that were left aside, in short."""
    if not left:
        return
    for entry in left[:_SHOWN]:
        out.say(f"left aside: {entry.key}: {entry.what}")
    if len(left) > _SHOWN:
        out.say(f"left aside: {len(left) - _SHOWN} more")
    out.say("stockpot registry verify tells more, stockpot registry repair moves them away")


def _about(registry: Registry, value: dict[str, Any]) -> str:
    lines = [
        f"{value['name']}  ({value['kind']})",
        f"id       {value['id']}",
        f"weights  {value['digest']}",
    ]
    for parent in value["parents"]:
        weight = "" if parent["weight"] is None else f", weight {parent['weight']:.4g}"
        how = "" if parent["how"] == "recorded" else f", inferred, {parent['confidence']:.0%} sure"
        here = parent["digest"][:12] + ("" if parent["model"] else ", not in this registry")
        lines.append(f"from     {parent['name']} ({parent['role']}{weight}{how}; {here})")
    lines += [f"{name:<8} {number:.6g}" for name, number in sorted(value["metrics"].items())]
    if value["data"]:
        lines.append(f"data     {value['data']}")
    if value["lossy"]:
        lossy = value["lossy"]
        lines.append(
            f"lossy    {lossy['option']}: difference to the base off by {lossy['error']:.2%}, "
            f"worst tensor {lossy['worst_tensor']:.2%}"
        )
    if value["note"]:
        lines.append(f"note     {value['note']}")
    if value["signed"]:
        lines.append(f"signed   by {value['signed']}")
    lines += [f"file     {file['path']} ({_size(file['size'])})" for file in value["files"]]
    lines.append(
        f"tree     {len(value['ancestors'])} ancestors, {len(value['descendants'])} descendants"
    )
    return "\n".join(lines)


def _signers(registry: Registry, models: Sequence[str]) -> dict[str, str]:
    """Who signed models, in words, for those that somebody did."""
    from stockpot.registry.signing import signed_models

    return {
        model: ", ".join(map(str, found))
        for model, found in signed_models(registry, models).items()
    }


def _log_row(row: Row) -> list[str]:
    added = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.added))
    return [row.id[:12], row.name, row.kind, _size(row.bytes), added]


def _size(nbytes: int) -> str:
    value = float(nbytes)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
