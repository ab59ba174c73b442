"""``stockpot registry sign`` and ``trust``: who stands for a model, and whom this user believes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import Output
from stockpot.cli.registry import DEFAULT, Place, opened
from stockpot.errors import InputError
from stockpot.files import write_text
from stockpot.reading import read_text
from stockpot.signatures import signers_file, trusted_line

if TYPE_CHECKING:
    from stockpot.community import Contribution
    from stockpot.registry import Registry
    from stockpot.registry.signing import Signer

Key = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign it with this SSH key (ssh-keygen -Y)."),
]


def sign_command(
    entry: Annotated[str, typer.Argument(help="A model, or a contribution (name or id).")],
    key: Annotated[Path, typer.Option("--key", "-k", help="SSH key; a public one asks the agent.")],
    place: Place = DEFAULT,
    out: Output = Output(),
) -> None:
    """Sign a model or a contribution with an SSH key: it was you, and it was this."""
    from stockpot.community.contribution import contributions

    with opened(place) as registry:
        proposed = [each for each in contributions(registry) if entry in (each.name, each.id)]
        if len(proposed) == 1:
            made = sign_contribution(registry, proposed[0], key)
        else:
            made = sign_model(registry, registry.find(entry), key)
    out.data({"signed": entry, "signer": asdict(made)}, f"{entry}: signed by {made}")


def trust_command(
    principal: Annotated[
        str | None, typer.Argument(help="Who, such as ada@example.org [default: list all].")
    ] = None,
    key: Annotated[
        Path | None, typer.Argument(help="Their public SSH key, such as ada.pub.")
    ] = None,
    out: Output = Output(),
) -> None:
    """Trust a person's key from now on, or list whom you trust.

    STOCKPOT_SIGNERS names the file, one of OpenSSH's allowed signers.
    """
    path = signers_file()
    try:
        lines = read_text(path).splitlines(keepends=True) if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if principal is not None:
        if key is None:
            raise InputError(f"no key of {principal} was given", hint="add the path of a .pub file")
        line = trusted_line(principal, key)
        if line not in lines:
            lines.append(line)
            write_text(path, "".join(lines))
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    out.data(
        {"signers": str(path), "principals": names},
        "\n".join(names) or f"nobody is trusted yet ({path})",
    )


def sign_model(registry: Registry, ident: str, key: Path) -> Signer:
    """Sign a model by its id."""
    from stockpot.registry.signing import sign_entry

    return sign_entry(registry, "manifest", ident, ident, key)


def sign_contribution(registry: Registry, proposal: Contribution, key: Path) -> Signer:
    """Sign a contribution by its full hash."""
    from stockpot.registry.signing import sign_entry

    return sign_entry(registry, "contribution", proposal.digest, proposal.model, key)
