"""``stockpot tangent show`` and ``check``: what a component says of itself, and whether the
derivative of a model is right."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stockpot.cli.options import AllowCode, check_tangent_packages
from stockpot.cli.output import Output


def show_command(
    components: Annotated[
        list[Path],
        typer.Argument(metavar="COMPONENT", help="Files, or folders of them.", show_default=False),
    ],
    out: Output = Output(),
) -> None:
    """What components hold: base, classes, examples, terms. A corrupted file is refused."""
    from stockpot.tangent.verbs import show

    found = [
        {
            "name": component.task,
            "kind": component.kind,
            "digest": component.digest,
            "base_digest": component.base_digest,
            "head_digest": component.head_digest,
            "classes": list(component.classes),
            "examples": component.examples,
            "data_fingerprint": component.data_fingerprint,
            "seed": component.seed,
            "metrics": dict(component.metrics),
            "settings": dict(component.settings),
            "numbers": sum(tensor.numel() for tensor in component.tensors.values()),
        }
        for component in show(components)
    ]
    out.data({"components": found}, "\n".join(_described(one) for one in found))


def check_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Examples to look at.")] = 8,
    allow_code: AllowCode = False,
    out: Output = Output(),
) -> None:
    """Compare the model's forward-mode derivative with central differences in float64.

    Exits with 1 where they differ by more than one in a thousand.
    """

    check_tangent_packages(recipe)
    from stockpot.tangent.run import check

    model, found = check(recipe, rows)
    for note in model.notes:
        out.say(f"note: {note}, because the fused kernel has no forward-mode derivative")
    holds = found.error < 1e-3
    words = [
        f"{len(model.names)} tensors with a tangent, base {model.base_digest[:12]}",
        f"derivative against differences  {found.error:.1e}  {'ok' if holds else 'WRONG'}",
        f"rounding of {model.precision}  {found.rounding:.1e}",
        f"left out by linearising (1 % of each weight's size)  {found.curvature:.2g}",
    ]
    out.data({**asdict(found), "holds": holds, "notes": list(model.notes)}, "\n".join(words))
    if not holds:
        raise typer.Exit(1)


def _described(one: dict[str, Any]) -> str:
    rows = [
        f"{one['name']}: {one['kind']}, {one['examples']} examples, "
        f"{len(one['classes'])} classes, {one['numbers']} numbers",
        f"  digest {one['digest'][:12]}  base {one['base_digest'][:12]}",
    ]
    rows += [f"  {name} {value:.4g}" for name, value in sorted(one["metrics"].items())]
    for term in one["settings"].get("composed", []):
        rows.append(f"  {term['weight']:+.4f} {term['task']} ({term['digest'][:12]})")
    return "\n".join(rows)
