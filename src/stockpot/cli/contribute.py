"""``stockpot contribute``, ``review``, ``accept``, ``revert``: one model, improved by many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.options import AllowCode, LimitMemory, LimitTime
from stockpot.cli.output import Output
from stockpot.cli.registry import DEFAULT, Place, opened
from stockpot.cli.signing import Key, sign_contribution
from stockpot.errors import InputError

if TYPE_CHECKING:
    from stockpot.community.measuring import Meter
    from stockpot.registry import Registry
    from stockpot.tangent.forgetting.schema import Certificate

Tasks = Annotated[
    Path | None, typer.Option("--tasks", "-t", help="YAML file of the maintainer's tasks.")
]
Html = Annotated[Path | None, typer.Option(help="Write the line's page to this file.")]


def contribute_command(
    model: Annotated[
        str, typer.Argument(help="Your fine-tuning (folder or file), or a tangent component.")
    ],
    place: Place = DEFAULT,
    line: Annotated[str, typer.Option(help="The line it is for.")] = "main",
    base: Annotated[
        str | None, typer.Option(help="The version it was fine-tuned from [default: the newest]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name [default: the folder's]")] = None,
    author: Annotated[str, typer.Option(help="Who you are.")] = "",
    note: Annotated[str, typer.Option(help="What you did.")] = "",
    readmit: Annotated[
        bool, typer.Option("--readmit", help="Take a tangent component that was forgotten.")
    ] = False,
    sign: Key = None,
    out: Output = Output(),
) -> None:
    """Put a fine-tuning of a registered line up for review."""
    from stockpot.community import contribute
    from stockpot.signatures import check_key

    if sign is not None:
        check_key(sign)
    with opened(place) as registry:
        found = contribute(
            registry,
            model,
            line=line,
            base=base,
            name=name,
            author=author,
            note=note,
            readmit=readmit,
            quiet=out.silent,
        )
        if sign is not None:
            out.say(f"signed by {sign_contribution(registry, found, sign)}")
    out.say(f"next: stockpot review {found.name} --tasks tasks.yaml")
    out.data(
        {"id": found.id, **found.to_json()},
        f"contribution {found.id}: {found.name} to {found.line}, from {found.base[:12]}",
    )


def review_command(
    contribution: Annotated[
        list[str] | None, typer.Argument(help="Names or ids [default: all not reviewed yet]")
    ] = None,
    place: Place = DEFAULT,
    line: Annotated[
        str, typer.Option(help="Where no contribution is named: of this line.")
    ] = "main",
    tasks: Tasks = None,
    limit_memory: LimitMemory = None,
    limit_time: LimitTime = 60.0,
    points: Annotated[int, typer.Option(min=3, help="Models between base and it.")] = 3,
    barrier: Annotated[float, typer.Option(min=0, help="Fall of score allowed there.")] = 0.05,
    signed: Annotated[
        bool, typer.Option("--signed", help="Refuse what nobody signed whom you trust.")
    ] = False,
    refusal: Annotated[
        str | None,
        typer.Option("--refuse", help="Examine nothing, refuse the named ones for this reason."),
    ] = None,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Examine contributions: lineage, layers, mode connectivity, every task. Exit 1 if refused."""
    from stockpot.community import contributions, refuse, review
    from stockpot.community.contribution import find_contribution
    from stockpot.community.review import last_review

    if refusal is not None and not contribution:
        raise InputError("--refuse needs the name of a contribution")
    with opened(place) as registry:
        if contribution:
            chosen = [find_contribution(registry, each) for each in contribution]
        else:
            chosen = [
                each
                for each in contributions(registry, line)
                if last_review(registry, each) is None
            ]
        meter = _meter(tasks, limit_memory, limit_time)
        reviews = []
        for each in chosen:
            if refusal is not None:
                reviews.append(refuse(registry, each, refusal))
                continue
            out.say(f"reviewing {each.name}")
            reviews.append(
                review(registry, each, meter=meter, points=points, barrier=barrier, signed=signed)
            )
    lines = []
    for each, done in zip(chosen, reviews, strict=True):
        lines.append(f"{each.name}: {'accepted' if done.accepted else 'refused'}")
        lines += [
            f"  {'ok ' if check.passed else 'NO '} {check.name}: {check.words}"
            for check in done.checks
        ]
    out.data(
        {"reviews": [done.to_json() for done in reviews]}, "\n".join(lines) or "none to review"
    )
    if refusal is None and not all(done.accepted for done in reviews):
        raise typer.Exit(1)


