"""``stockpot tangent forget`` and ``verify``: take a component out, and show that it is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.options import AllowCode, check_tangent_packages
from stockpot.cli.output import Output
from stockpot.errors import InputError

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.schema import Certificate

Run = Annotated[
    Path, typer.Argument(help="The folder `stockpot tangent train` wrote.", show_default=False)
]


def forget_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe.", show_default=False)],
    run: Run,
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Components to forget.", show_default=False),
    ],
    certificate: Annotated[
        Path | None, typer.Option("--output", "-o", help="The certificate [RUN/forgotten-*.json].")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="uniform, sum or examples [default: the composer's own].")
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            help="Forget only this: a position in the data, an image's file, a text, or a row's "
            "hash; repeatable."
        ),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the rest from nothing and compare.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the certificate with this SSH key.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Only write the certificate, delete nothing.")
    ] = False,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Remove components, or examples of one, and write a certificate of what is left of them."""

    check_tangent_packages(recipe)
    from stockpot.tangent.forgetting.run import forget

    if weights not in (None, "uniform", "sum", "examples"):
        raise InputError(f"unknown weights '{weights}'", hint="uniform, sum or examples")
    done = forget(
        recipe,
        run,
        names,
        examples=example or (),
        certificate=certificate,
        weights=weights,  # type: ignore[arg-type]
        retrain=retrain,
        keep=keep,
        sign=sign,
        quiet=out.silent,
    )
    value = {**done.certificate.to_json(), "deleted": [str(path) for path in done.deleted]}
    out.data(value, certificate_words(done.certificate))
    from stockpot.report.certificate import write_certificate

    page = write_certificate(done.certificate, done.path.with_suffix(".html"))
    out.say(f"certificate: {done.path}, for people: {page}")
    for words in done.certificate.outside:
        out.say(f"to be done by you: {words}")


def verify_command(
    certificate: Annotated[Path, typer.Argument(help="The certificate.", show_default=False)],
    recipe: Annotated[Path | None, typer.Option(help="The recipe it was written for.")] = None,
    run: Annotated[Path | None, typer.Option(help="The folder of components.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the rest from nothing and compare.")
    ] = False,
    signers: Annotated[
        Path | None,
        typer.Option(help="Who may have signed: an allowed-signers file of OpenSSH."),
    ] = None,
    out: Output = Output(),
) -> None:
    """Check a certificate, by itself, against the components, and by training anew.

    The removed data is not needed.
    """

    if recipe is not None:
        check_tangent_packages(recipe)
    from stockpot.report.certificate import render_certificate
    from stockpot.tangent.forgetting.run import verify

    found = verify(
        certificate,
        recipe=recipe,
        run=run,
        retrain=retrain,
        signers=signers,
        render=render_certificate,
        quiet=out.silent,
    )
    lines = []
    for one in found.checks:
        lines.append(f"{'holds' if one.holds else 'FAILS':>6}  {one.check}")
        lines += [f"        {words}" for words in one.why]
    lines += [f"  note  {words}" for words in found.notes]
    out.data(found.to_json(), "\n".join(lines))
    if not found.holds:
        raise typer.Exit(1)


def certificate_words(made: Certificate) -> str:
    """A certificate for people."""
    names = ", ".join(one.name for one in made.removed)
    rows = [f"removed: {names}; kept: {len(made.kept)} components"]
    for gap, words in (
        (made.against_composed, "composed without it"),
        (made.against_retrained, "retrained without it"),
    ):
        if gap is not None:
            bits = "the same bits" if gap.equal_bits else "NOT the same bits"
            rows.append(
                f"against a model {words}: {bits}; largest difference in weights "
                f"{gap.weights:.1e}, in outputs {gap.outputs or 0.0:.1e}"
            )
    residue, seconds = made.residue_of_subtracting, made.seconds
    rows.append(
        f"subtracting instead would have left {residue.numbers:,} numbers different, "
        f"by up to {residue.largest:.1e}"
    )
    assert made.accuracy is not None
    assert seconds is not None
    for when, accuracy in (("before", made.accuracy.before), ("after", made.accuracy.after)):
        rows.append(
            f"accuracy {when}: on removed {accuracy.removed:.1%}, on test {accuracy.test:.1%}"
        )
    if made.membership is not None:
        for auc, words in (
            (made.membership.before, "before"),
            (made.membership.after, "after"),
            (made.membership.kept_earlier, "for whoever kept the earlier model"),
        ):
            if auc is not None:
                interval = f"({auc.low:.3f} to {auc.high:.3f}, chance 0.5)"
                rows.append(f"membership AUC {words}: {auc.value:.3f} {interval}")
    said = f"forgetting took {seconds.forgetting:.2g} s"
    if seconds.training_the_rest is not None:
        said += f", training the rest takes {seconds.training_the_rest:.2g} s"
    return "\n".join([*rows, said])