def accept_command(
    contribution: Annotated[list[str], typer.Argument(help="Names or ids.", show_default=False)],
    place: Place = DEFAULT,
    method: Annotated[
        str,
        typer.Option("--method", "-m", help="linear, stock, task_arithmetic, ..., or tangent."),
    ] = "linear",
    parameters: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Parameter, such as scale=0.3.")
    ] = None,
    tasks: Tasks = None,
    limit_memory: LimitMemory = None,
    limit_time: LimitTime = 60.0,
    html: Html = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without a review, and even if a task gets worse.")
    ] = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Bring contributions together into the next version of their line."""
    from stockpot.cli.merge import read_parameters
    from stockpot.community import accept

    with opened(place) as registry:
        done = accept(
            registry,
            contribution,
            method=method,
            parameters=read_parameters(parameters or []),
            meter=_meter(tasks, limit_memory, limit_time),
            force=force,
        )
        line = _line_of(registry, done.round.contributions[0])
        _page(registry, line, html, out)
    value = {
        "model": done.model,
        "version": done.version,
        "round": done.round.to_json(),
        "scores": dict(done.scores),
    }
    words = [f"{line} is at version {done.version}: {done.model[:12]}"]
    words += [
        f"  {name}: {each['mean']:.1%} ({each['low']:.1%} to {each['high']:.1%})"
        for name, each in done.scores.items()
    ]
    out.data(value, "\n".join(words))


def revert_command(
    contribution: Annotated[str, typer.Argument(help="Name or id.")],
    place: Place = DEFAULT,
    why: Annotated[str, typer.Option(help="The reason, to keep with the version.")] = "",
    tasks: Tasks = None,
    limit_memory: LimitMemory = None,
    limit_time: LimitTime = 60.0,
    certificate: Annotated[
        Path | None, typer.Option(help="Tangent component: write what is left of it to this file.")
    ] = None,
    html: Html = None,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Take a contribution back: the next version has the bytes of one that never saw it."""
    from stockpot.community import revert
    from stockpot.community.contribution import COMPONENT, find_contribution

    with opened(place) as registry:
        found = find_contribution(registry, contribution)
        if certificate is not None and found.kind != COMPONENT:
            raise InputError(
                f"{found.name} is a {found.kind}: certificates are for tangent components",
                hint="leave out --certificate; `stockpot registry verify` and the digest tell",
            )
        done = revert(registry, found, meter=_meter(tasks, limit_memory, limit_time), why=why)
        digest = registry.manifest(done.model).digest
        dropped = [find_contribution(registry, each).name for each in done.dropped]
        _page(registry, found.line, html, out)
    if certificate is not None and done.certificate is not None:
        done.certificate.save(certificate)
    value = {
        "model": done.model,
        "digest": digest,
        "version": done.version,
        "contribution": done.contribution,
        "dropped": dropped,
        "rounds": [each.to_json() for each in done.rounds],
        "certificate": done.certificate and done.certificate.to_json(),
    }
    words = f"{found.line} is at version {done.version}: {done.model[:12]}, without {found.name}"
    if dropped:
        words += f"\ntaken back with it, having seen it: {', '.join(dropped)}"
    if done.certificate is not None:
        words += f"\n{_certificate_words(done.certificate)}"
    out.data(value, words)


def _certificate_words(made: Certificate) -> str:
    gap, residue = made.against_composed, made.residue_of_subtracting
    bits = "the bits" if gap.equal_bits else f"NOT the bits (off by {gap.weights:.1e})"
    return (
        f"certificate {made.digest[:12]}: the sum has {bits} of one of the "
        f"{len(made.kept)} kept components; subtracting would have left "
        f"{residue.numbers:,} numbers different, by up to {residue.largest:.1e}"
    )


def _meter(tasks: Path | None, gibibytes: float | None, minutes: float) -> Meter:
    from stockpot.bounded import in_bytes
    from stockpot.community import load_tasks
    from stockpot.community.measuring import Meter

    return Meter([] if tasks is None else load_tasks(tasks), in_bytes(gibibytes), minutes * 60.0)


def _line_of(registry: Registry, contribution: str) -> str:
    from stockpot.community.contribution import find_contribution

    return find_contribution(registry, contribution).line


def _page(registry: Registry, line: str, html: Path | None, out: Any) -> None:
    if html is None:
        return
    from stockpot.report.community import write_community_page

    write_community_page(registry, line, html)
    out.say(f"page: {html}")
